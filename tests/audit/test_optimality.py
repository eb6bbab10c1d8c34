"""Local optimality on closed forms, and a network that follows every image at a price."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from mpkit import attacks, sets
from mpkit.audit.known_optima import Threshold
from mpkit.audit.optimality import Observed, Spent, followed, local_optimality

NORMS = st.lists(st.floats(0.01, 10), min_size=2, max_size=12, unique=True)


def two_areas(least: Tensor, eps: float) -> float:
    """ρ eps minus the area under accuracy against radius, by the trapezoids of a fine grid."""
    grid = torch.linspace(0, eps, 200_001, dtype=torch.float64)
    alive = (least.unsqueeze(1) > grid).double().mean(0)
    return float((least > 0).double().mean() * eps - torch.trapezoid(alive, grid))


@given(NORMS, st.floats(1, 3), st.integers(0, 3))
def test_it_is_the_quotient_of_two_areas(norms: list[float], worse: float, wrong: int) -> None:
    reference = torch.tensor([0.0] * wrong + norms, dtype=torch.float64)
    least = reference * worse
    eps = float(reference.max())
    share = two_areas(least, eps) / two_areas(reference, eps)
    assert local_optimality(least, reference) == pytest.approx(share, abs=2e-3 * eps / min(norms))


@given(NORMS)
def test_the_reference_itself_is_optimal_and_nothing_found_is_worth_nothing(norms) -> None:
    reference = torch.tensor(norms, dtype=torch.float64)
    assert local_optimality(reference, reference) == 1
    assert local_optimality(torch.full_like(reference, torch.inf), reference) == 0


def test_by_hand() -> None:
    reference = torch.tensor([0.0, 1.0, 2.0, 4.0])
    assert local_optimality(torch.tensor([0.0, 1.0, 3.0, 5.0]), reference) == pytest.approx(4 / 5)
    never = torch.tensor([0.0, 1.0, 4.0, torch.inf])
    assert local_optimality(torch.tensor([0.0, 2.0, 4.0, torch.inf]), never) == pytest.approx(2 / 3)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="minimum over all attacks"):
        local_optimality(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 2.0]))
    with pytest.raises(ValueError, match="no area"):
        local_optimality(torch.tensor([2.0, 2.0]), torch.tensor([2.0, 2.0]))


def test_a_followed_network_has_the_slope_of_the_network_at_the_walls_too() -> None:
    """Clean pixels are often black or white; a clamp would hide their slope from every attack."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3, dtype=torch.float64))
    x = (
        torch.tensor([0, 1, 0.5, 0, 1, 0.2], dtype=torch.float64)
        .view(1, 1, 2, 3)
        .repeat(2, 1, 1, 1)
    )
    y = model(x).argmax(1)
    seen = Observed(model, x, y, 2, 100)
    slopes = []
    for one in (model, seen):
        leaf = x.clone().requires_grad_(True)
        slopes.append(torch.autograd.grad(one(leaf)[:, 0].sum(), leaf)[0])
    assert torch.equal(*slopes) and (slopes[0] != 0).all()
    outside = (x + torch.tensor([-0.5, 0.5, 0, 0, 0, 0]).view(1, 1, 2, 3)).requires_grad_(True)
    (slope,) = torch.autograd.grad(seen(outside)[:, 0].sum(), outside)
    assert torch.equal(slope.flatten(1)[:, :2], torch.zeros(2, 2, dtype=torch.float64))
    assert torch.equal(slope.flatten(1)[:, 2:], slopes[0].flatten(1)[:, 2:])


def linear() -> tuple[nn.Module, Tensor, Tensor]:
    """Class 1 where 3 x_1 + x_2 ≥ 3.6, at (.5, .5): 1.6 is lacking."""
    w = torch.tensor([[[3.0, 1.0]]])
    return Threshold(w, 3.6).eval(), torch.full((2, 1, 1, 2), 0.5), torch.tensor([0, 1])


def test_the_least_perturbation_ever_asked_about_counts() -> None:
    model, x, y = linear()
    shifts = (0.45, 0.3, 0.4, 0.41)  # 4 d ≥ 1.6 from .4 on; the last is not the least

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> None:
        for d in shifts:
            model(x + d)

    for order, length in ((math.inf, 1.0), (2, math.sqrt(2)), (1, 2.0)):
        found = followed(attack, model, x, y, order, 100)
        assert found.least[0] == pytest.approx(0.41 * length, rel=1e-4) or found.least[
            0
        ] == pytest.approx(0.4 * length, rel=1e-4)
        assert found.least[1] == 0  # wrong from the start
        assert found.spent == len(shifts)


def test_both_ways_are_counted_and_the_budget_ends_it() -> None:
    model, x, y = linear()
    calls = []

    def attack(model: nn.Module, x: Tensor, y: Tensor) -> None:
        while True:
            image = x.clone().requires_grad_()
            torch.autograd.grad(model(image)[:, 1].sum(), image)
            calls.append(1)

    found = followed(attack, model, x, y, 2, 10)
    assert len(calls) == 5 and found.spent == 10
    assert found.least[0].isinf()


def test_after_its_budget_an_image_is_not_followed() -> None:
    model, x, y = linear()
    seen = Observed(model, x, y, 1, 2)
    seen(x[:1])
    seen(x[:1])  # image 0, the nearest, or its twin: a budget each
    seen(x + torch.tensor([[[[0.1, 0.1]]]]))
    assert seen.least[0].isinf()
    seen(x + 0.45)
    assert seen.least[0].isinf() and seen.spent[0] >= 2


def test_pixels_outside_of_the_box_are_brought_to_its_walls() -> None:
    model, x, y = linear()
    seen = Observed(model, x, y, 1, 9)
    seen(x + 0.6)
    assert seen.least[0] == 1  # two pixels by a half


def test_rows_of_another_batch_belong_to_the_nearest_image() -> None:
    model, _, _ = linear()
    x = torch.tensor([[[[0.1, 0.1]]], [[[0.5, 0.5]]]])
    seen = Observed(model, x, torch.tensor([0, 0]), 1, 9)
    seen(torch.tensor([[[[0.95, 0.8]]]]))
    assert seen.least[0].isinf()
    assert seen.least[1] == pytest.approx(0.75, rel=1e-5)
    assert seen.spent.tolist() == [0, 1]


def test_nothing_is_answered_once_all_is_spent() -> None:
    model, x, y = linear()
    seen = Observed(model, x, y, 1, 1)
    seen(x)
    with pytest.raises(Spent):
        seen(x)


def test_a_projected_attack_is_followed_into_its_ball() -> None:
    model, x, y = linear()
    attack = attacks.PGD(sets.L1(0.7), 20)

    def run(model: nn.Module, x: Tensor, y: Tensor) -> None:
        attack(model, x, y, torch.Generator().manual_seed(0))

    found = followed(run, model, x, y, 1, 1000)
    assert 0.6 <= float(found.least[0]) <= 0.7 + 1e-6  # .5 of x_1 and .1 of x_2 are needed
