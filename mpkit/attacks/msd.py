"""Multi steepest descent: one walk through several balls, each step the best of theirs."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.base import AttackResult, Best, Iterative, Problem
from mpkit.attacks.gradients import climb
from mpkit.attacks.losses import CrossEntropy, Loss
from mpkit.attacks.pgd import Clean, Start, movable
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.sets import Ball, Union
from mpkit.sets.norms import per_row, sparse_direction


class Trail(NamedTuple):
    """State: the current perturbation (B, C, H, W), the ball (B,) it lies in, the best so far.

    The best point's coordinate is the pair of both; that of the union is made of it at the end.
    """

    z: Tensor
    which: Tensor
    best: Best


@dataclass(frozen=True)
class MSD(Iterative):
    """Multi steepest descent: at every step each ball proposes its own, and the worst is taken.

    One attack for the union of balls, in which a single perturbation is led by all norms.

    Args:
        set: a union of balls.
        steps: number of gradients, > 0; each costs one more forward pass for every ball.
        step: lengths in each ball's norm; 2.5 eps / steps where not given.
        loss: what is maximized, and by which proposals are compared.
        start: where to begin; a start drawn from the first ball lies in that ball.
        quantile: for l_1 balls, the share of entries that stand still in a step.

    Raises:
        ValueError: if the union holds anything but balls, or a number is unfit.

    Source: Maini, Wong and Kolter 2020, algorithm 1.
    """

    set: Union
    steps: int = 40
    step: tuple[float, ...] | None = None
    loss: Loss = field(default_factory=CrossEntropy)
    start: Start = field(default_factory=Clean)
    quantile: float = 0.99

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

    def coordinate(self, z: Tensor, which: Tensor) -> Any:
        """The perturbation as a coordinate of the union."""
        return which, (z,) * len(self.set.sets)

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
        chosen: Best | None = None
        for i, ball in enumerate(self.balls):
            z = ball.project(x, self.stride(i, ball, image, g).add_(state.z))
            seen = Best.at(problem, self.loss, (torch.full_like(state.which, i), z), x + z)
            if chosen is not None:
                seen = trees.where(seen.score > chosen.score, seen, chosen)
            chosen = seen
        assert chosen is not None
        which, z = chosen.z
        return Trail(z, which, state.best.or_better(chosen))

    def found(self, problem: Problem, best: Best) -> AttackResult:
        """The best points, in the union's coordinate, with their images."""
        which, z = best.z
        return super().found(problem, best._replace(z=self.coordinate(z, which)))

    def stride(self, i: int, ball: Ball, image: Tensor, g: Tensor) -> Tensor:
        """The step of ball i: steepest, and sparse for l_1."""
        length = ball.eps * (2.5 / self.steps) if self.step is None else self.step[i]
        if ball.order == 1:
            return sparse_direction(movable(image, g), self.quantile).mul_(per_row(length, g))
        return ball.stride(image, g, per_row(length, g))
