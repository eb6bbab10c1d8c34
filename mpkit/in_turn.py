"""Search between poses and a ball at a fixed share: the worst pose first, then the ball on top."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mpkit.apgd import APGD
from mpkit.checks import require_positive
from mpkit.engine import Attack, Found, Problem
from mpkit.losses import CrossEntropy, Loss
from mpkit.sets import Affine, RotationTranslation
from mpkit.spatial import Grid


@dataclass(frozen=True)
class InTurn(Attack):
    """A share w of the spatial budget by grid, then 1 - w of the ball's by gradients.

    The pose is the worst of a grid for the image by itself, so this is greedy; it does not climb
    the rugged landscape of poses, and cannot get stuck in it.

    Args:
        set: what lies between a RotationTranslation and a ball.
        share: w in (0, 1).
        steps: number of gradients in the ball, > 0.
        shifts: grid points along each axis.
        angles: grid points of the angle; one where no rotation is allowed.
        loss: what is maximized.

    Raises:
        ValueError: if a number is unfit, or the first set is not a RotationTranslation.

    Source: Tramèr and Boneh 2019, section 4, for the adversary; the search is ours.
    """

    set: Affine
    share: float = 0.5
    steps: int = 25
    shifts: int = 5
    angles: int = 7
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        numbers = {"steps": self.steps, "shifts": self.shifts, "angles": self.angles}
        require_positive("InTurn", **numbers)
        if not 0 < self.share < 1:
            raise ValueError(f"InTurn: share must lie in (0, 1), got {self.share}; try 0.5")
        if not isinstance(self.set.a, RotationTranslation):
            raise ValueError(
                f"InTurn: the first set must be a RotationTranslation, got {self.set.a!r}; "
                "between two balls take AffinePGD"
            )

    def find(self, problem: Problem) -> Found:
        """The grid, then Auto-PGD around the image it found."""
        poses = self.set.a.scaled(self.share)
        assert isinstance(poses, RotationTranslation)
        angles = 1 if isinstance(poses.degrees, float | int) and not poses.degrees else self.angles
        turned = Grid(poses, self.shifts, angles, loss=self.loss).find(problem)
        ball = self.set.b.scaled(1 - self.share)
        top = APGD(ball, self.steps, self.loss).find(replace(problem, x=turned.image))
        z = (problem.x.new_full((len(problem.x),), self.share), turned.z, top.z)
        return Found(self.set.apply(problem.x, z), z, top.score)
