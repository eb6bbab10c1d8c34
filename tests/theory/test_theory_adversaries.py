"""The proofs' adversaries: what they cost, what they make of the laws, and that they are exact."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.proofs import PlantLie
from mpbook.theory import (
    FlipStrong,
    FrankWolfe,
    L1Ball,
    Linear,
    LinfBall,
    Network,
    Plant,
    ShiftWeak,
    StrongBit,
    StrongPixel,
    WorstOf,
    WorstSwap,
    two_sample,
)
from mpbook.theory.adversaries import log_ratio, swap

drawn = settings(derandomize=True, deadline=None, max_examples=20, database=None)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def attacked_pair(model, shift, n, rng):
    """Label +1 after the shift, label -1 after the flip."""
    x, y = model.sample(n, rng)
    plus = shift(None, x, y, rng)[y > 0]
    minus = FlipStrong()(None, x, y, rng)[y < 0]
    return plus, minus


def test_the_proof_maps_cost_what_the_theorem_allows():
    model, rng = StrongBit(25, 2.0, 0.9), generator(0)
    x, y = model.sample(200, rng)
    moved = ShiftWeak(2 * model.eta)(None, x, y, rng) - x
    torch.testing.assert_close(moved.abs().amax(dim=1), torch.full_like(y, 2 * model.eta))
    assert (moved[:, 0] == 0).all()
    flipped = FlipStrong()(None, x, y, rng) - x
    assert (flipped.abs().sum(dim=1) == 2).all()


@pytest.mark.parametrize("d", [3, 30, 300])
def test_the_two_attacked_laws_of_theorem_1_coincide(d):
    model = StrongBit(d, 2.0, 0.8)
    plus, minus = attacked_pair(model, ShiftWeak(2 * model.eta), 800, generator(d))
    assert two_sample(plus, minus, generator(1)) > 0.01
    for bit in (-1.0, 1.0):  # also given the strong feature, which the energy distance smears
        assert two_sample(plus[plus[:, 0] == bit], minus[minus[:, 0] == bit], generator(2)) > 0.01


@pytest.mark.parametrize("d", [3, 30, 300])
def test_the_two_sample_test_sees_a_shift_that_is_too_small(d):
    model = StrongBit(d, 2.0, 0.8)
    plus, minus = attacked_pair(model, ShiftWeak(model.eta), 800, generator(d))
    assert two_sample(plus, minus, generator(1)) == 0.001


def test_the_identity_of_the_laws_by_algebra():
    """Sympy: the density of x - 2ηy under label y is the density of x under label -y."""
    import sympy

    x, eta, y = sympy.symbols("x eta y", real=True)

    def log_density(v, mean):
        return -((v - mean) ** 2) / 2

    shifted = log_density(x + 2 * eta * y, eta * y)
    assert sympy.simplify(shifted - log_density(x, -eta * y)) == 0


@drawn
@given(st.integers(1, 20), st.integers(0, 2**31))
def test_a_swap_moves_pixels_and_changes_none(d, seed):
    rng = generator(seed)
    model = StrongPixel(d, 1.5, 0.6, swaps=max(1, d // 2))
    x, y = model.sample(30, rng)
    planted = Plant(model)(None, x, y, rng)
    assert torch.equal(planted.sort(dim=1).values, x.sort(dim=1).values)
    changed = (planted != x).sum(dim=1)
    assert ((changed == 0) | (changed == 2)).all()
    assert torch.equal(planted[:, model.swaps + 1 :], x[:, model.swaps + 1 :])
    assert torch.equal(swap(swap(x, torch.ones(30).long()), torch.ones(30).long()), x)


def test_plant_chooses_by_the_density_ratio():
    """Against scipy's densities, for both labels."""
    from scipy.stats import norm

    model, rng = StrongPixel(6, 1.0, 0.5, swaps=4), generator(3)
    x, y = model.sample(20, rng)
    chances = Plant(model).log_weights(x, y).softmax(dim=1)
    crowd, label = x[:, 1:5].numpy(), y[:, None].numpy()
    w = norm.pdf(crowd, -label, 0.5) / norm.pdf(crowd, model.eta * label, 1)
    torch.testing.assert_close(chances, torch.tensor(w / w.sum(axis=1, keepdims=True)))
    v = torch.linspace(-3, 3, 7, dtype=torch.float64)
    expected = norm.logpdf(v, 0.3, 0.7) - norm.logpdf(v, -0.2, 1)
    torch.testing.assert_close(log_ratio(v, 0.3, 0.7, -0.2), torch.tensor(expected))


def test_plant_lie_chooses_by_the_surplus_density():
    """Against scipy: the density of N(-y, s²) less N(y, s²), where it is positive."""
    from scipy.stats import norm

    model, rng = StrongPixel(6, 1.0, 0.9, swaps=6), generator(6)
    x, y = model.sample(40, rng)
    chances = PlantLie(model).log_weights(x, y).softmax(dim=1)
    crowd, label = x[:, 1:].numpy(), y[:, None].numpy()
    surplus = norm.pdf(crowd, -label, 0.9) - norm.pdf(crowd, label, 0.9)
    w = torch.tensor(surplus / norm.pdf(crowd, model.eta * label, 1)).clamp(min=0)
    some = w.sum(dim=1) > 0
    assert 30 < some.sum() < 40
    torch.testing.assert_close(chances[some], (w / w.sum(dim=1, keepdim=True))[some])
    fallback = Plant(model).log_weights(x, y).softmax(dim=1)
    torch.testing.assert_close(chances[~some], fallback[~some])


@drawn
@given(st.integers(2, 10), st.integers(0, 2**31))
def test_frank_wolfe_is_exact_on_linear_and_stays_in_the_ball(d, seed):
    rng = generator(seed)
    model = StrongBit(d, 1.5, 0.8)
    x, y = model.sample(20, rng)
    f = Linear(torch.randn(d + 1, generator=rng, dtype=torch.float64))
    network = Network(d, (8,), rng)
    for ball in (LinfBall(0.7), L1Ball(2.0)):
        found = FrankWolfe(ball, 1)(f, x, y, rng)
        torch.testing.assert_close(y * f(found), y * f(x) - ball.cost(f.weight))
        hard = FrankWolfe(ball, 10)(network, x, y, rng) - x
        size = hard.abs().amax(dim=1) if isinstance(ball, LinfBall) else hard.abs().sum(dim=1)
        assert (size <= ball.eps + 1e-12).all()
        assert (y * network(x + hard) <= y * network(x) + 1e-12).all()


def test_worst_swap_is_the_worst_of_all_swaps():
    model, rng = StrongPixel(7, 1.0, 0.5, swaps=5), generator(4)
    x, y = model.sample(50, rng)
    for f in (Network(7, (8,), rng), Linear(torch.randn(8, generator=rng, dtype=torch.float64))):
        scores = torch.stack([y * f(swap(x, torch.full((50,), j))) for j in range(6)])
        found = y * f(WorstSwap(5)(f, x, y, rng))
        torch.testing.assert_close(found, scores.amin(dim=0))


def test_worst_of_takes_the_worst_per_point():
    model, rng = StrongBit(9, 1.0, 0.8), generator(5)
    x, y = model.sample(50, rng)
    f = Linear(torch.randn(10, generator=rng, dtype=torch.float64))
    both = (ShiftWeak(0.2), FlipStrong())
    scores = torch.stack([y * f(adversary(f, x, y, rng)) for adversary in both])
    assert torch.equal(y * f(WorstOf(both)(f, x, y, rng)), scores.amin(dim=0))
    assert (scores.argmin(dim=0).bincount() > 0).sum() > 1
