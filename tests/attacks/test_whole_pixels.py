"""Whole pixels by promise over price: what a linear network says of it, the ball, and chance."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from mpkit.attacks import WholePixels
from mpkit.models import DeadZone
from mpkit.sets import L1, dead_zone

A = 0.3


def linear(pixels, seed=0):
    """Two logits, w u and 0, behind a dead zone."""
    net = nn.Sequential(DeadZone(A), nn.Flatten(), nn.Linear(pixels, 2, bias=False)).double()
    with torch.no_grad():
        net[2].weight.copy_(torch.randn(2, pixels, generator=torch.Generator().manual_seed(seed)))
        net[2].weight[1] = 0
    return net


def drawn(seed, binary=True):
    x = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.round() if binary else x


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_on_a_linear_network_the_pixels_that_gain_most_are_turned(steps):
    net, x, y = linear(36), drawn(1), torch.zeros(5, dtype=torch.int64)
    found = WholePixels(L1(3.0), A, steps, blur=0.0)(net, x, y, torch.Generator())
    u = dead_zone.ramp(x, A).flatten(1)
    gain = (net[2].weight[0] * (2 * u - 1)).detach()  # what turning a pixel takes off the logit
    best = (u * net[2].weight[0]).sum(1) - gain.topk(4, dim=1).values.sum(1)
    assert torch.allclose(net(found.image)[:, 0], best.detach())  # four cost 2.8; 0.2 moves none


@given(st.integers(0, 10**6), st.sampled_from([0.5, 2.0, 30.0]), st.integers(1, 6), st.booleans())
def test_every_answer_lies_in_the_ball(seed, radius, steps, binary):
    net, x, y = linear(36, seed), drawn(seed, binary), torch.tensor([0, 1, 0, 1, 0])
    ball = L1(radius)
    found = WholePixels(ball, A, steps)(net, x, y, torch.Generator().manual_seed(seed))
    assert ball.contains(x, found.z).all() and torch.equal(found.image, x + found.z)
    clean = cross_entropy(net(x), y, reduction="none")
    assert (found.score >= clean - 1e-9).all()


def test_chance_blurs_the_choice():
    net, x, y = linear(36), drawn(2), torch.zeros(5, dtype=torch.int64)
    attack = WholePixels(L1(4.0), A, 2, blur=0.9)
    one, same, other = (attack(net, x, y, torch.Generator().manual_seed(s)).z for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_search_without_steps_or_behind_half_of_the_greys_is_refused():
    with pytest.raises(ValueError, match="WholePixels: steps"):
        WholePixels(L1(1.0), 0.2, 0)
    with pytest.raises(ValueError, match="WholePixels: a must"):
        WholePixels(L1(1.0), 0.5)
