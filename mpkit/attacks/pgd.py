"""Projected gradient attacks: PGD, SLIDE for l_1, and MSD for several balls at once."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import reduce
from itertools import starmap
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.base import AttackResult, Best, Climb, Iterative, Problem
from mpkit.attacks.gradients import climb
from mpkit.attacks.losses import CrossEntropy, Loss
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.sets import L1, Ball, Union, fused
from mpkit.sets.fused import by_kernel
from mpkit.sets.norms import per_row, size_and_room, sparse_direction


class Start(ABC):
    """Where a search begins."""

    @abstractmethod
    def __call__(self, ball: Ball, problem: Problem) -> Tensor:
        """A first z (B, C, H, W), of which x + z is an image."""

    def inside(self, ball: Ball, problem: Problem) -> Tensor:
        """The point of the ball that is nearest to it: where attacks begin that must not leave."""
        return ball.project(problem.x, self(ball, problem))


@dataclass(frozen=True)
class Uniform(Start):
    """A random point of the set, by the law of its ``sample``."""

    def __call__(self, ball: Ball, problem: Problem) -> Tensor:
        """Draw z (B, C, H, W)."""
        return ball.sample(problem.x, problem.rng)

    def inside(self, ball: Ball, problem: Problem) -> Tensor:
        """The same: it is drawn from the ball."""
        return self(ball, problem)


@dataclass(frozen=True)
class Clean(Start):
    """The image itself."""

    def __call__(self, ball: Ball, problem: Problem) -> Tensor:
        """Zeros (B, C, H, W)."""
        return ball.zero(problem.x)

    def inside(self, ball: Ball, problem: Problem) -> Tensor:
        """The same: the image is in every ball."""
        return self(ball, problem)


class StepSchedule(ABC):
    """How the step length changes during an attack; the mean of all factors is one."""

    @abstractmethod
    def __call__(self, k: int, steps: int) -> float:
        """The factor on the length of step k of so many steps."""


@dataclass(frozen=True)
class Constant(StepSchedule):
    """Every step has the same length."""

    def __call__(self, k: int, steps: int) -> float:
        """One."""
        return 1.0


@dataclass(frozen=True)
class Falling(StepSchedule):
    """Steps fall geometrically, so that the search covers the same way and comes to rest.

    Args:
        last: the last step over the first, in (0, 1).

    Raises: ValueError: if it is not.
    """

    last: float = 1e-3

    def __post_init__(self) -> None:
        if not 0 < self.last < 1:
            raise ValueError(f"Falling: last must lie in (0, 1), got {self.last}; try 0.001")

    def __call__(self, k: int, steps: int) -> float:
        """``last`` to the power k / steps, over its mean."""
        ratio = self.last ** (1 / steps)
        mean = (1 - self.last) / (1 - ratio) / steps
        return float(ratio**k / mean)


class Walk(NamedTuple):
    """State of a projected gradient attack: where it stands, and the best point so far."""

    z: Tensor
    best: Best


@dataclass(frozen=True)
class PGD(Climb):
    """Projected gradient ascent: steepest step in the ball's own norm, exact projection.

    The best iterate is kept: one that reaches the goal if any does, then the greatest score.

    Args:
        steps: number of gradients, > 0.
        step: length of a step in the ball's norm, > 0; 2.5 eps / steps where not given.
        schedule: how the step length changes.

    Raises: ValueError: if steps or step is not positive.

    Source: Madry et al. 2018; the step length is the default of Tramèr and Boneh's code.
    """

    set: Ball
    steps: int = 40
    step: float | None = None
    loss: Loss = field(default_factory=CrossEntropy)
    start: Start = Uniform()
    schedule: StepSchedule = Constant()
    alike = True

    def __post_init__(self) -> None:
        require_positive(type(self).__name__, steps=self.steps, step=self.step)

    def begin(self, problem: Problem) -> Walk:
        """The start, with nothing seen yet."""
        z = self.start.inside(self.set, problem)
        return Walk(z, Best.none_yet(problem.x, z))

    def advance(self, problem: Problem, state: Walk, k: int) -> Walk:
        """Look at the current point, step along its gradient, project."""
        image = self.set.apply(problem.x, state.z)
        here, gradient = Best.with_slope(problem, self.loss, state.z, image)
        (factor,) = problem.pace or self.pace(k)
        z = self.stride(image, gradient, self.length(image) * factor).add_(state.z)
        return Walk(self.set.project(problem.x, z), state.best.or_better(here))

    def pace(self, k: int) -> tuple[float, ...]:
        """The factor on the step length."""
        return (self.schedule(k, self.steps),)

    def stride(self, image: Tensor, gradient: Tensor, length: Tensor) -> Tensor:
        """The steepest step of that length in the ball's norm: (B, C, H, W)."""
        return self.set.stride(image, gradient, length)

    def length(self, like: Tensor) -> Tensor:
        """The step length, to multiply a tensor (B, C, H, W) with."""
        if self.step is not None:
            return per_row(self.step, like)
        return per_row(self.set.eps * (2.5 / self.steps), like)


@dataclass(frozen=True)
class SLIDE(PGD):
    """Sparse l_1 descent: steps in the signs of the largest gradient entries, exact projection.

    At every step the entries that cannot move, because they stand at the box, are set aside
    first; then those at or above the given quantile of the absolute gradient take part, each with
    the same share of the step. A quantile close to 1 is plain l_1 steepest ascent, one entry.
    Entries that are set aside, and that the gradient prefers to one that moves, are pushed against
    the box, so that the projection does not take from them what the next step would give back.

    Args:
        quantile: share of the entries that stand still, in [0, 1); at least one moves.

    Raises: ValueError: if steps or step is not positive, or quantile is not in [0, 1).

    Source: Tramèr and Boneh 2019, algorithm 1; to push against the box is ours: without it most
        steps from a random start are spent on the entries that already stand there.
    """

    set: L1
    quantile: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.quantile < 1:
            raise ValueError(
                f"SLIDE: quantile must lie in [0, 1), got {self.quantile}; give 0.99 for the top 1%"
            )

    def stride(self, image: Tensor, gradient: Tensor, length: Tensor) -> Tensor:
        """Signs of the largest entries that can move, with equal shares: (B, C, H, W)."""
        return sparse_step(image, gradient, self.quantile, length)


@by_kernel(fused.movable)
def movable(image: Tensor, gradient: Tensor) -> Tensor:
    """The gradient without the entries that only push a pixel out of [0, 1]: (B, C, H, W)."""
    _, room = size_and_room(gradient, image)
    return torch.gt(room, 0, out=room).view_as(gradient).mul_(gradient)


@by_kernel(fused.sparse_step)
def sparse_step(image: Tensor, gradient: Tensor, quantile: float, length: Tensor) -> Tensor:
    """The step of SLIDE, (B, C, H, W): its l_1 length is that of the entries that can move."""
    free = movable(image, gradient)
    step = sparse_direction(free, quantile).mul_(length).flatten(1)
    size, moves = gradient.flatten(1).abs(), step != 0
    least = torch.where(moves, size, torch.inf).amin(1, keepdim=True)
    against = (free.flatten(1) == 0) & (size >= least)
    each = step.abs().amax(1, keepdim=True) * gradient.flatten(1).sign()
    return torch.where(against, each, step).view_as(gradient)


class Trail(NamedTuple):
    """State: the current perturbation, the ball (B,) it lies in, the best pair of both so far."""

    z: Tensor
    which: Tensor
    best: Best


@dataclass(frozen=True)
class MSD(Iterative):
    """Multi steepest descent: at every step each ball proposes its own, and the worst is taken.

    One attack for the union of balls, in which a single perturbation is led by all norms.

    Args:
        steps: number of gradients, > 0; each costs one more forward pass for every ball.
        step: lengths in each ball's norm; 2.5 eps / steps where not given.
        loss: what is maximized, and by which proposals are compared.
        start: where to begin; a start drawn from the first ball lies in that ball.
        quantile: for l_1 balls, the share of entries that stand still in a step.

    Raises: ValueError: if the union holds anything but balls, or a number is unfit.

    Source: Maini, Wong and Kolter 2020, algorithm 1.
    """

    set: Union
    steps: int = 40
    step: tuple[float, ...] | None = None
    loss: Loss = field(default_factory=CrossEntropy)
    start: Start = field(default_factory=Clean)
    quantile: float = 0.99
    alike = True

    def __post_init__(self) -> None:
        require_positive("MSD", steps=self.steps)
        if not all(isinstance(ball, Ball) for ball in self.set.sets):
            raise ValueError(
                f"MSD: all sets of the union must be balls, got {self.set}; "
                "for other sets take Worst of one attack each"
            )
        if self.step is not None:
            if len(self.step) != len(self.set.sets):
                raise ValueError(
                    f"MSD: step must give one length for each of the {len(self.set.sets)} balls, "
                    f"got {self.step}"
                )
            require_positive("MSD", **{f"step[{i}]": s for i, s in enumerate(self.step)})

    @property
    def balls(self) -> list[Ball]:
        """The balls of the union."""
        return [one for one in self.set.sets if isinstance(one, Ball)]

    def begin(self, problem: Problem) -> Trail:
        """The start, in the first ball, with nothing seen yet."""
        z = self.start.inside(self.balls[0], problem)
        which = torch.zeros_like(problem.y)
        return Trail(z, which, Best.none_yet(problem.x, (which, z)))

    def advance(self, problem: Problem, state: Trail, k: int) -> Trail:
        """One proposal from each ball; go where the loss is greatest."""
        x = problem.x
        image = x + state.z
        g = climb(problem.model, self.loss, image, problem.y).gradient

        def proposal(i: int, ball: Ball) -> Best:
            z = ball.project(x, self.stride(i, ball, image, g).add_(state.z))
            return Best.at(problem, self.loss, (torch.full_like(state.which, i), z), x + z)

        seen = starmap(proposal, enumerate(self.balls))
        chosen = reduce(lambda a, b: trees.where(b.score > a.score, b, a), seen)
        which, z = chosen.z
        return Trail(z, which, state.best.or_better(chosen))

    def found(self, problem: Problem, best: Best) -> AttackResult:
        """The best points, in the union's coordinate, with their images."""
        which, z = best.z
        return super().found(problem, best._replace(z=(which, (z,) * len(self.set.sets))))

    def stride(self, i: int, ball: Ball, image: Tensor, g: Tensor) -> Tensor:
        """The step of ball i: steepest, and sparse for l_1."""
        length = ball.eps * (2.5 / self.steps) if self.step is None else self.step[i]
        if ball.order == 1:
            return sparse_step(image, g, self.quantile, per_row(length, g))
        return ball.stride(image, g, per_row(length, g))
