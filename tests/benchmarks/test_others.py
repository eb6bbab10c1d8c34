"""Other ways to notice masking: exact facts on small models, and nothing raises for any model."""

import math

import pytest
import torch
from torch import nn

from benchmarks.masks.asking import tried
from benchmarks.masks.binarized import Features, discriminator
from benchmarks.masks.indicators import INDICATORS, LIMIT, incomplete, path
from benchmarks.masks.known import AntiAdversary, Purifier, Rounds
from benchmarks.masks.others import (
    Binarized,
    Flags,
    autoattack_flags,
    binarization,
    indicated,
    indicators,
    score,
)
from benchmarks.masks.tricks import (
    DropoutAlways,
    Levelled,
    NaNGradient,
    ThroughNumpy,
    Wrapped,
    secretive,
)
from benchmarks.masks.unusual import NamesOnly, Watches
from helpers.toys import generator, linear_problem
from mpkit.models import small_cnn
from mpkit.sets import L1, L2, Linf

BALL = Linf(0.1)
FLAGS = {"steps": 8, "targets": 2, "queries": 20}
BINARY = {"inner": 20, "steps": 15, "tries": 10}
INDICATED = {"steps": 12, "draws": 5}


def toy(n=16):
    """A network with random weights and images that it labels itself."""
    model = small_cnn((1, 8, 8), 10, generator(3)).eval()
    x = torch.rand(n, 1, 8, 8, generator=generator(4))
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def flat(seed=5, before=()):
    """A linear classifier of 8 x 8 images, behind something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(*before, nn.Flatten(), nn.Linear(64, 10)).eval()


class Detached(nn.Module):
    def forward(self, x):
        return x.detach()


class Raises(nn.Module):
    def forward(self, x):
        raise KeyError("no answer")


def flags(model, x, y, ball=BALL):
    return autoattack_flags(model, x, y, ball, generator(), **FLAGS)


def raised(model, x, y):
    return {name for name, there in flags(model, x, y).items() if there}


def test_an_honest_network_raises_no_flag() -> None:
    found = flags(*toy())
    assert isinstance(found, dict) and list(found.values()) == [False] * 5
    assert score(found) == 0


def test_each_flag_is_raised_by_the_model_that_it_is_about() -> None:
    network, x, y = toy()
    assert "random" in raised(DropoutAlways(network, generator(1)), x, y)
    assert "probabilities" in raised(nn.Sequential(network, nn.Softmax(1)), x, y)
    assert "probabilities" not in raised(nn.Sequential(network, nn.Softplus()), x, y)
    assert "zero gradient" in raised(Rounds(network, None), x, y)
    assert raised(AntiAdversary(network, None), x, y) >= {"dynamic"}
    assert "dynamic" not in raised(network, x, y)


def test_the_share_without_a_gradient_is_that_of_the_images() -> None:
    network, x, y = toy()

    class Some(Wrapped):
        def forward(self, x):
            bright = x.mean((1, 2, 3), keepdim=True) > 0.5
            return self.network(torch.where(bright, x.detach(), x))

    share = flags(Some(network), x, y, Linf(1e-6)).degrees["zero gradient"]
    assert share == float((x.mean((1, 2, 3)) > 0.5).double().mean()) and 0 < share < 1


def test_square_alone_breaks_a_linear_model_whose_gradient_is_cut() -> None:
    """Without a gradient Auto-PGD stays at its random start; squares reach the corners."""
    _, x, _ = toy(40)
    model = flat(before=[Detached()])
    with torch.no_grad():
        y = model(x).argmax(1)
    cut = autoattack_flags(model, x, y, BALL, generator(), steps=3, targets=1, queries=200)
    plain = autoattack_flags(flat(), x, y, BALL, generator(), steps=20, targets=9, queries=200)
    assert cut["square"] and cut["zero gradient"] and cut.degrees["square"] > 0.1
    assert not plain["square"] and plain.degrees["square"] == 0
    assert score(cut) > 1 > score(plain)


def test_flags_are_none_where_they_could_not_be_run() -> None:
    found = Flags({"random": math.nan, "square": 0.001, "dynamic": 1.0}, {"square": 0.002})
    assert found == {"random": None, "square": False, "dynamic": True}
    assert score(found) == pytest.approx(1.001)


def test_features_are_the_input_of_the_last_layer_where_its_output_is_the_models() -> None:
    network, x, _ = toy()
    with torch.no_grad():
        assert torch.equal(Features(network, x)(x), network[:-1](x))
        assert Features(AntiAdversary(network, None), x)(x[:1]).shape == (1, 128)
        scaled = nn.Sequential(network, nn.Softmax(1))
        assert torch.equal(Features(scaled, x)(x), scaled(x))
        assert torch.equal(Features(secretive(network), x)(x), network(x))
    assert Features(network, x)(x.clone().requires_grad_()).requires_grad


def test_the_discriminator_parts_exactly_what_a_plane_can_part() -> None:
    g = generator(6)
    features = torch.randn(5, 30, 40, generator=g, dtype=torch.float64)
    loss, apart = discriminator(features, 3, 0.5)
    assert apart.all()
    scores = torch.stack([loss(point, point) for point in features.unbind(1)], 1)
    assert (scores[:, :-3] < 0).all() and (scores[:, -3:] > 0).all()
    inside = torch.cat([features, features[:, :-3].mean(1, keepdim=True)], 1)
    assert not discriminator(inside, 1, 0.5)[1].any()
    assert not discriminator(torch.ones(2, 9, 4), 1, 0.5)[1].any()


def test_the_border_of_one_point_against_one_is_where_closeness_says() -> None:
    features = torch.tensor([[[0.0, 0.0], [4.0, 0.0]]], dtype=torch.float64)
    for closeness, place in ((0.0, 2.0), (0.5, 3.0), (0.9, 3.8)):
        loss, _ = discriminator(features, 1, closeness)
        at = torch.tensor([[place, 7.0]], dtype=torch.float64)
        assert float(loss(at, at)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("ball", [BALL, L2(0.7), L1(2.0)], ids=str)
def test_the_plant_of_a_linear_model_is_found_and_without_a_gradient_it_is_not(ball) -> None:
    _, x, y = toy()
    found = binarization(flat(), x, y, ball, generator(), **BINARY)
    assert found.rate == 1 and not found.flagged and found.layer
    assert found.tested + found.left_out == len(x) and found.tested > 10
    assert found.random_rate < 0.5 and score(found) == 0
    lost = binarization(flat(before=[Detached()]), x, y, ball, generator(), **BINARY)
    assert lost.rate < 0.5 and lost.flagged and score(lost) == 1 - lost.rate


def test_a_constant_model_leaves_nothing_to_test() -> None:
    _, x, y = toy()
    found = binarization(lambda x: torch.ones(len(x), 10), x, y, BALL, generator(), **BINARY)
    assert math.isnan(found.rate) and not found.flagged
    assert (found.tested, found.left_out, score(found)) == (0, len(x), 0)


def test_the_path_on_a_linear_model_is_known() -> None:
    """Each step goes along the sign of the gradient, until the corner of the ball."""
    model, x, y = linear_problem(7)
    found = path(model, x, y, Linf(0.05), 6, 1 / 3)
    corner = (x + 0.05 * model.weight.detach().sign()).clamp(0, 1)
    assert torch.allclose(found.image, corner)
    assert (found.loss.diff(dim=0) >= 0).all() and len(found.loss) == 7
    assert torch.equal(found.wrong[-1], model(corner).argmax(1) != y)


def test_a_growing_loss_is_incomplete_and_a_settled_one_is_not() -> None:
    steps = torch.arange(20.0)
    loss = torch.stack([steps, steps.clamp(max=5), torch.ones(20), -steps], 1)
    assert incomplete(loss).tolist() == [True, False, False, False]


def test_a_success_that_the_path_leaves_again_is_silent() -> None:
    """Brightness rises past a narrow band of class 1, and the last point is beyond it."""

    class Band(nn.Module):
        def forward(self, x):
            bright = x.mean((1, 2, 3))
            lead = torch.where((bright > 0.53) & (bright < 0.56), bright, bright - 1)
            return torch.stack([torch.zeros_like(lead), lead], 1)

    x, y = torch.full((4, 1, 8, 8), 0.5), torch.zeros(4, dtype=torch.int64)
    values = indicators(Band(), x, y, Linf(0.1), generator(), steps=10, step=0.2, draws=3)
    assert values["silent success"] == 1 and values["unavailable gradients"] == 0
    assert indicated(values) and score(values) == 1


def test_indicators_of_a_linear_model_and_of_one_without_a_gradient() -> None:
    _, x, _ = toy()
    model, cut = flat(), flat(before=[Detached()])
    with torch.no_grad():
        y = model(x).argmax(1)
    honest = indicators(model, x, y, BALL, generator(), **INDICATED)
    assert honest["unavailable gradients"] == honest["silent success"] == 0
    assert honest["unconstrained attack failure"] == 0
    assert math.isnan(honest["transfer failure"])
    same = indicators(model, x, y, BALL, generator(), surrogate=model, **INDICATED)
    assert same["transfer failure"] == 0
    lost = indicators(cut, x, y, BALL, generator(), **INDICATED)
    assert lost["unavailable gradients"] == lost["unconstrained attack failure"] == 1
    assert indicated(lost) and score(lost) == 1
    assert not indicated({"a": LIMIT, "b": math.nan}) and indicated({"a": LIMIT + 0.01})
    assert score(dict.fromkeys(INDICATORS, math.nan)) == 0


class Writes(Wrapped):
    """Changes the images that it is given."""

    def forward(self, x):
        return self.network(x.detach().mul_(0.9))


STRANGE = {
    "writes": Writes,
    "none": lambda network: network,
    "random": lambda network: DropoutAlways(network, generator(1)),
    "random and cut": lambda network: Purifier(network, generator(1)),
    "numpy": ThroughNumpy,
    "nan gradient": NaNGradient,
    "batch": Levelled,
    "function": secretive,
    "names": NamesOnly,
    "watches": lambda network: Watches(network, flat()),
    "probabilities": lambda network: nn.Sequential(network, nn.Softmax(1)),
    "one output": lambda network: nn.Sequential(network, nn.Linear(10, 1)),
    "nan": lambda network: lambda x: network(x) * math.nan,
    "infinite": lambda network: lambda x: network(x) * math.inf,
    "raises": lambda network: Raises(),
}


@pytest.mark.parametrize("name", STRANGE)
def test_nothing_raises_and_all_numbers_are_shares(name) -> None:
    network, x, y = toy(8)
    model, before = STRANGE[name](network), x.clone()
    found = flags(model, x, y)
    assert len(found) == 5 and set(found.values()) <= {True, False, None}
    known = [value for value in found.degrees.values() if not math.isnan(value)]
    assert all(0 <= value <= 1 for value in known)
    plants = binarization(model, x, y, BALL, generator(), **BINARY)
    assert isinstance(plants, Binarized) and plants.tested + plants.left_out == len(x)
    values = indicators(model, x, y, BALL, generator(), surrogate=network, **INDICATED)
    assert tuple(values) == INDICATORS and torch.equal(x, before)
    assert all(0 <= value <= 1 for value in values.values() if not math.isnan(value))
    for result in (found, plants, values):
        assert math.isfinite(score(result)) and score(result) >= 0


def test_a_model_is_left_in_its_mode_and_equal_generators_give_equal_results() -> None:
    network, x, y = toy(8)
    network.train()
    runs = [
        (
            flags(network, x, y).degrees,
            binarization(network, x, y, BALL, generator(), **BINARY),
            str(indicators(network, x, y, BALL, generator(), **INDICATED)),
        )
        for _ in range(2)
    ]
    assert runs[0] == runs[1] and network.training


def test_what_cannot_be_run_is_replaced() -> None:
    assert tried(lambda: 1 / 0, 7.0) == 7.0
    assert tried(lambda: 3.0, 7.0) == 3.0
