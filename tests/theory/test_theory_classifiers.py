"""No classifier goes below the bounds, however trained; an adversary with a bug is found out."""

from dataclasses import dataclass

import pytest
import torch

from mpbook.theory import (
    FlipStrong,
    FrankWolfe,
    L1Ball,
    Linear,
    LinfBall,
    Network,
    NeymanPearson,
    Plant,
    Risks,
    ShiftWeak,
    StrongBit,
    StrongPixel,
    SwapBound,
    ThreeViews,
    WorstOf,
    WorstSwap,
    floor,
    measure,
    mix,
    simple_classifiers,
    train,
    two_sample,
)
from mpbook.theory.adversaries import swap
from mpbook.theory.montecarlo import Tally
from mpkit.core.statistics import mean_of, proportion

LEVEL = 0.9999


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def candidates(model, maps, rng):
    """Simple classifiers, and networks trained on the attacked distribution itself."""
    yield from simple_classifiers(model).values()
    averaged, worst = tuple(maps.values()), (WorstOf(tuple(maps.values())),)
    for widths, adversaries in (((), averaged), ((32,), averaged), ((32,), worst)):
        yield train(Network(model.d, widths, rng), model, adversaries, 400, rng)


def lowest_average(model, maps, extra=()) -> float:
    """The smallest upper end of R_avg's interval over the zoo."""
    rng = generator(0)
    classifiers = [*candidates(model, maps, rng), *extra]
    return min(measure(f, model, maps, 30_000, rng).average(LEVEL).high for f in classifiers)


@dataclass(frozen=True)
class OneCoordinateTooFew:
    """The planted bug: the last weak feature stays where it was."""

    amount: float

    def __call__(self, f, x, y, rng):
        moved = ShiftWeak(self.amount)(f, x, y, rng)
        moved[:, -1] = x[:, -1]
        return moved


@dataclass(frozen=True)
class AnySwap:
    """Another planted bug: the candidate is drawn without regard to its value."""

    n: int

    def __call__(self, f, x, y, rng):
        return swap(x, torch.randint(1, self.n + 1, (len(x),), generator=rng))


BIT = StrongBit(d=4, alpha=2.0, p=0.8)
PIXEL = StrongPixel(d=36, alpha=2.0, s=0.5, swaps=36)


def test_nothing_in_the_zoo_goes_below_theorem_1():
    assert lowest_average(BIT, {"linf": ShiftWeak(2 * BIT.eta), "l1": FlipStrong()}) >= 0.5


def test_the_check_of_theorem_1_finds_a_coordinate_that_did_not_move():
    maps = {"linf": OneCoordinateTooFew(2 * BIT.eta), "l1": FlipStrong()}
    assert lowest_average(BIT, maps) < 0.4


def test_nothing_in_the_zoo_goes_below_theorem_2():
    maps = {"linf": ShiftWeak(2 * PIXEL.eta), "rt": Plant(PIXEL)}
    lowest = lowest_average(PIXEL, maps, (NeymanPearson(PIXEL),))
    assert SwapBound(PIXEL).average_risk <= lowest <= 0.45


@pytest.mark.parametrize(
    "maps",
    [
        {"linf": OneCoordinateTooFew(2 * PIXEL.eta), "rt": Plant(PIXEL)},
        {"linf": ShiftWeak(2 * PIXEL.eta), "rt": AnySwap(36)},
    ],
)
def test_the_check_of_theorem_2_finds_both_bugs(maps):
    assert lowest_average(PIXEL, maps, (NeymanPearson(PIXEL),)) < SwapBound(PIXEL).average_risk


def test_adversarial_training_ends_in_the_corners_of_the_floor():
    """Each adversary's training finds its own corner; max finds only the constant."""
    model = StrongBit(d=64, alpha=2.0, p=0.9)
    linf = WorstOf((ShiftWeak(2 * model.eta), FrankWolfe(LinfBall(2 * model.eta), 5)))
    l1 = WorstOf((FlipStrong(), FrankWolfe(L1Ball(2.0), 5)))
    points = {}
    for name, adversaries in {"linf": (linf,), "l1": (l1,), "max": (WorstOf((linf, l1)),)}.items():
        rng = generator(1)
        f = train(Network(model.d, (32,), rng), model, adversaries, 400, rng)
        tally = measure(f, model, {"linf": linf, "l1": l1}, 10_000, rng)
        points[name] = (tally.risk("linf", LEVEL), tally.risk("l1", LEVEL))
        assert tally.average(LEVEL).high >= 0.5
    corners = {"linf": (0.1, 1.0), "l1": (0.977, 0.023), "max": (0.5, 0.5)}
    for name, corner in corners.items():
        assert [risk.value for risk in points[name]] == pytest.approx(corner, abs=0.03)
    high = torch.tensor([[r.high for r in pair] for pair in points.values()]).double()
    assert (floor(model).slack(Risks(high[:, 0], high[:, 1])) >= 0).all()


def test_training_needs_no_global_seed_and_repeats():
    def run():
        rng = generator(7)
        f = train(Network(3, (4,), rng), StrongBit(3, 1.0, 0.9), (FlipStrong(),), 5, rng)
        return f(torch.ones(2, 4, dtype=torch.float64)).detach()

    first = run()
    torch.manual_seed(99)
    assert torch.equal(first, run())


def test_two_robust_models_make_no_robust_ensemble():
    """No share of the two experts resists both adversaries, though a third model does."""
    world, rng = ThreeViews(), generator(0)
    first, second, quiet = world.views()
    risks = {
        share: measure(mix(first, second, share), world, world.adversaries(), 100, rng)
        for share in torch.linspace(0, 1, 21).tolist()
    }
    assert all(tally.worst().value == 1 for tally in risks.values())
    assert risks[1.0].risk("second").value == 0 == risks[0.0].risk("first").value
    assert risks[0.0].average().value == 0.5 == risks[1.0].average().value
    assert risks[0.5].average().value == 1
    assert measure(quiet, world, world.adversaries(), 100, rng).worst().value == 0


def test_average_and_worst_risk_from_one_tally():
    tally = Tally({"a": torch.tensor([1, 1, 0, 0]).bool(), "b": torch.tensor([0, 1, 1, 0]).bool()})
    assert tally.risk("a").value == 0.5
    assert tally.worst().value == 0.75
    assert tally.average().value == 0.5


def test_a_score_of_zero_counts_as_an_error():
    zero = Linear(torch.zeros(5, dtype=torch.float64))
    tally = measure(zero, BIT, {"flip": FlipStrong()}, 10, generator(5))
    assert tally.wrong["flip"].all()


@pytest.mark.parametrize("k", [0, 1, 13, 40])
def test_clopper_pearson_against_the_binomial_law(k):
    """At each end of the interval the observed count is just barely too far out."""
    from scipy.stats import binom

    wrong = torch.arange(40) < k
    estimate = proportion(wrong, 0.95)
    if k > 0:
        assert binom.sf(k - 1, 40, estimate.low) == pytest.approx(0.025, abs=1e-9)
    if k < 40:
        assert binom.cdf(k, 40, estimate.high) == pytest.approx(0.025, abs=1e-9)
    assert estimate.low <= estimate.value <= estimate.high


def test_the_normal_interval_covers_as_often_as_it_says():
    draws = torch.rand(4000, 200, generator=generator(2), dtype=torch.float64)
    hits = torch.tensor([mean_of(row, 0.9).holds(0.5) for row in draws])
    assert proportion(hits, 0.999).holds(0.9)


def test_p_values_of_equal_laws_are_uniform():
    rng = generator(3)
    p = [
        two_sample(torch.randn(30, 3, generator=rng), torch.randn(30, 3, generator=rng), rng, 99)
        for _ in range(400)
    ]
    low = torch.tensor(p) <= 0.1
    assert proportion(low, 0.999).holds(0.1)


def test_worst_swap_beats_plant_on_any_classifier():
    rng = generator(4)
    maps = {"plant": Plant(PIXEL), "worst": WorstSwap(36)}
    tally = measure(Network(36, (16,), rng), PIXEL, maps, 2000, rng)
    assert not (tally.wrong["plant"] & ~tally.wrong["worst"]).any()
