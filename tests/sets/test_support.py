"""The greatest value of a linear function over ball ∩ box: closed forms, never too small."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import oracles
from helpers.strategies import radii, tensors
from helpers.toys import generator
from mpkit.sets import L1, L2, Linf

KINDS = {"Linf": Linf, "L2": L2, "L1": L1}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_it_is_the_optimum_of_the_linear_program(kind, data):
    shape = (2, 1, 2, 3)
    x = data.draw(tensors(torch.float64, shape, 0, 1))
    g = torch.stack([data.draw(tensors(torch.float64, shape, -50, 50)) for _ in range(2)], 1)
    ball = KINDS[kind](data.draw(radii(2)))
    found = ball.support(x, g)
    eps = torch.as_tensor(ball.eps, dtype=torch.float64).expand(2)
    for i in range(2):
        for j in range(2):
            w, image = g[i, j].flatten().numpy(), x[i].flatten().numpy()
            best = oracles.best_linear(kind, w, image, float(eps[i]))
            assert found[i, j] == pytest.approx(best, rel=1e-9, abs=1e-9)
            assert found[i, j] >= best - 1e-10 * (1 + abs(best))


@pytest.mark.parametrize("kind", KINDS)
def test_no_point_of_the_set_does_better_and_the_slope_is_where_it_is_taken(kind):
    ball, rng = KINDS[kind](0.6), generator(1)
    x = torch.rand(5, 1, 4, 4, generator=rng, dtype=torch.float64)
    g = torch.randn(5, 3, 1, 4, 4, generator=rng, dtype=torch.float64).requires_grad_()
    value = ball.support(x, g)
    (z,) = torch.autograd.grad(value.sum(), g)
    torch.testing.assert_close((z * g).flatten(2).sum(2), value)
    for s in range(3):
        assert ball.contains(x, z[:, s]).all()
    for seed in range(50):
        drawn = ball.sample(x, generator(seed)).unsqueeze(1)
        assert ((drawn * g).flatten(2).sum(2) <= value + 1e-12).all()


@pytest.mark.parametrize("kind", KINDS)
def test_slopes_of_zero_cost_nothing_and_leave_no_nan(kind):
    x = torch.rand(2, 1, 2, 2, generator=generator(), dtype=torch.float64)
    g = torch.zeros(2, 1, 1, 2, 2, dtype=torch.float64).requires_grad_()
    value = KINDS[kind](0.3).support(x, g)
    (slope,) = torch.autograd.grad(value.sum(), g)
    assert (value == 0).all() and slope.isfinite().all()
