"""Losses by hand-computed values, invariances and signs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.strategies import tensors
from mpkit.attacks import (
    DLR,
    CrossEntropy,
    Margin,
    SoftMargin,
    TargetedCrossEntropy,
    TargetedDLR,
    TargetedMargin,
)

LOGITS = torch.tensor([[4.0, 1.0, 3.0, 0.0, -1.0], [4.0, 1.0, 3.0, 0.0, -1.0]]).double()
Y = torch.tensor([0, 1])


def test_margin_and_dlr_by_hand():
    assert Margin()(LOGITS, Y).tolist() == [-1.0, 3.0]
    assert DLR()(LOGITS, Y).tolist() == [-1.0 / 3, 1.0]


def test_the_soft_margin_is_the_margin_and_its_slope_is_shared_among_wrong_classes():
    logits = LOGITS.clone().requires_grad_(True)
    told = SoftMargin(0.5)(logits, Y)
    assert torch.equal(told.detach(), Margin()(LOGITS, Y))
    (slope,) = torch.autograd.grad(told.sum(), logits)
    width = 0.5 * LOGITS.std(1, keepdim=True)
    wanted = (LOGITS / width).scatter(1, Y[:, None], -torch.inf).softmax(1)
    torch.testing.assert_close(slope, wanted.scatter(1, Y[:, None], -1.0))
    assert SoftMargin().toward(2) == TargetedMargin(2)


@settings(deadline=None)
@given(st.data())
def test_the_slope_of_the_soft_margin_does_not_hang_on_the_scale(data):
    logits = data.draw(tensors(torch.float64, (3, 4), -9, 9))
    y, slopes = torch.tensor([0, 1, 3]), []
    for scale in (1.0, 1e-3, 1e6):
        leaf = logits.clone().requires_grad_(True)
        slopes += torch.autograd.grad(SoftMargin()(scale * leaf, y).sum() / scale, leaf)
    spread = logits.amax(1) - logits.amin(1)
    told = (spread == 0) | (spread > 1e-6)  # smaller differences do not survive the scaling
    for other in slopes[1:]:
        torch.testing.assert_close(other[told], slopes[0][told], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_soft_margin_of_equal_or_infinite_logits_has_a_finite_slope(dtype):
    logits = torch.tensor([[0.0, 0, 0], [torch.inf, 0, 1], [-torch.inf, 0, 1]], dtype=dtype)
    leaf = logits.clone().requires_grad_(True)
    told = SoftMargin()(leaf, torch.tensor([0, 1, 2]))
    assert torch.equal(told.detach(), Margin()(logits, torch.tensor([0, 1, 2])))
    (slope,) = torch.autograd.grad(told[:1].sum(), leaf)
    assert slope[0].isfinite().all()


def test_targeted_by_hand():
    target = torch.tensor([2, 0])
    assert TargetedMargin(target)(LOGITS, Y).tolist() == [-1.0, 1.0]
    assert TargetedDLR(target)(LOGITS, Y).tolist() == [-1.0 / 3.5, 3.0 / 3.5]
    torch.testing.assert_close(
        TargetedCrossEntropy(2)(LOGITS, Y), LOGITS.log_softmax(1)[:, 2], rtol=1e-12, atol=0
    )


def test_cross_entropy_by_hand():
    two = torch.tensor([[0.0, 0.0]]).double()
    assert CrossEntropy()(two, torch.tensor([0])).item() == pytest.approx(math.log(2))


@given(st.data())
def test_margin_is_positive_exactly_when_misclassified(data):
    logits = data.draw(tensors(torch.float64, (3, 4), -9, 9))
    y = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=3, max_size=3)))
    margin = Margin()(logits, y)
    tied = margin == 0
    assert torch.equal((margin > 0) | tied, Margin().reached(logits, y) | tied)
    assert torch.equal(torch.sign(DLR()(logits, y)), torch.sign(margin))
    targeted = TargetedMargin(y)
    assert torch.equal((targeted(logits, y) > 0) | tied, targeted.reached(logits, y) | tied)


@given(st.data(), st.floats(0.1, 10), st.floats(-5, 5))
def test_dlr_ignores_shift_and_scale(data, scale, shift):
    logits = [*data.draw(st.permutations([0.0, 1.0, 2.5, -3.0])), 9.0]
    logits = torch.tensor([logits]).double()
    y = torch.tensor([2])
    for loss in (DLR(), TargetedDLR(1)):
        torch.testing.assert_close(loss(logits * scale + shift, y), loss(logits, y))


@pytest.mark.parametrize("loss", [CrossEntropy(), Margin(), DLR(), *map(TargetedDLR, [0, 1])])
def test_equal_logits_give_finite_scores_and_gradients(loss):
    logits = torch.zeros(2, 5, requires_grad=True)
    score = loss(logits, Y)
    (g,) = torch.autograd.grad(score.sum(), logits)
    assert torch.isfinite(score).all()
    assert torch.isfinite(g).all()


def test_toward_makes_the_targeted_version():
    for plain, aimed in [(CrossEntropy(), TargetedCrossEntropy), (Margin(), TargetedMargin)]:
        assert isinstance(plain.toward(1), aimed)
        assert plain.toward(1).toward(2).target == 2
    assert TargetedDLR(1) == DLR().toward(1)
