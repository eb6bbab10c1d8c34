"""Theorem 4 with the library's own attacks: two that fail apart, and the two after one another."""

import pytest
import torch

from helpers.toys import Linear
from mpbook.theory import AffineInBox, BrightPixel
from mpkit.attacks import PGD, AffinePGD, Grid, GridThenAPGD, Margin
from mpkit.sets import L1, Affine, Linf, RotationTranslation

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


def test_the_affine_attack_finds_it_by_itself():
    x, y = WORLD.sample(10, torch.Generator().manual_seed(0))
    attack = AffinePGD(Affine(POSES, BALL), 40, loss=Margin())
    found = attack(WORLD.network(), x, (y > 0).long(), torch.Generator().manual_seed(1))
    assert attack.set.contains(x, found.z).all()
    share = found.z[0]
    assert ((share > 0) & (share < 1)).all()
    assert (y * WORLD.score(found.image) < 0).all()


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_shares_in_turn_stay_in_the_set_and_reach_the_grid_s_own_optimum(share):
    """On a linear model the ball on top is exact, so only the grid of poses is left."""
    x, y = WORLD.sample(4, torch.Generator().manual_seed(0))
    between = Affine(POSES, BALL)
    attack = GridThenAPGD(between, share, 100, shifts=3, angles=3, loss=Margin())
    found = attack(WORLD.network(), x, (y > 0).long(), torch.Generator().manual_seed(1))
    assert between.contains(x, found.z).all()
    exact = WORLD.margin(x, y, WORLD.poses(share, 3, 3), (1 - share) * WORLD.eps)
    assert (y * WORLD.score(found.image) >= exact - 1e-9).all()
    ball = WORLD.ball(POSES.apply(x, found.z[1]), y, (1 - share) * WORLD.eps)
    torch.testing.assert_close(WORLD.score(found.image), WORLD.score(ball))


def test_the_box_example_by_attack_by_program_and_by_hand():
    """The example of theorem 3: .550 at both ends, 41/60 between them at β = 8/27 (ours)."""
    weight = torch.full((1, 2, 5), 0.1, dtype=torch.float64)
    weight[0, 0, 0] = 1
    x = torch.full((1, 1, 2, 5), 0.5, dtype=torch.float64)
    between = Affine(L1(1.0), Linf(0.55 / 1.9))
    box = AffineInBox(weight.flatten(), x.flatten(), 1.0, 0.55 / 1.9)
    model, y = Linear(weight, level=20.0), torch.zeros(1, dtype=torch.int64)
    attack = AffinePGD(between, 100, loss=Margin())
    found = attack(model, x, y, torch.Generator().manual_seed(0))
    gained = float(found.score) + 20 - float((x * weight).sum())
    assert between.contains(x, found.z).all()
    assert box.by_linear_programming() == pytest.approx(41 / 60, abs=1e-9)
    assert gained == pytest.approx(41 / 60, abs=1e-4)


@pytest.mark.parametrize("bad", [{"share": 0.0}, {"share": 1.0}, {"steps": 0}, {"shifts": 0}])
def test_bad_shares_are_named(bad):
    with pytest.raises(ValueError, match="GridThenAPGD"):
        GridThenAPGD(Affine(POSES, BALL), **bad)
    with pytest.raises(ValueError, match="must be a RotationTranslation"):
        GridThenAPGD(Affine(L1(1), BALL))
