"""The largest l_p balls in a union and in its hull: a law of linear classifiers, points outside."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.linalg import vector_norm

from mpbook.theory import hull_radius, union_radius, worst_weights
from mpkit.sets import L1, L2, Linf, usual

drawn = settings(derandomize=True, deadline=None, max_examples=150, database=None)
orders = st.sampled_from([1.0, 1.2, 1.5, 2.0, 3.0, 10.0, math.inf])
radii = st.floats(0.05, 20)
sizes = st.integers(1, 12)


def conjugate(p):
    return math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)


def vectors(d, seed):
    """Some hundred vectors, of which many have few entries that matter."""
    rng = torch.Generator().manual_seed(seed)
    raw = torch.randn(200, d, generator=rng, dtype=torch.float64)
    power = 1 + 4 * torch.rand(200, 1, generator=rng, dtype=torch.float64)
    return raw.sign() * raw.abs() ** power


def gauge_of_hull(x, l1, linf):
    """The least share s with x in s times the hull, (n,): entries above a level go to l_1."""
    levels = torch.cat([torch.zeros(len(x), 1, dtype=x.dtype), x.abs()], 1)
    above = (x.abs().unsqueeze(1) - levels.unsqueeze(2)).clamp(min=0).sum(2)
    return (levels / linf + above / l1).amin(1)


@drawn
@given(orders, radii, radii, sizes, st.integers(0, 10**6))
def test_no_linear_classifier_falls_within_the_hull_s_radius(p, l1, linf, d, seed):
    """One that withstands both balls has a margin of the greater loss; the l_p ball takes less."""
    radius, q = hull_radius(p, l1, linf, d), conjugate(p)
    worst = worst_weights(l1, linf, d).unsqueeze(0)
    for w, tight in ((vectors(d, seed), False), (worst, True)):
        both = torch.maximum(l1 * vector_norm(w, math.inf, 1), linf * vector_norm(w, 1, 1))
        lost = radius * vector_norm(w, q, 1)
        assert (lost <= both * (1 + 1e-9)).all()
        assert not tight or float(lost) == pytest.approx(float(both))


@drawn
@given(orders, radii, radii, sizes, st.integers(0, 10**6))
def test_every_point_of_the_ball_is_a_mixture_of_the_two_balls(p, l1, linf, d, seed):
    radius, x = hull_radius(p, l1, linf, d), vectors(d, seed)
    x = radius * x / vector_norm(x, p, 1, keepdim=True)
    assert (gauge_of_hull(x, l1, linf) <= 1 + 1e-9).all()
    if math.isfinite(p) and p > 1:  # the point where the worst classifier falls leaves the hull
        away = worst_weights(l1, linf, d) ** (1 / (p - 1))
        away = 1.001 * radius * away / vector_norm(away, p)
        assert gauge_of_hull(away.unsqueeze(0), l1, linf) > 1


@drawn
@given(orders, radii, radii, sizes, st.integers(0, 10**6))
def test_the_union_holds_its_ball_and_no_larger_one(p, l1, linf, d, seed):
    radius, x = union_radius(p, l1, linf, d), vectors(d, seed)
    assert radius <= hull_radius(p, l1, linf, d) * (1 + 1e-9)
    x = 0.999 * radius * x / vector_norm(x, p, 1, keepdim=True)
    assert ((vector_norm(x, 1, 1) <= l1) | (vector_norm(x, math.inf, 1) <= linf)).all()
    assume(linf < l1 < d * linf)
    edge = torch.full((d,), (l1 - linf) / max(d - 1, 1), dtype=torch.float64)
    edge[0] = linf
    assert float(vector_norm(edge, p)) == pytest.approx(radius)
    assert vector_norm(1.001 * edge, 1) > l1 and vector_norm(1.001 * edge, math.inf) > linf


@drawn
@given(radii, radii, sizes)
def test_at_the_ends_the_hull_gives_back_its_own_balls(l1, linf, d):
    assert hull_radius(1, l1, linf, d) == pytest.approx(max(l1, linf))
    assert hull_radius(math.inf, l1, linf, d) == pytest.approx(max(linf, l1 / d))


@pytest.mark.parametrize(
    ("name", "shape", "radius"),
    [("digits", (1, 8, 8), 0.552), ("mnist", (1, 28, 28), 1.738), ("cifar10", (3, 32, 32), 0.614)],
)
def test_radii_of_the_data_sets(name, shape, radius):
    threat, d = usual(name, shape), math.prod(shape)
    found = hull_radius(2, threat["l1"].eps, threat["linf"].eps, d)
    assert found == pytest.approx(radius, abs=5e-4)


def test_the_box_breaks_the_statement():
    """A linear classifier that withstands both balls within the box, but not the l_2 ball there."""
    x, w = torch.full((1, 1, 2, 5), 0.5).double(), torch.full((1, 1, 1, 2, 5), 0.1).double()
    w[..., 0, 0] = 1
    l1, linf = 1.0, 0.55 / 1.9
    radius = hull_radius(2, l1, linf, 10)
    lost = [float(ball.support(x, w)) for ball in (Linf(linf), L1(l1), L2(radius))]
    assert lost[0] == pytest.approx(0.55) and lost[1] == pytest.approx(0.55)
    assert lost[2] > 0.57


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.5, 1.0, 1.0, 3), "p must be at least 1"),
        ((2.0, 0.0, 1.0, 3), "radii must be positive"),
        ((2.0, 1.0, math.inf, 3), "radii must be positive"),
        ((2.0, 1.0, 1.0, 0), "d at least 1"),
    ],
)
def test_senseless_balls_are_refused(values, words):
    for ask in (hull_radius, union_radius):
        with pytest.raises(ValueError, match=words):
            ask(*values)
