"""Attacks by rotation and translation: the exhaustive grid, and gradients through the warp."""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.base import Best, Climb, Iterative, Problem
from mpkit.attacks.gradients import look
from mpkit.attacks.losses import CrossEntropy, Loss
from mpkit.attacks.pgd import Falling, StepSchedule, Walk
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.sets import RotationTranslation

ROUNDS = 6
"""How often the neighbours of a pose are tried, at half the distance each time."""


class Swept(NamedTuple):
    """The best pose so far, and the score of every pose of the grid, (B, poses)."""

    best: Best
    scores: Tensor


@dataclass(frozen=True)
class Grid(Iterative):
    """Every pose of a grid over rotations and translations; 5 x 5 x 31 = 775 as a rule.

    The landscape is rugged, and the worst pose lies between grid points: the best ones of each
    image are then refined by a compass search, which moves to the better of two neighbours along
    each of the three numbers and halves the distance after every round.

    Args:
        shifts: grid points along each axis, ends included.
        angles: grid points of the angle, ends included.
        together: poses per forward pass; memory grows with it.
        refine: grid points that are refined, ≥ 0.

    Raises: ValueError: if a number is not positive, or refine is negative.

    Source: Engstrom et al. 2019; Tramèr and Boneh 2019 evaluate with this grid, unrefined.
    """

    set: RotationTranslation
    shifts: int = 5
    angles: int = 31
    together: int = 4
    refine: int = 0
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        require_positive("Grid", shifts=self.shifts, angles=self.angles, together=self.together)
        if self.refine < 0:
            raise ValueError(f"Grid: refine must be at least 0, got {self.refine}; try 10")

    @property
    def poses(self) -> int:
        """Number of grid points."""
        return self.shifts**2 * self.angles

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Number of forward passes."""
        return -(-self.poses // self.together)

    def begin(self, problem: Problem) -> Swept:
        """Nothing seen yet."""
        best = Best.none_yet(problem.x, self.set.zero(problem.x))
        return Swept(best, best.score.unsqueeze(1).repeat(1, self.poses))

    def advance(self, problem: Problem, state: Swept, k: int) -> Swept:
        """Look at the next poses of the grid, for all images at once."""
        x, (first,) = problem.x, problem.pace or self.pace(k)
        places = (torch.arange(self.kind(k), device=x.device) + first).long()
        shares = self.shares(x)[places].expand(len(x), -1, 3)
        best, scores = self._look(problem, state.best, shares)
        return Swept(best, state.scores.index_copy_(1, places, scores))

    def kind(self, k: int) -> int:
        """How many poses are looked at: fewer in the last step."""
        return min(self.together, self.poses - k * self.together)

    def pace(self, k: int) -> tuple[float, ...]:
        """The place of the first of them in the grid."""
        return (k * self.together,)

    def finish(self, problem: Problem, state: Swept) -> Best:
        """The best pose, after the best ones of the grid were refined."""
        points = [problem.x.new_full((), n) for n in (self.shifts, self.shifts, self.angles)]
        best, step = state.best, 1 / torch.stack(points)
        top = state.scores.topk(min(self.refine, self.poses), dim=1)
        pose, score = self.shares(problem.x)[top.indices], top.values
        for _ in range(ROUNDS if self.refine else 0):
            for axis in torch.diag(step):
                for way in (axis, -axis):
                    there = (pose + way).clamp(-1, 1)
                    best, found = self._look(problem, best, there)
                    pose = torch.where((found > score).unsqueeze(2), there, pose)
                    score = torch.maximum(score, found)
            step = step / 2
        return best

    def _look(self, problem: Problem, best: Best, shares: Tensor) -> tuple[Best, Tensor]:
        """The best pose and the scores (B, n) of poses (B, n, 3), given as shares of the bounds."""
        x, y, scores = problem.x, problem.y, []
        for poses in torch.split(shares, self.together, dim=1):
            z = poses.transpose(0, 1) * self.set.bounds(x)
            n = len(z)
            warped = self.set.apply(x.repeat(n, 1, 1, 1), z.flatten(0, 1))
            loss = trees.mapped(lambda t, n=n: t.repeat(n, *[1] * (t.dim() - 1)), self.loss)
            labels = y.repeat(n)
            logits, score = look(problem.model, loss, warped, labels)
            reached = loss.reached(logits, labels).view(n, -1)
            for one in zip(z, score.view(n, -1), reached, strict=True):
                best = best.or_better(Best(*one))
            scores.append(score.view(n, -1).t())
        return best, torch.cat(scores, 1)

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
    alike = True

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
        (length,) = problem.pace or self.pace(k)
        z = state.z + length * self.set.bounds(problem.x) * slope.sign()
        return Walk(self.set.project(problem.x, z), state.best.or_better(here))

    def pace(self, k: int) -> tuple[float, ...]:
        """The length of the step."""
        return (self.step * self.schedule(k, self.steps),)


def _line(n: int, x: Tensor) -> Tensor:
    """Points from -1 to 1, or only 0."""
    if n == 1:
        return x.new_zeros(1)
    return torch.linspace(-1, 1, n, dtype=x.dtype, device=x.device)
