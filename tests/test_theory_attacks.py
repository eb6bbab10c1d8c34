"""Theorem 4 with the library's own attacks: two that fail apart, and the two after one another."""

import torch

from mpkit.attacks import PGD
from mpkit.sets import Linf, RotationTranslation
from mpkit.spatial import Grid
from mpkit.theory import BrightPixel

WORLD = BrightPixel()
POSES, BALL = RotationTranslation(pixels=3, degrees=30), Linf(WORLD.eps)


def attacked(*attacks) -> torch.Tensor:
    """The margins y · score (10,) after the attacks, each starting where the last one ended."""
    rng = torch.Generator().manual_seed(0)
    x, y = WORLD.sample(10, rng)
    for attack in attacks:
        x = attack(WORLD.network(), x, (y > 0).long(), rng).image
    return y * WORLD.score(x)


def test_neither_attack_fools_it_with_its_whole_budget():
    """The exhaustive 775 poses find nothing, and PGD finds exactly the worst of the ball."""
    x, y = WORLD.sample(10, torch.Generator().manual_seed(0))
    still = torch.zeros(1, 3, dtype=torch.float64)
    torch.testing.assert_close(attacked(PGD(BALL)), WORLD.margin(x, y, still, WORLD.eps))
    assert (attacked(PGD(BALL)) > 0).all()
    assert (attacked(Grid(POSES)) > 0).all()


def test_half_of_each_fools_it_always():
    margins = attacked(Grid(POSES.scaled(0.5)), PGD(BALL.scaled(0.5)))
    assert (margins < -0.15).all()
