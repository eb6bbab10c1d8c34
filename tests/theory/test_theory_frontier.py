"""The floor under all classifiers: it holds, it is reached, and a linear program finds the same."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.proofs import PlantLie, fair_mean, proof_map_ends, strong_only_swap_risk
from mpbook.theory import (
    FlipStrong,
    L1Ball,
    Lie,
    Linear,
    LinfBall,
    Network,
    Risks,
    ShiftIfTrue,
    ShiftWeak,
    StrongBit,
    StrongPixel,
    SwapBound,
    WorstSwap,
    floor,
    grid_noise,
    least_risk,
    linear_frontier,
    linear_risks,
    measure,
    normal_cdf,
    spread,
)
from mpbook.theory.frontier import lower_hull
from mpbook.theory.gaussians import GaussianModel
from mpkit.core.statistics import mean_of

drawn = settings(derandomize=True, deadline=None, max_examples=60, database=None)
bits = st.builds(StrongBit, st.integers(1, 500), st.floats(0.1, 3), st.floats(0.5, 1))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(linf: float, other: float) -> Risks:
    return Risks(*(torch.tensor([v], dtype=torch.float64) for v in (linf, other)))


def full_risks(model: StrongBit, f: Linear) -> Risks:
    linf = model.linear_risk(f, LinfBall(2 * model.eta))
    return pair(linf, model.linear_risk(f, L1Ball(2.0)))


@drawn
@given(bits, st.integers(0, 2**31), st.floats(0, 10))
def test_no_linear_classifier_goes_below_the_floor(model, seed, strong):
    rng = generator(seed)
    weight = torch.randn(model.d + 1, generator=rng, dtype=torch.float64) / model.d**0.5
    for offset in (0.0, 1 / math.sqrt(model.d)):
        weight = weight + offset
        weight[0] = strong
        f = Linear(weight, float(torch.randn((), generator=rng)))
        assert floor(model).slack(full_risks(model, f)) >= -1e-12


@drawn
@given(bits, st.floats(0, 10), st.floats(-5, 5))
def test_the_frontier_s_formula_is_the_linear_risk(model, strong, bias):
    f = spread(model.d, strong, 1 / math.sqrt(model.d), bias)
    fast = linear_risks(model, torch.tensor([strong]).double(), torch.tensor([bias]).double())
    torch.testing.assert_close(torch.stack(fast), torch.stack(full_risks(model, f)))


@drawn
@given(st.floats(0.5, 1), st.floats(0.2, 3))
def test_two_corners_are_reached_at_every_d(p, alpha):
    model = StrongBit(1 + math.ceil(4 * alpha**2), alpha, p)
    strong = full_risks(model, model.strong_only())
    constant = full_risks(model, spread(model.d, 0.0, 0.0, 1.0))
    assert torch.stack(strong).flatten().tolist() == pytest.approx([1 - p, 1.0], abs=1e-12)
    assert torch.stack(constant).flatten().tolist() == [0.5, 0.5]
    for corner in (strong, constant):
        assert floor(model).slack(corner) == pytest.approx(0, abs=1e-12)


def gap(model: StrongBit) -> float:
    """How far above the floor coin tosses between linear classifiers stay, at worst."""
    hull = linear_frontier(model)
    places = torch.linspace(float(hull.linf[0]) + 1e-9, float(hull.linf[-1]), 500).double()
    reached = np.interp(places, hull.linf, hull.other)
    return float((torch.tensor(reached) - floor(model).lowest(places)).max())


def test_the_gap_closes_as_d_grows():
    """As 1/d for a bit that is always right, as 1/√d for a noisy one."""
    sure = [gap(StrongBit(d, 2.0, 1.0)) * d for d in (10**2, 10**4, 10**6)]
    noisy = [gap(StrongBit(d, 2.0, 0.9)) * math.sqrt(d) for d in (10**2, 10**4, 10**6)]
    assert sure == pytest.approx([0.25, 0.22, 0.22], abs=0.015)
    assert noisy == pytest.approx([0.05, 0.02, 0.02], abs=0.02)
    assert gap(StrongBit(10**8, 2.0, 0.7)) < 1e-5


@pytest.mark.parametrize("p", [0.5, 0.75, 1.0])
@pytest.mark.parametrize("alpha", [0.7, 2.0])
def test_a_linear_program_over_all_classifiers_finds_the_same_floor(p, alpha):
    """The floor's corners, with the overlap of the grid's laws in place of Φ(-α)."""
    model, cells = StrongBit(1, alpha, p), 5
    noise, shift = grid_noise(model, cells), np.zeros(2 * cells)
    overlap = np.minimum(np.r_[noise, shift], np.r_[shift, noise]).sum() / 2
    assert overlap == pytest.approx(normal_cdf(-alpha), abs=0.01)
    corners = ((1 - p, 1.0), (0.5, 0.5), (1 - overlap, overlap))
    for tilt in (0.0, 0.15, 0.45, 0.5, 0.55, 0.7, 0.9, 1.0):
        expected = min(tilt * linf + (1 - tilt) * other for linf, other in corners)
        assert least_risk(model, tilt, cells) == pytest.approx(expected, abs=1e-9)


def zoo(model: GaussianModel, rng: torch.Generator) -> list:
    random = [Network(model.d, (16,), rng) for _ in range(4)]
    return [model.strong_only(), model.mean_only(), model.bayes(), *random]


def test_every_classifier_adds_up_to_one_against_the_proof_maps():
    model, rng = StrongBit(10, 1.5, 0.8), generator(0)
    maps = {"shift": ShiftWeak(2 * model.eta), "flip": FlipStrong()}
    for f in zoo(model, rng):
        assert measure(f, model, maps, 40_000, rng).average(0.9999).holds(0.5)


def test_neyman_pearson_ends_of_the_proof_maps():
    """The best answer to the shift is the Bayes rule with the weak features mirrored."""
    model = StrongBit(10, 1.5, 0.8)
    mirrored = spread(10, math.log(4), -2 * model.eta)
    shift = {"shift": ShiftWeak(2 * model.eta)}
    low, high = proof_map_ends(model)
    best = measure(mirrored, model, shift, 40_000, generator(1)).risk("shift", 0.999)
    worst = measure(Linear(-mirrored.weight), model, shift, 40_000, generator(2))
    assert best.holds(low)
    assert worst.risk("shift", 0.999).holds(high)
    assert low == pytest.approx(model.linear_risk(model.bayes()), abs=1e-12)


@pytest.mark.parametrize("p", [0.6, 0.9, 1.0])
def test_the_steep_edge_by_its_own_adversaries(p):
    """R_inf + (2p - 1) R_1 ≥ p already holds against the two maps of its proof."""
    model, rng = StrongBit(10, 1.5, p), generator(3)
    maps = {"linf": ShiftIfTrue(2 * model.eta), "l1": Lie()}
    for f in zoo(model, rng):
        wrong = measure(f, model, maps, 20_000, rng).wrong
        total = wrong["linf"].double() + (2 * p - 1) * wrong["l1"].double()
        assert mean_of(total, 0.999).high >= p


def test_the_steep_edge_of_theorem_2_by_its_own_adversaries():
    model, rng = StrongPixel(100, 2.0, 0.7, 100), generator(4)
    maps = {"linf": ShiftIfTrue(2 * model.eta), "rt": PlantLie(model)}
    p, bound = normal_cdf(1 / 0.7), SwapBound(model)
    least = p - (2 * p - 1) * (bound.half_selection + bound.hiding)
    sums = []
    for f in zoo(model, rng):
        wrong = measure(f, model, maps, 20_000, rng).wrong
        total = wrong["linf"].double() + (2 * p - 1) * wrong["rt"].double()
        sums.append(mean_of(total, 0.999))
        assert sums[-1].high >= least
    assert min(s.value for s in sums) == pytest.approx(p, abs=0.1)


@pytest.mark.parametrize("swaps", [10, 100])
def test_linear_classifiers_stay_above_the_floor_of_theorem_2(swaps):
    """R_inf in closed form, R_RT with the exact worst swap."""
    model, rng = StrongPixel(100, 2.0, 0.5, swaps), generator(5)
    worst = {"rt": WorstSwap(swaps)}
    for strong in (0.0, 0.1, 1.0, 3.0, 10.0):
        f = spread(100, strong, 0.1)
        linf = model.linear_risk(f, LinfBall(2 * model.eta))
        other = measure(f, model, worst, 4000, rng).risk("rt", 0.999)
        assert floor(model).slack(pair(linf, other.high)) >= 0
    best = model.linear_risk(model.strong_only(), LinfBall(2 * model.eta))
    assert floor(model).lines[0][2] == pytest.approx(best, abs=1e-12)


def test_the_floor_of_theorem_2_is_reached_as_n_grows():
    """sign(x_0), a constant and the fair mean come to its corners (d = N)."""

    def heights(n: int) -> list[float]:
        model = StrongPixel(n, 2.0, 0.5, n)
        linf, fair = LinfBall(2 * model.eta), fair_mean(model)
        corners = (
            pair(model.linear_risk(model.strong_only(), linf), strong_only_swap_risk(model)),
            pair(0.5, 0.5),
            pair(model.linear_risk(fair, linf), model.linear_risk(fair)),
        )
        return [float(floor(model).slack(corner)) for corner in corners]

    assert all(-1e-12 < slack < 0.2 for slack in heights(10**3))
    assert all(-1e-12 < slack < 0.003 for slack in heights(10**6))


def test_lower_hull_keeps_the_corners_that_a_coin_cannot_beat():
    risks = Risks(*torch.tensor([[0.0, 0.5, 0.25, 0.9, 0.4], [1.0, 0.5, 0.9, 0.3, 0.95]]).double())
    hull = lower_hull(risks)
    assert hull.linf.tolist() == pytest.approx([0.0, 0.5, 0.9])
    assert hull.other.tolist() == pytest.approx([1.0, 0.5, 0.3])


def test_lowest_is_infinite_where_nothing_is_possible():
    lowest = floor(StrongBit(10**6, 2.0, 0.9)).lowest(torch.tensor([0.05, 0.1, 0.5, 0.99]).double())
    assert lowest[0] == math.inf
    assert lowest[1:3].tolist() == pytest.approx([1.0, 0.5], abs=1e-7)
    assert float(lowest[3]) == pytest.approx(normal_cdf(0.001 - 2), abs=1e-12)


def test_a_model_without_a_theorem_is_refused():
    with pytest.raises(ValueError, match="no theorem about int"):
        floor(3)
