"""Attacks by rotation and translation: the exhaustive grid, and gradients through the warp."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpkit.attacks.base import Best, Climb, Iterative, Problem, Seen
from mpkit.attacks.gradients import look
from mpkit.attacks.losses import CrossEntropy, Loss
from mpkit.attacks.pgd import Falling, StepSchedule, Walk
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.sets import RotationTranslation


@dataclass(frozen=True)
class Grid(Iterative):
    """Every pose of a grid over rotations and translations; 5 x 5 x 31 = 775 as a rule.

    Args:
        shifts: grid points along each axis, ends included.
        angles: grid points of the angle, ends included.
        together: poses per forward pass; memory grows with it.

    Raises: ValueError: if a number is not positive.

    Source: Engstrom et al. 2019; Tramèr and Boneh 2019 evaluate with this grid.
    """

    set: RotationTranslation
    shifts: int = 5
    angles: int = 31
    together: int = 4
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        require_positive("Grid", shifts=self.shifts, angles=self.angles, together=self.together)

    @property
    def poses(self) -> int:
        """Number of grid points."""
        return self.shifts**2 * self.angles

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Number of forward passes."""
        return -(-self.poses // self.together)

    def advance(self, problem: Problem, state: Seen, k: int) -> Seen:
        """Look at the next poses of the grid, for all images at once."""
        x, y = problem.x, problem.y
        shares = self.shares(x)[k * self.together : (k + 1) * self.together]
        z = shares.unsqueeze(1) * self.set.bounds(x)
        n = len(shares)
        warped = self.set.apply(x.repeat(n, 1, 1, 1), z.flatten(0, 1))
        loss = trees.take(self.loss, torch.arange(len(x), device=x.device).repeat(n))
        logits, score = look(problem.model, loss, warped, y.repeat(n))
        reached = loss.reached(logits, y.repeat(n))
        best = state.best
        for one in zip(z, score.view(n, -1), reached.view(n, -1), strict=True):
            best = best.or_better(Best(*one))
        return Seen(best)

    def shares(self, x: Tensor) -> Tensor:
        """All grid points as shares of the bounds in [-1, 1]: (poses, 3)."""
        shift, angle = (_line(n, x) for n in (self.shifts, self.angles))
        return torch.cartesian_prod(shift, shift, angle)


@dataclass(frozen=True)
class SpatialPGD(Climb):
    """Gradient ascent on shifts and angle through the differentiable warp, from a random pose.

    Each of the three numbers moves by a share of its own bound in the sign of its derivative and
    is clipped to its bound. The landscape is rugged: use restarts.

    Args:
        steps: number of gradients, > 0.
        step: mean length of a step as a share of the bounds, > 0.
        schedule: how the step falls.

    Raises: ValueError: if steps or step is not positive.
    """

    set: RotationTranslation
    steps: int = 20
    step: float = 0.1
    schedule: StepSchedule = field(default_factory=lambda: Falling(0.05))
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        require_positive("SpatialPGD", steps=self.steps, step=self.step)

    def begin(self, problem: Problem) -> Walk:
        """A random pose, with nothing seen yet."""
        z = self.set.sample(problem.x, problem.rng)
        return Walk(z, Best.none_yet(problem.x, z))

    def advance(self, problem: Problem, state: Walk, k: int) -> Walk:
        """Look at the current pose and move along the derivative."""

        def render(z: Tensor) -> Tensor:
            return self.set.apply(problem.x, z)

        here, (slope,) = Best.through(problem, self.loss, state.z, render, state.z)
        length = self.step * self.schedule(k, self.steps)
        z = state.z + length * self.set.bounds(problem.x) * slope.sign()
        return Walk(self.set.project(problem.x, z), state.best.or_better(here))


def _line(n: int, x: Tensor) -> Tensor:
    """Points from -1 to 1, or only 0."""
    if n == 1:
        return x.new_zeros(1)
    return torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device)
