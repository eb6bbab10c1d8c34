"""Theorem 2's constant: every step of the chain, exactly where it can be, else within intervals."""

import math
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.proofs import hiding_distance, selection_distance
from mpbook.theory import (
    NeymanPearson,
    Plant,
    ShiftWeak,
    StrongPixel,
    SwapBound,
    attacked_distance,
    measure,
)
from mpbook.theory.bounds import chi_square, overlap, planted_over_shifted

drawn = settings(derandomize=True, deadline=None, max_examples=20, database=None)
pixels = st.builds(
    StrongPixel, st.integers(8, 40), st.floats(0.2, 3), st.floats(0.4, 1), st.integers(1, 8)
)


def science(swaps: int) -> StrongPixel:
    """Parameters α = 2, η = 0.05, s = 1/α."""
    return StrongPixel(d=1600, alpha=2.0, s=0.5, swaps=swaps)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_chi_square_by_algebra():
    """Sympy: W²/G is 1 + χ² times a normal density with variance s² / (2 - s²)."""
    import sympy

    v, m, mu = sympy.symbols("v m mu", real=True)
    s = sympy.symbols("s", positive=True)

    def log_density(mean, variance):
        return -((v - mean) ** 2) / (2 * variance) - sympy.log(2 * sympy.pi * variance) / 2

    one_plus = (mu - m) ** 2 / (2 - s**2) - sympy.log(s) - sympy.log(2 - s**2) / 2
    remainder = log_density((2 * mu - m * s**2) / (2 - s**2), s**2 / (2 - s**2))
    difference = 2 * log_density(mu, s**2) - log_density(m, 1) - one_plus - remainder
    at_three_fifths = sympy.simplify(difference.subs(s, sympy.Rational(3, 5)))
    assert sympy.simplify(sympy.expand_log(at_three_fifths, force=True)) == 0
    assert sympy.simplify(sympy.diff(difference, s)) == 0


@drawn
@given(st.floats(-2, 2), st.floats(0.2, 1.2), st.floats(-1, 1), st.floats(-2, 2))
def test_gaussian_integrals_by_quadrature(a, sd, base, b):
    from scipy.integrate import quad
    from scipy.stats import norm

    def integrand(v):
        return math.exp(norm.logpdf(v, a, sd) + norm.logpdf(v, b, sd) - norm.logpdf(v, base, 1))

    scale = overlap(a, b, sd, base)
    assert quad(integrand, -40, 40, points=(a, b), limit=300)[0] == pytest.approx(scale, rel=1e-6)
    assert overlap(a, a, sd, base) == pytest.approx(1 + chi_square(a, sd, base), rel=1e-12)


@drawn
@given(pixels)
def test_half_selection_by_quadrature(model):
    """χ² of the law of density (W - Q)⁺ / (2p - 1) against G."""
    from scipy.integrate import quad
    from scipy.stats import norm

    def surplus(v):
        return max(0.0, norm.pdf(v, 1, model.s) - norm.pdf(v, -1, model.s))

    total = quad(surplus, 0, 12)[0]
    square = quad(lambda v: surplus(v) ** 2 / norm.pdf(v, -model.eta, 1), 0, 12)[0]
    chi = square / total**2 - 1
    assert total == pytest.approx(2 * norm.cdf(1 / model.s) - 1, abs=1e-8)
    assert SwapBound(model).half_selection == pytest.approx(
        math.sqrt(chi / model.swaps) / 2, rel=1e-6
    )


laws = st.lists(st.integers(1, 9), min_size=3, max_size=3).map(
    lambda weights: [Fraction(w, sum(weights)) for w in weights]
)


@drawn
@given(laws, laws, laws, st.integers(1, 3))
def test_the_chain_in_rational_numbers(base, wanted, old, n):
    """Exact on a three-letter alphabet: the density, both steps, and both χ² bounds."""
    letters = range(3)
    crowds = list(product(letters, repeat=n))
    g = {c: math.prod((base[i] for i in c), start=Fraction(1)) for c in crowds}
    w = [wanted[i] / base[i] for i in letters]
    q = [old[i] / base[i] for i in letters]
    attacked = dict.fromkeys(product(letters, crowds), Fraction(0))
    for strong, crowd, j in product(letters, crowds, range(n)):
        chance = w[crowd[j]] / sum(w[i] for i in crowd)
        after = (crowd[j], (*crowd[:j], strong, *crowd[j + 1 :]))
        attacked[after] += old[strong] * g[crowd] * chance
    distance = Fraction(0)
    for (v, crowd), chance in attacked.items():
        aimed = wanted[v] * g[crowd]
        total = [w[v] + sum(w[i] for i in crowd) - w[i] for i in crowd]
        assert chance == aimed * sum(q[i] / t for i, t in zip(crowd, total, strict=True))
        distance += abs(chance - aimed) / 2
    bound = Fraction(0)
    for ratio, law in ((w, wanted), (q, old)):
        step = sum(g[c] * abs(1 - sum(ratio[i] for i in c) / n) for c in crowds) / 2
        chi = sum(law[i] ** 2 / base[i] for i in letters) - 1
        assert 4 * n * step**2 <= chi
        bound += step
    assert distance <= bound


@pytest.mark.parametrize("swaps", [1, 2, 3])
def test_the_steps_by_quadrature_for_few_candidates(swaps):
    """½ E|1 - w̄| and ½ E|1 - q̄| on a grid of the candidates' values."""
    model = StrongPixel(100, 1.0, 0.8, swaps)
    cells = {1: 4000, 2: 1000, 3: 200}[swaps]
    v = (torch.arange(cells, dtype=torch.float64) + 0.5) * (14 / cells) - 7
    base = torch.exp(-((v + model.eta) ** 2) / 2) * (14 / cells) / math.sqrt(2 * math.pi)
    bound = SwapBound(model)
    cases = ((1.0, selection_distance, bound.selection), (-1.0, hiding_distance, bound.hiding))
    for mean, simulated, at_most in cases:
        top = torch.exp(-(((v - mean) / 0.8) ** 2) / 2) * (14 / cells) / math.sqrt(2 * math.pi)
        ratio, average, mass = top / 0.8 / base, torch.zeros(()), torch.ones(())
        for _ in range(swaps):
            average = (average[..., None] + ratio / swaps).double()
            mass = mass[..., None] * base
        exact = float(((1 - average).abs() * mass).sum()) / 2
        assert simulated(model, 100_000, generator(swaps)).holds(exact)
        assert exact <= at_most


def test_the_attacked_distance_by_quadrature_for_one_candidate():
    """With one candidate the swap is certain: the laws are G × Q and W × G."""
    model = StrongPixel(100, 1.0, 0.8, 1)
    v = torch.linspace(-8, 8, 2001, dtype=torch.float64)

    def law(mean: float, sd: float) -> torch.Tensor:
        return torch.exp(-(((v - mean) / sd) ** 2) / 2) / (sd * math.sqrt(2 * math.pi)) * 0.008

    g, w, q = law(-model.eta, 1.0), law(1.0, 0.8), law(-1.0, 0.8)
    exact = float((torch.outer(g, q) - torch.outer(w, g)).abs().sum()) / 2
    assert attacked_distance(model, 200_000, generator(0)).holds(exact)


@pytest.mark.parametrize(("swaps", "measured"), [(25, 0.18), (100, 0.09), (400, 0.044)])
def test_distances_match_the_simulated_map(swaps, measured):
    """The density gives the distance; a statistic of the map's own samples reaches it."""
    from scipy.stats import ks_2samp

    model, rng = science(swaps), generator(swaps)
    exact, bound = attacked_distance(model, 20_000, rng), SwapBound(model)
    assert exact.value == pytest.approx(measured, abs=0.006)
    assert exact.high < bound.tau
    narrow = StrongPixel(swaps, model.eta * math.sqrt(swaps), 0.5, swaps)
    x, y = narrow.sample(16_000, rng)
    shifted = ShiftWeak(2 * narrow.eta)(None, x, y, rng)[y > 0]
    planted = Plant(narrow)(None, x, y, rng)[y < 0]
    statistics = (planted_over_shifted(narrow, points).numpy() for points in (shifted, planted))
    assert ks_2samp(*statistics).statistic == pytest.approx(exact.value, abs=0.02)


def test_the_paper_s_grid_of_775():
    """With α = 2, s = 1/2, η = 0.05 (d = 1600): R_avg ≥ 0.477, and the bound's other digits."""
    assert SwapBound(science(775)).average_risk == pytest.approx(0.4767, abs=5e-5)
    taus = [SwapBound(science(n)).tau for n in (25, 100, 400)]
    assert taus == pytest.approx([0.2594, 0.1297, 0.0648], abs=5e-5)


def test_the_distance_for_many_candidates():
    """√N times the distance tends to a constant, below the bound's."""
    model = science(1500)
    bound = SwapBound(model)
    exact = attacked_distance(model, 4000, generator(0))
    assert exact.value == pytest.approx(bound.limit, rel=0.05)
    assert bound.limit < bound.tau


@drawn
@given(pixels, st.floats(0.2, 0.8))
def test_neyman_pearson_is_the_log_odds(model, tilt):
    """Mirror images get opposite scores, and the density ratio averages to 1 under the shift."""
    rng = generator(1)
    x, y = model.sample(4000, rng)
    best = NeymanPearson(model, tilt)
    torch.testing.assert_close(best(-x), -best(x))
    shifted = ShiftWeak(2 * model.eta)(None, x, y, rng) * y[:, None]
    ratio = planted_over_shifted(model, shifted)
    bounded = ratio / (1 + ratio)
    planted = Plant(model)(None, x, y, rng) * -y[:, None]
    mirrored = 1 / (1 + planted_over_shifted(model, planted))
    # E_P[r / (1 + r)] = E_Q[1 / (1 + r)] for the densities' ratio r.
    error = 5 * math.sqrt(float(bounded.var() + mirrored.var()) / len(x))
    assert abs(float(bounded.mean() - mirrored.mean())) < error


@pytest.mark.parametrize("swaps", [4, 25])
def test_neyman_pearson_reaches_one_minus_the_distance(swaps):
    model, rng = StrongPixel(25, 2.0, 0.5, swaps), generator(swaps)
    exact = attacked_distance(model, 40_000, rng)
    maps = {"linf": ShiftWeak(2 * model.eta), "swap": Plant(model)}
    average = measure(NeymanPearson(model), model, maps, 40_000, rng).average(0.999)
    assert average.high >= (1 - exact.high) / 2
    assert average.high >= SwapBound(model).average_risk
    assert average.value == pytest.approx((1 - exact.value) / 2, abs=0.006)


def test_an_infinite_chi_square_is_refused():
    with pytest.raises(ValueError, match="sd must lie in"):
        chi_square(1.0, 1.5, 0.0)
