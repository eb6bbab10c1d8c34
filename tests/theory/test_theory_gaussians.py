"""Closed forms of the two Gaussian models: against simulation, and against a second derivation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.proofs import fair_mean, strong_only_swap_risk
from mpbook.theory import (
    FlipStrong,
    L1Ball,
    Linear,
    LinfBall,
    ShiftWeak,
    StrongBit,
    StrongPixel,
    WorstSwap,
    measure,
    mix,
    normal_cdf,
    spread,
)
from mpbook.theory.linear import Nothing, OnSome, chance_of_error

EXAMPLES = 25
# All intervals of one property hold together with probability 99.9 %.
LEVEL = 1 - 0.001 / EXAMPLES
drawn = settings(derandomize=True, deadline=None, max_examples=EXAMPLES, database=None)
seeds = st.integers(0, 2**31)
bits = st.builds(StrongBit, st.integers(1, 40), st.floats(0.2, 3), st.floats(0.5, 1))
pixels = st.builds(
    StrongPixel, st.integers(5, 40), st.floats(0.2, 3), st.floats(0.2, 1), st.integers(1, 5)
)
models = st.one_of(bits, pixels)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_linear(d: int, rng: torch.Generator) -> Linear:
    weight = torch.randn(d + 1, generator=rng, dtype=torch.float64)
    weight[0] *= 3
    return Linear(weight, float(torch.randn((), generator=rng)))


def reaches(d: int) -> dict[str, Linear]:
    return {
        "clean": Nothing(),
        "linf": LinfBall(0.3),
        "l1": L1Ball(1.5),
        "some": OnSome((0, d), 0.7),
    }


@drawn
@given(models, seeds)
def test_linear_risks_agree_with_simulation(model, seed):
    rng = generator(seed)
    f, adversaries = some_linear(model.d, rng), reaches(model.d)
    tally = measure(f, model, adversaries, 40_000, rng)
    level = 1 - (1 - LEVEL) / len(adversaries)
    for name, reach in adversaries.items():
        assert tally.risk(name, level).holds(model.linear_risk(f, reach)), name


@drawn
@given(models)
def test_bayes_risk_has_two_derivations(model):
    """The printed formula, and the risk of the Bayes rule as a linear classifier."""
    assert model.linear_risk(model.bayes()) == pytest.approx(model.bayes_risk(), abs=1e-12)


@drawn
@given(bits)
def test_bayes_risk_by_quadrature(model):
    """Half the overlap of the two laws of (x_0, T), T = Σ x_i / √d."""
    from scipy.integrate import quad

    def overlap(bit: int, t: float) -> float:
        plus = (model.p if bit > 0 else 1 - model.p) * density(t - model.alpha)
        minus = (model.p if bit < 0 else 1 - model.p) * density(t + model.alpha)
        return min(plus, minus)

    def density(z: float) -> float:
        return math.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)

    odds = model.p / (1 - model.p) if model.p < 1 else 1.0
    kink = math.log(odds) / (2 * model.alpha)
    kinks = (-kink, kink) if kink < 12 else None
    parts = (quad(lambda t, b=b: overlap(b, t), -12, 12, points=kinks)[0] for b in (-1, 1))
    assert sum(parts) / 2 == pytest.approx(model.bayes_risk(), abs=1e-7)


@drawn
@given(models, seeds)
def test_no_linear_classifier_beats_bayes(model, seed):
    f = some_linear(model.d, generator(seed))
    assert model.linear_risk(f) >= model.bayes_risk() - 1e-12
    near = mix(f, model.bayes(), 0.05)
    assert model.linear_risk(near) >= model.bayes_risk() - 1e-12


def test_log_odds_by_algebra():
    """Sympy: the log-odds of one weak feature and of the strong one."""
    import sympy

    x, eta, s = sympy.symbols("x eta s", positive=True)

    def log_density(v, mean, sd):
        return -(((v - mean) / sd) ** 2) / 2 - sympy.log(sd)

    weak = log_density(x, eta, 1) - log_density(x, -eta, 1)
    strong = log_density(x, 1, s) - log_density(x, -1, s)
    assert sympy.simplify(weak - 2 * eta * x) == 0
    assert sympy.simplify(strong - 2 * x / s**2) == 0


@drawn
@given(bits, seeds)
def test_the_proof_maps_on_linear_classifiers(model, seed):
    """A shift by 2ηy mirrors the weak features, a flip mirrors the strong one."""
    rng = generator(seed)
    f = some_linear(model.d, rng)
    maps = {"shift": ShiftWeak(2 * model.eta), "flip": FlipStrong()}
    tally = measure(f, model, maps, 20_000, rng)
    mirrored = Linear(torch.cat([f.weight[:1], -f.weight[1:]]), f.bias)
    flipped = Linear(torch.cat([-f.weight[:1], f.weight[1:]]), f.bias)
    assert tally.risk("shift", LEVEL).holds(model.linear_risk(mirrored))
    assert tally.risk("flip", LEVEL).holds(model.linear_risk(flipped))


@drawn
@given(pixels, seeds)
def test_swap_risks_agree_with_simulation(model, seed):
    rng = generator(seed)
    worst = {"swap": WorstSwap(model.swaps)}
    strong = measure(model.strong_only(), model, worst, 20_000, rng).risk("swap", LEVEL)
    assert strong.holds(strong_only_swap_risk(model))
    fair = measure(fair_mean(model), model, worst, 20_000, rng).risk("swap", LEVEL)
    assert fair.holds(model.linear_risk(fair_mean(model)))


def test_named_risks_of_theorem_1():
    """sign(x_0): R_inf = 1 - p, R_1 = 1. The mean: R_inf = Φ(α), R_1 = Φ(2/√d - α)."""
    model = StrongBit(d=400, alpha=2.0, p=0.9)
    linf, l1 = LinfBall(2 * model.eta), L1Ball(2.0)
    strong, mean = model.strong_only(), model.mean_only()
    assert model.linear_risk(strong, linf) == pytest.approx(0.1, abs=1e-15)
    assert model.linear_risk(strong, l1) == 1
    assert model.linear_risk(mean, linf) == pytest.approx(normal_cdf(2.0), abs=1e-12)
    assert model.linear_risk(mean, l1) == pytest.approx(normal_cdf(0.1 - 2.0), abs=1e-12)


def test_a_score_of_zero_is_wrong():
    zero = spread(3, 0.0, 0.0)
    assert StrongBit(3, 1.0, 0.8).linear_risk(zero) == 1
    margin = torch.tensor([-1.0, 0.0, 1.0])
    assert chance_of_error(margin, torch.zeros(3)).tolist() == [1, 1, 0]


@drawn
@given(st.integers(1, 12), seeds)
def test_costs_are_attained_and_are_maxima(d, seed):
    rng = generator(seed)
    f = some_linear(d, rng)
    x = torch.randn(50, d + 1, generator=rng, dtype=torch.float64)
    for reach in reaches(d).values():
        moved = reach(f, x, torch.ones(50, dtype=torch.float64), rng)
        torch.testing.assert_close(f(x) - f(moved), reach.cost(f.weight).expand(50))
    inside = torch.rand(500, d + 1, generator=rng, dtype=torch.float64) * 2 - 1
    assert (0.3 * inside @ f.weight <= LinfBall(0.3).cost(f.weight) + 1e-12).all()
    sparse = 1.5 * inside / inside.abs().sum(dim=1, keepdim=True)
    assert (sparse @ f.weight <= L1Ball(1.5).cost(f.weight) + 1e-12).all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: StrongBit(0, 2.0, 0.9), "d must be at least 1, got 0"),
        (lambda: StrongBit(9, -1.0, 0.9), "alpha must be positive, got -1.0"),
        (lambda: StrongBit(9, 2.0, 0.4), r"p must lie in \[0.5, 1\], got 0.4"),
        (lambda: StrongPixel(9, 2.0, 1.5, 3), r"s must lie in \(0, 1\], got 1.5"),
        (lambda: StrongPixel(9, 2.0, 0.5, 10), "swaps must lie in 1..d, got 10"),
        (lambda: LinfBall(math.nan), "LinfBall: eps must be finite"),
        (lambda: L1Ball(-1.0), "L1Ball: eps must be finite and at least 0, got -1.0"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()


def test_balls_are_exact_only_for_linear():
    with pytest.raises(ValueError, match="exact only for Linear"):
        LinfBall(1.0)(torch.nn.Identity(), torch.zeros(1, 2), torch.ones(1), generator(0))
