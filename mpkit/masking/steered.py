"""Projected ascent along a direction that does not come from the model's own gradient."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mpkit.checks import require_positive
from mpkit.engine import Best, Problem
from mpkit.gradients import climb, guard, look
from mpkit.losses import Loss, Margin
from mpkit.pgd import PGD, Falling, Schedule, Walk


@dataclass(frozen=True)
class Steered(PGD):
    """Projected ascent whose direction is an estimate; each point is judged by the model itself.

    Args:
        set: the ball, with its box.
        steps: number of steps, > 0.
        loss: what is maximized.
        schedule: how the step length changes.

    Raises:
        ValueError: if steps or step is not positive.
    """

    loss: Loss = field(default_factory=Margin)
    schedule: Schedule = field(default_factory=lambda: Falling(0.05))

    @abstractmethod
    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """A direction in which the loss should grow, (B, C, H, W)."""

    def advance(self, problem: Problem, state: Walk, k: int) -> Walk:
        """Judge the current point, step along the estimate, project."""
        image = self.set.apply(problem.x, state.z)
        logits, score = look(problem.model, self.loss, image, problem.y)
        here = Best(state.z, score, self.loss.reached(logits, problem.y))
        length = self.length(image) * self.schedule(k, self.steps)
        z = state.z + self.stride(image, self.uphill(problem, image, k), length)
        return Walk(self.set.project(problem.x, z), state.best.or_better(here))


@dataclass(frozen=True)
class Guided(Steered):
    """Ascent along the gradient of another network: a surrogate, or the model with a detour.

    Args:
        set: the ball, with its box.
        steps: number of gradients, > 0.
        guide: the network whose gradient is followed; in eval mode, on the device of the images.

    Raises:
        ValueError: if there is no guide, or a number is not positive.
    """

    guide: nn.Module | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide is None:
            raise ValueError("Guided: needs the network whose gradient it follows; give guide=...")

    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """The guide's own gradient."""
        assert self.guide is not None
        seen = climb(guard(self.guide, self.loss.classes, problem.y), self.loss, image, problem.y)
        return seen.gradient


@dataclass(frozen=True)
class Smoothed(Steered):
    """Ascent along finite differences averaged over Gaussian directions; needs no gradient.

    The estimate is the gradient of the loss smoothed over a neighbourhood, so that it sees slopes
    across flat steps and through wiggles. The width of the neighbourhood goes round through
    several scales, since the size of the steps is not known.

    Args:
        set: the ball, with its box.
        steps: number of estimates, > 0.
        directions: Gaussian directions of an estimate, each looked at from both sides, > 0.
        scales: standard deviations in pixel units, taken in turn.

    Raises:
        ValueError: if a number is not positive.

    Source: Ilyas et al. 2018 (natural evolution strategies), with widths of our own choice.
    """

    directions: int = 32
    scales: tuple[float, ...] = (0.03, 0.1, 0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("Smoothed", directions=self.directions)

    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """The averaged finite difference."""
        scale = self.scales[k % len(self.scales)]
        total = torch.zeros_like(image)
        pairs = max(1, min(self.directions, 2048 // len(image)))
        for done in range(0, self.directions, pairs):
            n = min(pairs, self.directions - done)
            shape = (n, *image.shape)
            way = torch.randn(shape, generator=problem.rng, dtype=image.dtype, device=image.device)
            total += (way * self._rise(problem, image, scale * way)).sum(0)
        return total

    def _rise(self, problem: Problem, image: Tensor, step: Tensor) -> Tensor:
        """Loss after each step (n, B, C, H, W) minus that after its opposite: (n, B, 1, 1, 1)."""
        n, labels = len(step), problem.y.repeat(2 * len(step))
        asked = torch.cat([image + step, image - step]).clamp(0, 1).flatten(0, 1)
        score = look(problem.model, self.loss, asked, labels)[1].view(2, n, -1)
        rise: Tensor = score[0] - score[1]
        return rise.view(n, -1, 1, 1, 1)
