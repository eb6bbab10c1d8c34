"""The union gauge: exact on linear networks, the ledger at scale 1, and kept when interrupted."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from helpers.toys import generator, relu_net
from mpkit.cli.main import main
from mpkit.core.files import DataError
from mpkit.evaluation import EachSet, Gauge, evaluate, gauge, gauge_summary, standard
from mpkit.evaluation import gauge as search
from mpkit.sets import L2, Ball, Linf, PerturbationSet, Union, parse_threat
from mpkit.studies.zoo import SHIPPED

BALLS = parse_threat("linf:0.05 + l2:0.3 + l1:1")


def linear_network(dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear network of five classes on 5 x 5 images; two labels are wrong."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(25, 5)).to(dtype)
    x = torch.rand(8, 1, 5, 5, generator=generator(1)).to(dtype)
    y = net(x).argmax(1).detach()
    y[:2] = (y[:2] + 1) % 5
    return net, x, y


def closed_form(net: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Tensor:
    """The least scale over all pairs of classes, each by halving the scale of its best point."""
    weight, x = net[1].weight.detach().double(), x.double()
    logits = net.double()(x).detach()
    best = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for k in range(logits.shape[1]):
        slope = (weight[k] - weight[y]).view_as(x)
        need = logits.gather(1, y.unsqueeze(1)).squeeze(1) - logits[:, k]
        for i in range(len(x)):
            if k == y[i]:
                continue
            low, high = 0.0, 1000.0
            for _ in range(70):
                middle = (low + high) / 2
                reach = greatest(slope[i].flatten(), x[i].flatten(), ball, middle)
                low, high = (low, middle) if reach >= need[i] else (middle, high)
            best[i] = best[i].minimum(torch.tensor(high)) if high < 1000 else best[i]
    best[logits.argmax(1) != y] = 0
    return best


def greatest(g: Tensor, x: Tensor, ball: Ball, scale: float) -> float:
    """The greatest <g, z> over the scaled ball and the box."""
    room, size, eps = torch.where(g > 0, 1 - x, x), g.abs(), float(ball.eps) * scale
    if ball.order == 1:
        order = size.argsort(descending=True)
        spent = (eps - (room[order].cumsum(0) - room[order])).clamp(min=0)
        return float((size[order] * spent.minimum(room[order])).sum())
    if ball.order != 2:
        return float((size * room.clamp(max=eps)).sum())
    low, high = 0.0, 1e6
    for _ in range(80):
        middle = (low + high) / 2
        short = float((size * middle).minimum(room).norm()) < eps
        low, high = (middle, high) if short else (low, middle)
    return float((size * (size * low).minimum(room)).sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_on_linear_networks_the_gauge_is_the_closed_form(dtype: torch.dtype) -> None:
    net, x, y = linear_network(dtype)
    found = gauge(net, x, y, BALLS, generator(), classes=5, most=20, rounds=1)
    truth = {ball.describe(): closed_form(net, x, y, ball) for ball in BALLS.parts()}
    for name, scales in truth.items():
        assert (found.scales[name] - scales).abs().div(scales.clamp(min=1e-9)).max() < 1e-4, name
    union = torch.stack(list(truth.values())).amin(0)
    assert torch.allclose(found.union, union, rtol=1e-4)
    assert found.accuracy(0).value == 6 / 8
    assert sum(found.binding().values()) == 6


THREAT = "linf:0.1 + l2:0.4 + l1:1 + l0:2 + rt:1px,20deg + affine(rt:1px,20deg & linf:0.05)"


def small_problem() -> tuple[nn.Module, Tensor, Tensor]:
    net = relu_net(0, inputs=16, classes=4, dtype=torch.float32)
    x = torch.rand(8, 1, 4, 4, generator=generator(1))
    y = net(x).argmax(1).detach()
    y[0] = (y[0] + 1) % 4
    return net, x, y


@pytest.fixture(scope="module")
def found() -> Gauge:
    return gauge(*small_problem(), parse_threat(THREAT), generator(), classes=4, rounds=3)


def test_at_scale_1_every_success_of_the_suite_is_there(found: Gauge) -> None:
    net, x, y = small_problem()
    suite = standard(parse_threat(THREAT), "quick", 4)
    ledger = evaluate(net, x, y, suite, generator(), goal=EachSet())
    for name in ledger.sets:
        assert bool((found.scales[name][ledger.broken_in(name)] <= 1).all()), name
    assert found.accuracy(1).value <= ledger.union_accuracy().value
    assert found.scales["linf:0.1"][0] == 0


def test_a_scale_is_reached_by_a_break_of_that_size(found: Gauge) -> None:
    """The suite at the scale that was found, and a grain more, breaks; the clean image does not."""
    net, x, y = small_problem()
    for part in parse_threat(THREAT).parts()[:3]:
        scale = found.scales[part.describe()]
        rows = ((scale > 0) & scale.isfinite()).nonzero().squeeze(1)
        wide = part.scaled((scale[rows] * 1.05).float())
        suite = standard(wide, "standard", 4)
        ledger = evaluate(net, x[rows], y[rows], suite, generator())
        assert int(ledger.broken.any(0).sum()) >= len(rows) - 1


def test_accuracy_falls_with_the_scale_and_the_area_is_its_integral(found: Gauge) -> None:
    scales = torch.linspace(0, found.most, 161)
    for name in (None, *found.scales):
        curve = torch.tensor([found.accuracy(float(s), name).value for s in scales])
        assert bool((curve.diff() <= 0).all())
        area = torch.trapezoid(curve, scales)
        assert float(area) == pytest.approx(found.area(name).value, abs=0.02)
    assert bool((found.union <= found.scales["l1:1"]).all())


def test_pixels_come_in_whole_numbers(found: Gauge) -> None:
    scales = found.scales["l0:2"]
    pixels = scales[scales.isfinite()] * 2
    assert torch.equal(pixels, pixels.round())


@pytest.mark.parametrize("words", ["linf:0.1", "l2:0.4", "l1:1", "l0:2", "rt:1px,20deg"])
def test_a_set_holds_its_samples_at_their_gauge_and_no_less(words: str) -> None:
    part, x = parse_threat(words).parts()[0], torch.rand(20, 1, 4, 4, generator=generator(2))
    z = part.sample(x.double(), generator(3))
    own, halved = part.gauge(x, z), PerturbationSet.gauge(part, x.double(), z)
    assert torch.allclose(own, halved, rtol=1e-5) or words.startswith("l0")
    assert bool((own <= 1 + 1e-9).all())
    assert bool((own <= halved * (1 + 1e-9)).all())


def test_a_mixture_finds_its_gauge_by_halving() -> None:
    part = parse_threat("affine(rt:1px,20deg & linf:0.1)").parts()[0]
    x = torch.rand(20, 1, 4, 4, generator=generator(2), dtype=torch.float64)
    z = part.sample(x, generator(3))
    scale = part.gauge(x, z)
    assert bool(part.scaled(scale).contains(x, z).all())
    assert not bool(part.scaled(scale * 0.999).contains(x, z)[scale > 0].any())
    assert bool((scale <= 1 + 1e-9).all())


def test_a_stopped_search_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    net, x, y = small_problem()
    threat, settings = Union(Linf(0.1), L2(0.4)), {"classes": 4, "rounds": 1, "batch": 4}
    whole = gauge(net, x, y, threat, generator(), **settings)
    calls, file = 0, tmp_path / "scales.safetensors"

    class Stopped(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == stop:
                raise KeyboardInterrupt
            return net(images)

    model, stop = Stopped(), -1
    gauge(model, x, y, threat, generator(), **settings)
    stop, calls = calls // 2, 0
    with pytest.raises(KeyboardInterrupt):
        gauge(model, x, y, threat, generator(), file=file, **settings)
    stop, calls = -1, 0
    again = gauge(model, x, y, threat, generator(), file=file, **settings)
    for name, scales in whole.scales.items():
        assert torch.equal(again.scales[name], scales)
    calls = 0
    gauge(model, x, y, threat, generator(), file=file, **settings)
    assert calls < 10  # only who it is was asked
    with pytest.raises(DataError, match="belongs to another search"):
        gauge(model, x, y, Union(Linf(0.2), L2(0.4)), generator(), file=file, **settings)


@pytest.mark.parametrize(
    "wrong", [{"most": 0.5}, {"most": float("inf")}, {"rounds": -1}, {"batch": 0}]
)
def test_unfit_numbers_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gauge: "):
        search(*small_problem(), Linf(0.1), generator(), **wrong)


def test_the_command_prints_a_table_and_keeps_a_record(tmp_path: Path) -> None:
    weights = SHIPPED / "digits" / "digits-max" / "weights.safetensors"
    words = f"gauge --model small_cnn --weights {weights} --points 6 --rounds 1 --threat linf:0.15"
    done = CliRunner().invoke(main, [*words.split(), "--output", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "median scale" in done.output and "union" in done.output
    record = json.loads((tmp_path / "record.json").read_text())
    assert len(record["gauge"]["sets"]["union"]["scales"]) == 6
    assert (tmp_path / "gauge.png").is_file()


def test_a_summary_says_none_where_nothing_was_found() -> None:
    made = Gauge({"linf:0.1": torch.tensor([0.5, torch.inf, torch.inf], dtype=torch.float64)}, 4.0)
    union = gauge_summary(made)["sets"]["union"]
    assert union["scales"] == [0.5, None, None] and union["median"] is None
    assert made.binding() == {"linf:0.1": 1}
