"""Fast minimum-norm attack: the smallest perturbation that breaks, not the worst in a ball."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.base import Best, Iterative, Problem
from mpkit.attacks.losses import Loss, Margin
from mpkit.attacks.pgd import Clean, Start
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.sets import Ball
from mpkit.sets.norms import positive, unit_direction


class Approach(NamedTuple):
    """State: the current point, and the radius (B,) of the ball that it is kept in.

    ``nearest`` is the norm of the smallest break so far, infinite where there is none; ``best`` is
    that break, or the point of greatest loss.
    """

    z: Tensor
    radius: Tensor
    nearest: Tensor
    best: Best


class MinimumNorm(Iterative):
    """A search for the smallest perturbation; its state has ``nearest`` and ``best``.

    What is returned is the smallest found that reaches the goal, if it lies in the set; take a set
    as large as the box, ``Ball.everything``, to measure distances. Where none lies in the set, the
    best point is projected onto it.
    """

    set: Ball

    def noted(self, state: Any, here: Best) -> Any:
        """Keep the point if it breaks with a smaller norm, or nothing broke and it is better.

        The goal counts as reached only within the set, so that no example leaves before that.
        """
        norm = torch.where(here.reached, self.set.norm(here.z), torch.inf)
        here = here._replace(reached=here.reached & self.set.fits(here.z, here.z))
        none = state.nearest.isinf() & norm.isinf()
        nearer = (norm < state.nearest) | (none & (here.score > state.best.score))
        best = trees.where(nearer, here, state.best)
        return state._replace(nearest=torch.minimum(norm, state.nearest), best=best)

    def finish(self, problem: Problem, state: Any) -> Best:
        """The smallest break, brought into the set where it is too large."""
        x = problem.x
        state = self.noted(state, Best.at(problem, self.loss, state.z, x + state.z))
        z = self.set.project(x, state.best.z)
        return Best.at(problem, self.loss, z, x + z)


@dataclass(frozen=True)
class FMN(MinimumNorm):
    """Fast minimum-norm attack: gradient steps in a ball that shrinks while the model errs.

    Args:
        steps: number of gradients, > 0.
        loss: a margin, positive exactly where the goal is reached; its value over the norm of
            its gradient is the first guess of the distance.
        step: length of the first step in l_2, > 0; steps fall to a hundredth along a cosine.
        gain: relative change of the radius at the first step, in (0, 1); falls alike.
        start: where to begin, inside of the ball or not: the image itself, or ``BoundaryStart()``.

    Raises: ValueError: if a number is unfit.

    Source: Pintor et al. 2021, algorithm 1.
    """

    set: Ball
    steps: int = 100
    loss: Loss = field(default_factory=Margin)
    step: float = 1.0
    gain: float = 0.05
    start: Start = field(default_factory=Clean)
    alike = True

    def __post_init__(self) -> None:
        require_positive("FMN", steps=self.steps, step=self.step, gain=self.gain)

    def begin(self, problem: Problem) -> Approach:
        """The start, in a ball that just holds it."""
        x, z = problem.x, self.start(self.set, problem)
        best = Best.none_yet(x, z)
        infinite = torch.full_like(best.score, torch.inf)
        return Approach(z, self.set.norm(z), infinite, best)

    def advance(self, problem: Problem, state: Approach, k: int) -> Approach:
        """Shrink the ball where the goal is reached, grow it elsewhere; step and project."""
        x = problem.x
        here, gradient = Best.with_slope(problem, self.loss, state.z, x + state.z)
        state = self.noted(state, here)
        more, less, length = problem.pace or self.pace(k)
        norm = self.set.norm(state.z)
        ahead = norm - here.score / positive(self.set.dual_norm(gradient))
        grown = torch.where(state.nearest.isinf(), ahead, state.radius) * more
        shrunk = torch.minimum(state.radius, state.nearest) * less
        most = self.set.norm(torch.maximum(x, 1 - x))
        radius = torch.minimum(torch.where(here.reached, shrunk, grown), most).clamp_(min=0)
        moved = state.z + unit_direction(gradient) * length
        z = replace(self.set, eps=radius).project(x, moved)
        return state._replace(z=z, radius=radius)

    def pace(self, k: int) -> tuple[float, ...]:
        """The factors on the radius where it grows and shrinks, and the step length."""
        gain = self.gain * self.falling(k, 0.02)
        return 1 + gain, 1 - gain, self.step * self.falling(k, 0.01)

    def falling(self, k: int, last: float) -> float:
        """A cosine from 1 down to ``last``."""
        return last + (1 - last) * (1 + math.cos(math.pi * k / self.steps)) / 2


@dataclass(frozen=True)
class BoundaryStart(Start):
    """The first point on the way to a near image of another class at which the network errs.

    Where gradients are flat around an image, as in networks that threshold their input, they are
    not flat at a border between two classes: a search that begins there does not need the slope
    that the network hides. The point usually lies outside of the ball, so this is a start for
    minimum-norm attacks. An image without any such neighbour starts at itself.

    Args:
        nth: which neighbour, by distance in the ball's norm; 0 is the nearest, ≥ 0. Where there
            are fewer, the furthest.
        halvings: of the way, to find the border; > 0.

    Raises: ValueError: if nth is negative or halvings is not positive.

    Source: the start of boundary attacks (Brendel et al. 2018), here for a gradient search; ours.
    """

    nth: int = 0
    halvings: int = 10

    def __post_init__(self) -> None:
        require_positive("BoundaryStart", halvings=self.halvings)
        if self.nth < 0:
            raise ValueError(
                f"BoundaryStart: nth must be ≥ 0, got {self.nth}; 0 is the nearest neighbour"
            )

    def __call__(self, ball: Ball, problem: Problem) -> Tensor:
        """Find neighbours among the problem's donors, then the border: z (B, C, H, W)."""
        x, y, model = problem.x, problem.y, problem.model
        donors = x if problem.donors is None else problem.donors
        called = model(donors).argmax(1)
        distance = torch.stack([ball.norm(donors - image) for image in x])
        same = called == y.unsqueeze(1)
        order = distance.masked_fill(same, torch.inf).argsort(dim=1, stable=True)
        last = (~same).sum(1) - 1
        place = last.clamp(min=0, max=self.nth).unsqueeze(1)
        way = donors[order.gather(1, place).squeeze(1)] - x
        way = torch.where((last >= 0).view(-1, 1, 1, 1), way, 0)
        low, high = x.new_zeros(len(x), 1, 1, 1), x.new_ones(len(x), 1, 1, 1)
        for _ in range(self.halvings):
            middle = (low + high) / 2
            wrong = (model(x + middle * way).argmax(1) != y).view(-1, 1, 1, 1)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return (x + high * way).clamp_(0, 1) - x
