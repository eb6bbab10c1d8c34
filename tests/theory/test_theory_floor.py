"""The floor of theorem 1 edge by edge: its own maps, its closed forms, and bugs that it finds."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.proofs import proof_map_ends
from mpbook.theory import (
    Erase,
    FlipStrong,
    L1Ball,
    Lie,
    Linear,
    LinfBall,
    Network,
    ShiftIfTrue,
    ShiftWeak,
    StrongBit,
    floor,
    linear_risks,
    measure,
    normal_cdf,
    simple_classifiers,
    spread,
)
from mpbook.theory.adversaries import Adversary
from mpkit.core.statistics import mean_of, proportion

EXAMPLES = 20
# All intervals of one property hold together with probability 99.9 %.
LEVEL = 1 - 0.001 / EXAMPLES
drawn = settings(derandomize=True, deadline=None, max_examples=EXAMPLES, database=None)
bits = st.builds(StrongBit, st.integers(1, 40), st.floats(0.2, 3), st.floats(0.5, 1))
seeds = st.integers(0, 2**31)
MODEL = StrongBit(d=4, alpha=2.0, p=0.8)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True)
class ButTheLast:
    """The planted bug: the last weak feature stays where it was."""

    adversary: Adversary

    def __call__(self, f, x, y, rng):
        moved = self.adversary(f, x, y, rng)
        moved[:, -1] = x[:, -1]
        return moved


EDGES = {
    "R_inf": {"linf": ShiftWeak(MODEL.eta)},
    "steep": {"linf": ShiftIfTrue(2 * MODEL.eta), "l1": Lie()},
    "theorem": {"linf": ShiftWeak(2 * MODEL.eta), "l1": FlipStrong()},
    "R_1": {"l1": Erase(1 / MODEL.d)},
}


def classifiers() -> list:
    """Simple rules, random networks, and linear rules that watch the last weak feature."""
    rng = generator(0)
    zoo = [*simple_classifiers(MODEL).values(), *(Network(4, (16,), rng) for _ in range(3))]
    log_odds = [math.log(4), 0, 0, 0, 2 * MODEL.eta]
    left_over = [0, *[MODEL.eta - 1 / MODEL.d] * 3, MODEL.eta]
    watching = (log_odds, [0, 0, 0, 0, 1], left_over)
    return zoo + [Linear(torch.tensor(weight, dtype=torch.float64)) for weight in watching]


def lowest_slack(line, maps) -> float:
    """The smallest upper end of a R_inf + b R_1 - c over the classifiers."""
    a, b, c = line
    rng, ends = generator(1), []
    for f in classifiers():
        wrong = measure(f, MODEL, maps, 30_000, rng).wrong
        shares = {name: bits.double() for name, bits in wrong.items()}
        total = a * shares.get("linf", 0) + b * shares.get("l1", 0)
        ends.append(mean_of(total, 0.9999).high - c)
    return min(ends)


@pytest.mark.parametrize("edge", range(4), ids=EDGES)
def test_each_edge_holds_against_its_own_maps_and_finds_a_bug(edge):
    line, maps = floor(MODEL).lines[edge], [*EDGES.values()][edge]
    assert lowest_slack(line, maps) >= 0
    bug = {
        name: one if name == "l1" and edge != 3 else ButTheLast(one) for name, one in maps.items()
    }
    assert lowest_slack(line, bug) < 0


@pytest.mark.parametrize("edge", range(4), ids=EDGES)
def test_each_edge_s_maps_stay_in_their_balls(edge):
    rng = generator(2)
    x, y = MODEL.sample(500, rng)
    for name, adversary in [*EDGES.values()][edge].items():
        moved = adversary(None, x, y, rng) - x
        if name == "linf":
            assert moved.abs().max() <= 2 * MODEL.eta + 1e-12
        else:
            assert moved.abs().sum(dim=1).max() <= 2 + 1e-12


@drawn
@given(bits, seeds)
def test_what_erasing_leaves_by_simulation(model, seed):
    """Against it the mean is the best rule, with risk Φ(1/√d - α) while α ≥ 1/√d."""
    erased = {"l1": Erase(min(1 / model.d, model.eta))}
    risk = measure(model.mean_only(), model, erased, 20_000, generator(seed)).risk("l1", LEVEL)
    assert risk.holds(normal_cdf(min(0.0, 1 / math.sqrt(model.d) - model.alpha)))
    assert floor(model).lines[3][2] == normal_cdf(min(0.0, 1 / math.sqrt(model.d) - model.alpha))


def test_what_erasing_leaves_by_algebra():
    """Sympy: the two normal laws N(±m, 1) overlap by 2Φ(-m), the smaller density summed."""
    import sympy

    t = sympy.symbols("t", real=True)
    m = sympy.symbols("m", positive=True)
    normal = sympy.exp(-((t - m) ** 2) / 2) / sympy.sqrt(2 * sympy.pi)
    smaller = sympy.integrate(normal, (t, -sympy.oo, 0))
    closed = (1 + sympy.erf(-m / sympy.sqrt(2))) / 2
    assert sympy.simplify((smaller - closed).rewrite(sympy.erf)) == 0


def test_the_steep_edge_by_algebra():
    """Sympy: the weighted error on one attacked law does not depend on the answer q."""
    import sympy

    p, q = sympy.symbols("p q")
    linf = p * (1 - q) + (1 - p) * q
    assert sympy.expand(linf + (2 * p - 1) * q - p) == 0


@drawn
@given(bits, seeds)
def test_named_risks_by_simulation(model, seed):
    """sign(x_0) and the mean against the full balls, over a range of models."""
    balls = {"linf": LinfBall(2 * model.eta), "l1": L1Ball(2.0)}
    expected = {
        "strong": (1 - model.p if 2 * model.eta < 1 else 1.0, 1.0),
        "mean": (normal_cdf(model.alpha), normal_cdf(2 / math.sqrt(model.d) - model.alpha)),
    }
    for name, f in {"strong": model.strong_only(), "mean": model.mean_only()}.items():
        tally = measure(f, model, balls, 20_000, generator(seed))
        for ball, truth in zip(balls, expected[name], strict=True):
            assert model.linear_risk(f, balls[ball]) == pytest.approx(truth, abs=1e-12)
            assert tally.risk(ball, LEVEL).holds(truth)


@drawn
@given(
    st.floats(0.2, 3),
    st.floats(0.5, 1),
    st.lists(st.floats(0.1, 2), min_size=3, max_size=3),
    st.floats(-1, 1),
)
def test_linear_risks_by_quadrature(alpha, p, weight, bias):
    """Two weak features: one integrated out by the normal law, the other by quadrature."""
    from scipy.integrate import quad
    from scipy.stats import norm

    model = StrongBit(2, alpha, p)
    f = Linear(torch.tensor(weight, dtype=torch.float64), bias)
    w0, w1, w2 = weight
    for ball, cost in ((LinfBall(0.3), 0.3 * sum(weight)), (L1Ball(1.5), 1.5 * max(weight))):
        risk = 0.0
        for y in (-1, 1):
            for bit, chance in ((y, p), (-y, 1 - p)):
                rest = y * (w0 * bit + bias) - cost + w2 * model.eta

                def broken(v, y=y, rest=rest):
                    return norm.pdf(v, model.eta * y) * norm.cdf(-(rest + y * w1 * v) / w2)

                risk += chance / 2 * quad(broken, -15, 15, limit=200)[0]
        assert model.linear_risk(f, ball) == pytest.approx(risk, abs=1e-7)


@drawn
@given(bits, seeds)
def test_the_ends_of_the_proof_maps_by_simulation(model, seed):
    """The best answer to the shift is the Bayes rule with the weak features mirrored."""
    odds = math.log(model.p / (1 - model.p)) if model.p < 1 else 1.0
    mirrored = spread(model.d, odds, -2 * model.eta if model.p < 1 else 0.0)
    maps = {"shift": ShiftWeak(2 * model.eta), "flip": FlipStrong()}
    tally = measure(mirrored, model, maps, 20_000, generator(seed))
    low, high = proof_map_ends(model)
    assert tally.risk("shift", LEVEL).holds(low)
    assert tally.risk("flip", LEVEL).holds(high)


@drawn
@given(st.integers(4, 10**6), st.floats(1, 3), st.floats(0.5, 1))
def test_the_sharper_fourth_inequality(d, alpha, p):
    """Of an exercise: it holds for linear rules, and s = 0 and s = 1/√d reach it at the ends."""
    model, step = StrongBit(d, alpha, p), 1 / math.sqrt(d)
    near, far = normal_cdf(step - alpha), normal_cdf(2 * step - alpha)
    bound = (2 * p - 1) * near + 2 * (1 - p) * far
    strong = torch.cat([torch.tensor([0, step]), torch.linspace(0, 3, 300)]).double()
    other = linear_risks(model, strong, torch.zeros_like(strong)).other
    assert bound >= floor(model).lines[3][2] - 1e-12
    assert other.min() >= bound - 1e-12
    assert other[:2].min() - bound <= 2 * step**2
    for end, best in ((0.5, far), (1.0, near)):
        exact = linear_risks(StrongBit(d, alpha, end), strong, torch.zeros_like(strong)).other
        assert float(exact[:2].min()) == pytest.approx(best, abs=1e-7)


def test_the_exercise_s_adversary_stays_in_its_ball_and_hides_the_bit():
    rng = generator(3)
    x, y = MODEL.sample(20_000, rng)
    coin = torch.rand(len(y), generator=rng, dtype=torch.float64)
    turned = (x[:, 0] == y) & (coin < (2 * MODEL.p - 1) / (2 * MODEL.p))
    shifted = ShiftWeak(2 / MODEL.d)(None, x, y, rng)
    moved = torch.where(turned[:, None], Lie()(None, x, y, rng), shifted)
    assert (moved - x).abs().sum(dim=1).max() <= 2 + 1e-12
    assert proportion(moved[:, 0] == y, 0.999).holds(0.5)
