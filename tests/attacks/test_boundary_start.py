"""Searches that begin beyond a border: where it is, and what a flat network cannot hide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.toys import generator, linear_problem, relu_net
from mpkit.attacks import FMN, PGD, BoundaryStart, Clean, Margin, UntilBroken
from mpkit.attacks.base import Problem
from mpkit.attacks.gradients import guard
from mpkit.sets import L1, L2, Ball, Linf


def problem(model, x: Tensor, y: Tensor, donors: Tensor | None = None) -> Problem:
    return Problem(guard(model, 2, y), x, y, generator(), donors=donors)


def images(n: int = 30) -> Tensor:
    return torch.rand(n, 1, 2, 2, generator=generator(4), dtype=torch.float64)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.1), L1(0.1)], ids=repr)
@pytest.mark.parametrize("nth", [0, 2])
def test_the_start_lies_just_beyond_a_border_towards_a_neighbour(ball: Ball, nth: int) -> None:
    model, x = relu_net(1), images()
    y = model(x).argmax(1)
    with torch.no_grad():
        z = BoundaryStart(nth, halvings=20)(ball, problem(model, x, y))
        assert (model(x + z).argmax(1) != y).all()
        assert (model(x + z * (1 - 1e-4)).argmax(1) == y).any()
    assert (x + z >= 0).all()
    assert (x + z <= 1).all()
    for i, way in enumerate(z):
        others = x[y != y[i]]
        lengths = ball.norm(others - x[i]).sort()
        target = others[lengths.indices[min(nth, len(others) - 1)]] - x[i]
        share = (way * target).sum() / target.square().sum()
        assert 0 < share <= 1
        torch.testing.assert_close(way, share * target)


def test_the_border_of_a_linear_model_is_where_it_is() -> None:
    model, x, y = linear_problem(3, 12)
    y = model(x).argmax(1)
    assert 0 < y.sum() < len(y)
    with torch.no_grad():
        z = BoundaryStart(halvings=40)(L2(1), problem(model, x, y))
        lead = model(x + z)
    torch.testing.assert_close(lead[:, 0], lead[:, 1], atol=1e-8, rtol=0)


def test_without_a_neighbour_of_another_class_the_start_is_the_image() -> None:
    model, x = relu_net(1), images()
    y = model(x).argmax(1)
    with torch.no_grad():
        alike = x[y == y[0]]
        assert not BoundaryStart()(L2(1), problem(model, alike, y[y == y[0]])).any()
        z = BoundaryStart()(L2(1), problem(model, alike, y[y == y[0]], donors=x))
    assert z.flatten(1).any(1).all()


class Flat(nn.Module):
    """Rounds every pixel to 0 or 1, and answers by the first one: no slope almost everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        bright = torch.sigmoid(400 * (x[:, 0, 0, 0] - 0.5))
        return torch.stack([1 - bright, bright], 1)


def test_a_search_from_the_border_breaks_what_a_climb_from_the_image_does_not() -> None:
    x = images(64).float()
    x[:, 0, 0, 0] = x[:, 0, 0, 0].round() * 0.8 + 0.1
    y = (x[:, 0, 0, 0] > 0.5).long()
    model, ball = Flat(), L2(0.6)
    climb = PGD(ball, 40, loss=Margin(), start=Clean())(model, x, y, generator()).image
    assert (model(climb).argmax(1) == y).all()
    found = FMN(ball, 60, start=BoundaryStart())(model, x, y, generator())
    assert ball.contains(x, found.z).all()
    assert (model(found.image).argmax(1) != y).double().mean() > 0.9


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.08), L1(0.1)], ids=repr)
def test_a_minimum_norm_search_that_stops_early_stays_in_its_set(ball: Ball) -> None:
    model, x = relu_net(2), images(60)
    y = model(x).argmax(1)
    for start in (BoundaryStart(), BoundaryStart(3)):
        found = UntilBroken(FMN(ball, 40, start=start), every=1)(model, x, y, generator())
        assert ball.contains(x, found.z).all()
        torch.testing.assert_close(found.image, x + found.z)
        plain = FMN(ball, 40, start=start)(model, x, y, generator())
        broken = [model(one.image).argmax(1) != y for one in (found, plain)]
        assert torch.equal(*broken)


def test_bad_numbers_are_named() -> None:
    with pytest.raises(ValueError, match="nth must be ≥ 0, got -1"):
        BoundaryStart(-1)
    with pytest.raises(ValueError, match="halvings must be positive"):
        BoundaryStart(halvings=0)
