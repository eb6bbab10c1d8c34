"""What every perturbation set must obey, from the one table."""

import pytest
import torch

from helpers import every
from helpers.toys import generator
from mpkit.core import trees
from mpkit.evaluation.verification import TOLERANCE, excess
from mpkit.sets import Ball, parse_threat
from mpkit.sets.base import KNOWN

each = pytest.mark.parametrize("threat", every.SETS.values(), ids=every.SETS)
BALLS = {name: one for name, one in every.SETS.items() if isinstance(one, Ball)}
each_ball = pytest.mark.parametrize("ball", BALLS.values(), ids=BALLS)
both = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def images(dtype=torch.float64):
    return every.problem(dtype=dtype)[1]


@each
@both
def test_samples_and_zero_are_allowed_and_images_stay_images(threat, dtype):
    x = images(dtype)
    threat.check(x)
    for seed in range(5):
        z = threat.sample(x, generator(seed))
        image = threat.apply(x, z)
        assert threat.contains(x, z).all()
        assert (excess(threat, x, z) <= max(TOLERANCE, 4e-6)).all()
        assert image.dtype == dtype and image.shape == x.shape
        assert image.min() >= 0 and image.max() <= 1
    zero = threat.zero(x)
    assert threat.contains(x, zero).all()
    torch.testing.assert_close(threat.apply(x, zero), x)


@each
def test_chance_comes_from_the_generator_alone(threat):
    x = images()
    torch.manual_seed(1)
    first = threat.apply(x, threat.sample(x, generator(5)))
    torch.manual_seed(2)
    assert torch.equal(first, threat.apply(x, threat.sample(x, generator(5))))
    assert not torch.equal(first, threat.apply(x, threat.sample(x, generator(6))))


@each
def test_smaller_budgets_allow_less(threat):
    x = images()
    for share in (0.3, torch.linspace(0, 1, len(x))):
        small = threat.scaled(share)
        z = small.sample(x, generator())
        assert small.contains(x, z).all() and threat.contains(x, z).all()


@each
def test_a_set_says_in_words_what_it_is(threat):
    words = threat.describe()
    if threat.word() in KNOWN and "one-per-image" not in words:
        assert parse_threat(words).parts() == (threat,)
    assert "\n" not in words and words == threat.describe()
    assert len({one.describe() for one in every.SETS.values()}) == len(every.SETS)


@each
def test_rows_can_be_taken(threat):
    x, rows = images(), torch.tensor([4, 1])
    z = threat.sample(x, generator())
    few = trees.take(threat, rows)
    assert few.contains(x[rows], trees.take(z, rows)).all()
    assert torch.equal(few.apply(x[rows], trees.take(z, rows)), threat.apply(x, z)[rows])


@each_ball
@both
def test_projections_are_allowed_nearest_and_idempotent(ball, dtype):
    x = images(dtype)
    for size in (0.05, 1.0, 20.0):
        d = size * torch.randn(x.shape, generator=generator(), dtype=dtype)
        z = ball.project(x, d)
        assert ball.contains(x, z).all()
        assert torch.equal(ball.project(x, z), z)
        inside = ball.sample(x, generator(1))
        assert torch.equal(ball.project(x, inside), inside)
        # obtuse angle: no allowed point lies on the far side of the projection
        angle = ((d - z) * (inside - z)).flatten(1).sum(1)
        assert (angle <= 1e-4 * (1 + size) ** 2).all()
        assert ball.fits(x, ball.shrink(d)).all()


@each_ball
def test_directions_attain_the_dual_norm(ball):
    g = torch.randn(images().shape, generator=generator(), dtype=torch.float64)
    way = ball.direction(g)
    assert (ball.norm(way) <= 1 + 1e-9).all()
    torch.testing.assert_close((g * way).flatten(1).sum(1), ball.dual_norm(g))
    for _ in range(20):  # no other direction of norm 1 does better
        z = torch.randn(g.shape, generator=generator(3), dtype=g.dtype)
        z = z / ball.norm(z).view(-1, 1, 1, 1)
        assert ((g * z).flatten(1).sum(1) <= ball.dual_norm(g) + 1e-9).all()


@each_ball
def test_the_ball_of_everything_holds_every_image(ball):
    x, other = images(), torch.rand(images().shape, generator=generator(9), dtype=torch.float64)
    whole = ball.everything(x)
    assert whole.contains(x, other - x).all()
    assert whole.contains(x * 0, torch.ones_like(x)).all()
