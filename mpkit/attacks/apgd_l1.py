"""Auto-PGD with sparse steps, for l_1."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.base import Best, Climb, Problem
from mpkit.attacks.losses import Loss
from mpkit.attacks.pgd import Start, movable
from mpkit.core import trees
from mpkit.sets import Ball
from mpkit.sets.norms import bisected, per_row


class Thinning(NamedTuple):
    """State of the l_1 version, one row for each example.

    Attributes:
        z: the current point.
        step: l_1 length of a step, (B, 1, 1, 1).
        moving: share of the entries that take part in a step, (B,).
        entries: how many entries the best point changed at the last checkpoint, (B,).
        top: the best point of this stage, in the stage's own radius.
        uphill: the gradient at that point.
        best: the best point in the ball itself.
    """

    z: Tensor
    step: Tensor
    moving: Tensor
    entries: Tensor
    top: Best
    uphill: Tensor
    best: Best


@dataclass(frozen=True)
class SparseAPGD(Climb):
    """Auto-PGD for l_1; see APGD. Stages in three, two and one times the radius."""

    set: Ball
    steps: int
    loss: Loss
    start: Start

    def stages(self) -> dict[int, float]:
        """The first step of each stage, and the factor on its radius."""
        return {0: 3.0, 3 * self.steps // 10: 2.0, 6 * self.steps // 10: 1.0}

    def ball(self, k: int) -> Ball:
        """The ball of step k."""
        return self.set.scaled(next(f for s, f in reversed(self.stages().items()) if k >= s))

    def begin(self, problem: Problem) -> Thinning:
        """The start, in the largest ball."""
        x = problem.x
        z = self.start.inside(self.ball(0), problem)
        none, share = Best.none_yet(x, z), x.new_zeros(len(x))
        step, uphill = x.new_zeros(len(x), 1, 1, 1), torch.zeros_like(x)
        return Thinning(z, step, share, share, none, uphill, none)

    def advance(self, problem: Problem, state: Thinning, k: int) -> Thinning:
        """Look, adapt sparsity and step at checkpoints, then step and project."""
        x, ball = problem.x, self.ball(k)
        if k in self.stages():
            state = self.enter(x, state, ball)
        image = self.set.apply(x, state.z)
        here, gradient = Best.with_slope(problem, self.loss, state.z, image)
        top, uphill = trees.where(
            state.top.beaten_by(here), (here, gradient), (state.top, state.uphill)
        )
        state = state._replace(top=top, uphill=uphill)
        if k >= max(self.stages()):
            state = state._replace(best=state.best.or_better(here))
        if self.adapts(k):
            state, gradient = self.adapt(state, gradient, ball)
        free = movable(self.set.apply(x, state.z), gradient)
        step = sparse_signs(free, state.moving) * state.step
        return state._replace(z=ball.project(x, state.z + step))

    def adapts(self, k: int) -> bool:
        """Whether sparsity and step length are thought over at step k: 4 % of its stage apart."""
        begins = sorted(self.stages())
        first = max(begin for begin in begins if begin <= k)
        last = min((begin for begin in begins if begin > k), default=self.steps)
        every = max(1, int(0.04 * (last - first)))
        return (k - first) % every == every - 1

    def enter(self, x: Tensor, state: Thinning, ball: Ball) -> Thinning:
        """Begin a stage: from the best point of the one before, with many entries moving."""
        z = ball.project(x, state.top.z)
        size = x[0].numel()
        return state._replace(
            z=z,
            step=per_row(ball.eps, x).expand(len(x), 1, 1, 1),
            moving=torch.full_like(state.moving, 0.2),
            entries=torch.full_like(state.entries, size),
            top=Best.none_yet(x, z),
        )

    def adapt(self, state: Thinning, gradient: Tensor, ball: Ball) -> tuple[Thinning, Tensor]:
        """Where the best point became sparser go back to it with a full step, else step less."""
        changed = (state.top.z != 0).flatten(1)
        entries = changed.sum(1).to(state.entries.dtype)
        sparser = entries < 0.95 * state.entries
        full = per_row(ball.eps, state.step)
        z, step, gradient = trees.where(
            sparser,
            (state.top.z, full.expand_as(state.step), state.uphill),
            (state.z, torch.maximum(state.step / 1.5, full / 10), gradient),
        )
        moving = entries / changed.shape[1] / 1.5
        return state._replace(z=z, step=step, moving=moving, entries=entries), gradient


def sparse_signs(g: Tensor, moving: Tensor) -> Tensor:
    """Signs of the largest entries over their number, a different share of them in each row.

    The smallest entry that takes part is found by halving, without sorting.

    Args:
        g: (B, C, H, W).
        moving: (B,) shares in [0, 1]; at least one entry moves where g is not zero.
    """
    size = g.flatten(1).abs()
    wanted = (moving.unsqueeze(1) * size.shape[1]).clamp(min=1)
    among = torch.empty_like(size)

    def too_many(level: Tensor) -> Tensor:
        return torch.ge(size, level, out=among).sum(1, keepdim=True) > wanted

    _, high = bisected(torch.zeros_like(wanted), size.amax(1, keepdim=True), too_many, 16)
    signs = torch.ge(size, high, out=among).mul_(g.flatten(1).sign())
    return (signs / signs.abs().sum(1, keepdim=True).clamp_(min=1)).view_as(g)
