"""Affine adversaries: linear in β without the box, concave in it; the example's numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.proofs import shared_cost
from mpbook.theory import AffineInBox, L1Ball, LinfBall
from mpkit.sets import L1, Affine, Linf

drawn = settings(derandomize=True, deadline=None, max_examples=60, database=None)
numbers = st.floats(-2, 2, allow_subnormal=False).map(lambda v: round(v, 3))
units = st.floats(0, 1, allow_subnormal=False).map(lambda v: round(v, 3))


@st.composite
def problems(draw):
    d = draw(st.integers(1, 8))
    weight = torch.tensor(draw(st.lists(numbers, min_size=d, max_size=d)), dtype=torch.float64)
    x = torch.tensor(draw(st.lists(units, min_size=d, max_size=d)), dtype=torch.float64)
    return AffineInBox(weight, x, draw(st.floats(0.05, 3)), draw(st.floats(0.01, 0.9)))


def example() -> AffineInBox:
    weight = torch.full((10,), 0.1, dtype=torch.float64)
    weight[0] = 1
    return AffineInBox(weight, torch.full_like(weight, 0.5), 1.0, 0.55 / 1.9)


def test_the_box_example():
    """0.550 at both ends, 0.6625 at a quarter of the l_1 budget, and 41/60 at best, β = 8/27."""
    box = example()
    assert [box.loss(b) for b in (0.0, 0.25, 1.0)] == pytest.approx([0.55, 0.6625, 0.55], abs=1e-12)
    assert box.best() == pytest.approx((8 / 27, 41 / 60), abs=1e-12)
    for beta in (0.0, 0.25, 1.0):
        assert box.by_linear_programming(beta) == pytest.approx(box.loss(beta), abs=1e-9)
    assert box.by_linear_programming() == pytest.approx(41 / 60, abs=1e-9)


@drawn
@given(problems(), units)
def test_the_knapsack_is_the_linear_program(box, beta):
    assert box.loss(beta) == pytest.approx(box.by_linear_programming(beta), abs=1e-9)
    share, loss = box.best()
    assert loss == pytest.approx(box.by_linear_programming(), abs=1e-9)
    assert loss == box.loss(share)


def test_the_best_share_on_coarse_numbers():
    """Tenths: many ties, and budgets that fill several pixels to the brim."""
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        weight, x = (torch.randint(0, 11, (5,), generator=rng).double() / 10 for _ in range(2))
        eps_1, eps_inf = (torch.randint(1, 20, (2,), generator=rng).double() / 10).tolist()
        box = AffineInBox(weight, x, eps_1, eps_inf)
        assert box.best()[1] == pytest.approx(box.by_linear_programming(), abs=1e-9)


@drawn
@given(problems(), units)
def test_the_parts_are_feasible_and_attain_the_loss(box, beta):
    even, sparse = box.parts(beta)
    assert even.abs().max() <= (1 - beta) * box.eps_inf + 1e-12
    assert sparse.abs().sum() <= beta * box.eps_1 + 1e-12
    moved = box.x + even + sparse
    assert (moved >= -1e-12).all()
    assert (moved <= 1 + 1e-12).all()
    assert float(box.weight @ (even + sparse)) == pytest.approx(box.loss(beta), abs=1e-12)


@drawn
@given(problems(), units)
def test_the_parts_belong_to_the_affine_set_of_images(box, beta):
    """The set of `mpkit.sets.threat_model` allows them, and refuses a little more of either."""
    affine = Affine(L1(box.eps_1), Linf(box.eps_inf))
    even, sparse = (part.view(1, 1, 1, -1) for part in box.parts(beta))
    x, share = box.x.view(1, 1, 1, -1), torch.tensor([beta], dtype=torch.float64)
    assert affine.contains(x, (share, sparse, even)).all()
    rise = box.weight @ (affine.apply(x, (share, sparse, even)) - x).flatten()
    assert float(rise) == pytest.approx(box.loss(beta), abs=1e-12)
    too_far = (1 - beta) * box.eps_inf + 0.01
    assert not affine.contains(x, (share, sparse, torch.full_like(even, too_far))).any()


@drawn
@given(problems(), units, units, units)
def test_the_loss_is_concave_in_beta(box, a, b, t):
    between = t * box.loss(a) + (1 - t) * box.loss(b)
    assert box.loss(t * a + (1 - t) * b) >= between - 1e-12


@drawn
@given(problems(), units)
def test_theorem_3_survives_when_each_part_stays_in_the_box(box, beta):
    """Then the loss is linear in β, never more than the better end, never more than the sum's."""
    each = box.loss_of_blend(beta)
    assert each <= max(box.loss(0.0), box.loss(1.0)) + 1e-12
    assert each <= box.loss(beta) + 1e-12


@drawn
@given(problems(), units)
def test_theorem_3_without_a_box(box, beta):
    """A box too wide to matter gives the linear formula of the dual norms."""
    linf, l1 = LinfBall(box.eps_inf), L1Ball(box.eps_1)
    cost = shared_cost(box.weight, l1, linf, beta)
    assert cost <= max(float(l1.cost(box.weight)), float(linf.cost(box.weight))) + 1e-12
    small = AffineInBox(box.weight, torch.full_like(box.x, 0.5), box.eps_1 / 10, box.eps_inf / 10)
    scaled = shared_cost(box.weight, L1Ball(small.eps_1), LinfBall(small.eps_inf), beta)
    assert small.loss(beta) == pytest.approx(scaled, abs=1e-12)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: AffineInBox(torch.ones(2), torch.zeros(3), 1.0, 0.3), "must both be"),
        (lambda: AffineInBox(torch.ones(2), torch.full((2,), 1.5), 1.0, 0.3), r"lie in \[0, 1\]"),
        (lambda: AffineInBox(torch.ones(2), torch.zeros(2), 0.0, 0.3), "radii must be positive"),
        (lambda: example().loss(1.5), "beta must lie in"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
