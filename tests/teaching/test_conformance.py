"""The oracle for attacks finds every planted defect and passes ours; the record is sound."""

import json
import re
import tomllib

import pytest
import torch
from torch import nn

from helpers import ROOT, oracles
from helpers.toys import generator, linear_problem, relu_net
from mpbook.teaching import published_variants
from mpkit.attacks import APGD, FMN, PGD, SLIDE, BoundaryStart, Clean, Falling, Margin
from mpkit.audit.conformance import brought_back, membership, ours, traces
from mpkit.audit.known_optima import best_linear, misplaced, nearest_l1, nearest_l2, reach
from mpkit.core.records import read_record
from mpkit.core.statistics import mean_of
from mpkit.models import QueryCounter
from mpkit.sets import L1, L2, Linf
from mpkit.studies.analysis import bits

BALLS = [Linf(0.2), L2(0.8), L1(2.0)]
SHAPE = (1, 6, 6)


def problem(n=12):
    model = relu_net(3, inputs=12, classes=4, dtype=torch.float32)
    x = torch.rand(n, 1, 3, 4, generator=generator(1))
    return model, x, model(x).argmax(1)


def kept(attack, ball=None):
    """What the oracle says of the images that an attack of ours returns."""
    model, x, y = problem()
    return membership(ball or attack.set, x, ours(attack)(model, x, y))


@pytest.mark.parametrize("ball", [*BALLS, L2(50.0)])
def test_best_linear_is_the_slow_answer(ball):
    _, x, _ = linear_problem(0)
    w = torch.randn(1, 3, 4, generator=generator(2), dtype=torch.float64)
    slow = [
        oracles.best_linear(type(ball).__name__, w.flatten().numpy(), one.numpy(), ball.eps)
        for one in x.flatten(1)
    ]
    torch.testing.assert_close(best_linear(ball, w, x), x.new_tensor(slow))


def test_best_linear_knows_three_balls_only():
    class Round:
        def __init__(self, eps):
            self.eps = eps

    with pytest.raises(TypeError, match="Linf, L2 or L1"):
        best_linear(Round(1.0), torch.ones(1, 2, 2), torch.ones(1, 1, 2, 2))


def test_sorted_projections_are_the_slow_answer():
    d = torch.randn(6, 20, generator=generator(), dtype=torch.float64)
    d[0] *= 0.01
    for one, near in zip(d, nearest_l1(d, 2.0), strict=True):
        torch.testing.assert_close(near, torch.from_numpy(oracles.nearest_l1(one.numpy(), 2.0)))
    torch.testing.assert_close(nearest_l2(d, 2.0)[0], d[0])
    torch.testing.assert_close(nearest_l2(d, 2.0).norm(dim=1)[1:], torch.full((5,), 2.0).double())


@pytest.mark.parametrize("ball", BALLS)
def test_the_oracle_passes_ours(ball):
    attacks = [PGD(ball, 20), APGD(ball, 20), FMN(ball, 20, start=BoundaryStart())]
    for attack in attacks:
        assert kept(attack).outside == 0, attack
        assert not any(traces(ours(attack))), attack
    assert reach(ours(PGD(ball, 60, loss=Margin(), schedule=Falling())), ball, SHAPE) >= 0.95
    assert reach(ours(APGD(ball, 60, Margin())), ball, SHAPE) >= 0.95


def test_ours_projects_exactly():
    for ball in (L1(10.0), L2(2.0)):
        assert max(misplaced(ball.shrink, ball)) < 1e-5


def in_the_open(ball):
    """A projection without a box, from one of our balls that would mind it, for rows."""

    def project(d):
        middle = torch.full_like(d, 0.5).view(-1, 1, 1, d.shape[1])
        shrunk = 1e-3 * d.view_as(middle)  # so short that no wall is near
        return 1e3 * type(ball)(1e-3 * ball.eps).project(middle, shrunk).flatten(1)

    return project


def test_it_finds_a_threshold_with_one_entry_too_many():
    found = misplaced(in_the_open(published_variants.OneTooMany(10.0)), L1(10.0))
    assert found.beyond > 0.1
    assert found.moved > 0.01
    assert kept(SLIDE(published_variants.OneTooMany(0.5), 20, quantile=0.9), L1(0.5)).outside > 0.5


def test_it_finds_radial_scaling_in_place_of_a_projection():
    found = misplaced(in_the_open(published_variants.Rescaled(10.0)), L1(10.0))
    assert found.distance > 0.1
    assert found.beyond < 1e-3
    assert kept(SLIDE(published_variants.Rescaled(0.5), 20, quantile=0.9), L1(0.5)).outside == 0
    attack = APGD(published_variants.Rescaled(2.0), 60, Margin())
    assert reach(ours(attack), L1(2.0), SHAPE) < reach(
        ours(APGD(L1(2.0), 60, Margin())), L1(2.0), SHAPE
    )


def test_it_finds_that_the_box_is_ignored():
    found = kept(SLIDE(published_variants.BoxIgnored(3.0), 20), L1(3.0))
    assert found.outside > 0.5
    assert found.worst > 0.1


def test_it_finds_a_start_outside_of_the_set():
    attack = PGD(Linf(0.1), 1, step=1e-6, start=published_variants.StartClippedToOne())
    assert kept(PGD(Linf(0.1), 1, step=1e-6, start=Clean())).outside == 0
    model, x, y = problem()
    seen = QueryCounter(model).eval()
    ours(attack)(seen, x, y)
    assert membership(Linf(0.1), x, seen.first).outside == 1


def test_it_finds_a_sign_step_in_l1():
    ball = L1(2.0)
    dense = SLIDE(ball, 40, quantile=0.0, loss=Margin())
    sparse = SLIDE(ball, 40, quantile=0.9, loss=Margin())
    assert reach(ours(dense), ball, SHAPE) < 0.8 <= reach(ours(sparse), ball, SHAPE)


def untidy(model, x, y):
    """One step in the sign of the gradient, with every trace there is."""
    model.eval()
    model.train()
    model[2].weight.requires_grad_(False)
    x.requires_grad_()
    nn.functional.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        x += 0.1 * x.grad.sign()
    return x.detach()


def test_it_finds_every_trace():
    assert all(traces(untidy))


def test_traces_are_told_apart():
    def leaves_the_mode(model, x, y):
        model.eval()
        return x

    def trains(model, x, y):
        model(x)
        return x

    assert [k for k, v in traces(leaves_the_mode)._asdict().items() if v] == ["mode"]
    found = [k for k, v in traces(trains)._asdict().items() if v]
    assert found == ["training", "buffers"]
    assert not any(traces(lambda model, x, y: x))


def test_gradients_are_counted_and_change_nothing():
    model, x, y = problem()
    seen = QueryCounter(model).eval()
    image = ours(PGD(Linf(0.2), 7))(seen, x, y)
    assert (seen.calls, seen.backwards, seen.forwards) == (7, 7 * len(x), 8 * len(x))
    assert torch.equal(image, ours(PGD(Linf(0.2), 7))(model, x, y))
    assert seen.first is not None and seen.first.shape == x.shape


def test_a_gradient_for_each_class_counts_as_many():
    model, x, _ = problem()
    seen = QueryCounter(model)
    logits = seen(x.requires_grad_())
    for k in range(4):
        torch.autograd.grad(logits[:, k].sum(), x, retain_graph=True)
    with torch.no_grad():
        seen(x)
    assert (seen.calls, seen.backwards, seen.forwards) == (4, 4 * len(x), 2 * len(x))


@pytest.mark.parametrize("ball", BALLS)
def test_bringing_back(ball):
    _, x, _ = problem()
    inside = x + ball.sample(x, generator())
    assert torch.equal(brought_back(ball, x, inside), inside)
    outside = x + 2 * torch.randn(x.shape, generator=generator())
    outside[0, 0, 0, 0] = torch.nan
    assert membership(ball, x, outside).outside == 1
    assert membership(ball, x, outside).worst == torch.inf
    assert membership(ball, x, brought_back(ball, x, outside)).outside == 0


RECORD = ROOT / "book" / "results" / "conformance.json"
LIBRARIES = {
    "mpkit": "mpkit",
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "ART": "adversarial-robustness-toolbox",
    "cleverhans": "cleverhans",
    "adv-lib": "adv-lib",
}


def rows(record):
    return [
        (name, part["norm"], row)
        for name, one in record["libraries"].items()
        for part in one["strength"]
        for row in part["rows"]
    ]


def test_record_names_the_pinned_versions():
    record = read_record(RECORD)
    pins = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [one for one in pins["optional-dependencies"]["compare"] if "< '3.12'" not in one]
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", "\n".join(pins), re.MULTILINE))
    for name, package in LIBRARIES.items():
        if name != "mpkit":
            assert record["libraries"][name]["version"] == pins[package]
    for field in ("parameters", "versions", "device", "commit", "commit_date", "duration_s"):
        assert record[field]
    commits = [one for part in record["libraries"].values() for one in part["commits"].values()]
    assert not any(commit.endswith("+") for commit in [record["commit"], *commits])


def test_record_counts_equal_gradients_on_equal_images():
    record = read_record(RECORD)
    points = record["parameters"]["points"]
    assert points >= 500
    assert record["parameters"]["pilot"][0] >= points
    cases = {name: set() for name in LIBRARIES}
    for name, norm, row in rows(record):
        cases[name].add((norm, row["network"], row["budget"]))
        assert row["gradients"] <= row["budget"] + 1, (name, row["attack"])
        shares = [share for share in row["pilot"].values() if not isinstance(share, str)]
        assert row["pilot"][row["attack"]] == min(shares)
        stands = torch.stack([bits(each) for each in row["standing"]]).double()
        assert stands.shape == (len(record["parameters"]["seeds"]), points)
        value, low, high = row["accuracy"]
        assert low <= value <= high
        assert [value, low, high] == pytest.approx(list(mean_of(stands.mean(0))), abs=1e-4)
    assert all(one == cases["mpkit"] for one in cases.values())


def test_record_compares_with_the_best_of_the_others():
    record = read_record(RECORD)
    for row in record["comparison"]:
        shares = row["accuracy"]
        others = {name: share for name, share in shares.items() if name != "mpkit"}
        assert others[row["best peer"]] == min(others.values())
        value, low, high = row["ours minus best"]
        assert value == pytest.approx(shares["mpkit"] - min(others.values()), abs=1e-4)
        assert low <= value <= high
        assert row["within"] == (value <= 0.005 + 1e-9)


def test_ours_kept_every_set_and_left_nothing():
    ours = read_record(RECORD)["libraries"]["mpkit"]
    for part in ours["strength"]:
        assert all(row["outside"] == 0 for row in part["rows"])
        assert not any(any(one.values()) for one in part["traces"].values())
    for named in ours["promises"].values():
        assert named
        assert all(one["outside"] == 0 for one in named.values())
    for named in ours["projections"].values():
        assert all(max(one.values()) < 1e-5 for one in named.values())


def test_page_reads_the_record_and_prints_its_numbers():
    page = json.loads((ROOT / "book" / "conformance.ipynb").read_text())
    code = [cell for cell in page["cells"] if cell["cell_type"] == "code"]
    assert any('results("conformance.json")' in "".join(cell["source"]) for cell in code)
    printed = "\n".join(
        "".join(output.get("text") or output["data"].get("text/plain", ""))
        for cell in code
        for output in cell["outputs"]
    )
    record = read_record(RECORD)
    for row in record["comparison"]:
        for share in row["accuracy"].values():
            assert re.search(rf"(?<![\d.]){100 * share:.1f}(?!\d)", printed), (row["norm"], share)
