"""Auto-PGD: gradient attacks that choose their own step lengths, for l_inf, l_2 and l_1."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.base import Attack, AttackResult, Best, Climb, Problem
from mpkit.attacks.losses import CrossEntropy, Loss
from mpkit.attacks.pgd import Start, Uniform, movable
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.sets import Ball, fused
from mpkit.sets.fused import by_kernel
from mpkit.sets.norms import bisected, per_row

SPECK = 1e-4
"""An entry below this share of the largest is rounding, not part of a sparse perturbation."""


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
        better = state.top.beaten_by(here)
        top, uphill = trees.where(better, (here, gradient), (state.top, state.uphill))
        state = state._replace(top=top, uphill=uphill)
        if k >= max(self.stages()):
            state = state._replace(best=state.best.or_better(here))
        if self.adapts(k):
            state, gradient = self.adapt(state, gradient, ball)
        free = movable(self.set.apply(x, state.z), gradient)
        step = sparse_signs(free, state.moving) * state.step
        return state._replace(z=ball.project(x, state.z + step))

    def kind(self, k: int) -> Hashable:
        """The stage, and whether it begins or thinks things over."""
        return sum(k >= s for s in self.stages()), k in self.stages(), self.adapts(k)

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
        return state._replace(
            z=z,
            step=per_row(ball.eps, x).expand(len(x), 1, 1, 1),
            moving=torch.full_like(state.moving, 0.2),
            entries=torch.full_like(state.entries, x[0].numel()),
            top=Best.none_yet(x, z),
        )

    def adapt(self, state: Thinning, gradient: Tensor, ball: Ball) -> tuple[Thinning, Tensor]:
        """Where the best point became sparser go back to it with a full step, else step less."""
        size = state.top.z.flatten(1).abs()
        changed = size > SPECK * size.amax(1, keepdim=True)
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


@by_kernel(fused.largest_signs)
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


class Swing(NamedTuple):
    """State of the momentum version, one row for each example.

    Attributes:
        z: the current point.
        before: the point before it.
        step: step length, (B, 1, 1, 1).
        score: the score at the point before.
        rises: in how many steps of this stretch the score rose.
        mark: the best score at the last checkpoint.
        halved: whether the step was halved there.
        uphill: the gradient at the best point.
        best: the best point so far.
    """

    z: Tensor
    before: Tensor
    step: Tensor
    score: Tensor
    rises: Tensor
    mark: Tensor
    halved: Tensor
    uphill: Tensor
    best: Best


@dataclass(frozen=True)
class MomentumAPGD(Climb):
    """Auto-PGD for l_inf and l_2; see APGD."""

    set: Ball
    steps: int
    loss: Loss
    start: Start

    def begin(self, problem: Problem) -> Swing:
        """The start, with steps as long as the ball is wide."""
        x, z = problem.x, self.start.inside(self.set, problem)
        best = Best.none_yet(x, z)
        step = per_row(self.set.eps, x).expand(len(x), 1, 1, 1) * 2
        zeros, no = torch.zeros_like(best.score), torch.zeros_like(best.reached)
        return Swing(z, z, step, best.score, zeros, best.score, no, torch.zeros_like(x), best)

    def advance(self, problem: Problem, state: Swing, k: int) -> Swing:
        """Look, perhaps go back to the best point with half the step, then move."""
        image = self.set.apply(problem.x, state.z)
        here, gradient = Best.with_slope(problem, self.loss, state.z, image)
        better = state.best.beaten_by(here)
        best, uphill = trees.where(better, (here, gradient), (state.best, state.uphill))
        rises = state.rises + (here.score > state.score)
        state = state._replace(rises=rises, score=here.score, uphill=uphill, best=best)
        if k in checkpoints(self.steps):
            (enough,) = problem.pace or self.pace(k)
            state, gradient = self.rethink(state, gradient, enough)
        return self.move(problem.x, state, gradient, k)

    def kind(self, k: int) -> Hashable:
        """Whether it is the first, thinks things over, or ends at the walls."""
        return k == 0, k in checkpoints(self.steps), self.cuts(k)

    def pace(self, k: int) -> tuple[float, ...]:
        """How many rises of the score are enough at a checkpoint."""
        return (0.75 * checkpoints(self.steps).get(k, 0),)

    def rethink(self, state: Swing, gradient: Tensor, enough: Any) -> tuple[Swing, Tensor]:
        """At a checkpoint: rows without progress return to their best point with half the step."""
        stuck = ~state.halved & (state.best.score <= state.mark)
        back = (state.rises < enough) | stuck
        z, before, gradient, step = trees.where(
            back,
            (state.best.z, state.best.z, state.uphill, state.step / 2),
            (state.z, state.before, gradient, state.step),
        )
        state = state._replace(
            z=z,
            before=before,
            step=step,
            score=torch.where(back, state.best.score, state.score),
            rises=torch.zeros_like(state.rises),
            mark=state.best.score,
            halved=back,
        )
        return state, gradient

    def move(self, x: Tensor, state: Swing, gradient: Tensor, k: int) -> Swing:
        """A projected step, blended with the last movement."""
        z, weight = state.z, 0.75 if k else 1.0
        ahead = self.land(x, z + self.set.direction(gradient) * state.step, k)
        swung = torch.lerp(z, ahead, weight) + (z - state.before) * (1 - weight)
        return state._replace(z=self.land(x, swung, k), before=z)

    def land(self, x: Tensor, z: Tensor, k: int) -> Tensor:
        """The nearest point of ball and box, of z itself or of z cut at the walls of the box."""
        return self.set.project(x, (x + z).clamp_(0, 1).sub_(x) if self.cuts(k) else z)

    def cuts(self, k: int) -> bool:
        """In l_2, whether step k ends at the walls: in the first half, while steps are long.

        The point nearest to where a long step leads has the whole radius on the few pixels that
        went farthest; from the walls on all are shortened alike, and more of them take part. Short
        steps end where they lead, since only then the search comes to rest at an optimum.
        """
        return self.set.order == 2 and k < self.steps / 2


def checkpoints(steps: int) -> dict[int, int]:
    """The steps at which progress is measured, and the length of the stretch before each."""
    marks, before, last, gap = {}, 0, 0, 22
    while (last := last + gap) < 100:
        here = -(-last * steps // 100)
        if here > before:
            marks[here] = here - before
        before, gap = here, max(gap - 3, 6)
    return marks


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD: no step length to choose; it is halved where an example makes no progress.

    For l_inf and l_2: momentum, and at checkpoints a return to the best point with half the step.
    In l_2, steps of the first half are cut at the walls of the box before they are projected.
    For l_1: sparse steps whose sparsity follows that of the best perturbation, first in larger
    balls, with the exact projection onto ball ∩ box.

    Args:
        steps: number of gradients, > 0.
        loss: what is maximized; with DLR() and MultiTargeted this is AutoAttack's gradient part.

    Raises: ValueError: if steps is not positive.

    Source: Croce and Hein 2020, algorithm 1; for l_1 Croce and Hein 2021, algorithm 1. The
        order of cut and projection is that of the code of ART (Nicolae et al. 2018); to keep it
        to the first half is ours.
    """

    set: Ball
    steps: int = 100
    loss: Loss = field(default_factory=CrossEntropy)
    start: Start = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        require_positive("APGD", steps=self.steps)

    def unrolled(self) -> MomentumAPGD | SparseAPGD:
        """The version for the ball's norm."""
        version = SparseAPGD if self.set.order == 1 else MomentumAPGD
        return version(self.set, self.steps, self.loss, self.start)

    def find(self, problem: Problem) -> AttackResult:
        """Run the version for the ball's norm."""
        return self.unrolled().find(problem)
