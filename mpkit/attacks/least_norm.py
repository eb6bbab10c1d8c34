"""Minimum-norm attacks for many gradients: primal and dual steps, a shrinking ball, and both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.apgd import APGD
from mpkit.attacks.base import Attack, AttackResult, Best, Problem
from mpkit.attacks.fmn import MinimumNorm
from mpkit.attacks.gradients import climb, look
from mpkit.attacks.losses import DLR, Loss, Margin, SoftMargin, TargetedDLR
from mpkit.attacks.wrappers import MultiTargeted
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.sets import L1, L2, Ball
from mpkit.sets.norms import per_row, positive, root

FIRST, LAST = 0.3, 0.1
"""Shares of the gradients for the first search, and for the walk."""
LONG, FEWEST, TRIES = 12, 4, 3
"""Gradients of a run of Auto-PGD below which it tries fewer radii; radii below which it tries none;
points that a step along the border tries."""
MOST, WEIGHT, LARGEST = 5.0, 0.08, 13.8
"""Of PrimalDual: limit on thresholds, steps of the logarithm of weights, and limit on it."""


def geometric(first: float, last: float, k: int, steps: int) -> float:
    """From the first value to the last in equal ratios, at step k of so many."""
    return float(first * (last / first) ** (k / steps))


class Balanced(NamedTuple):
    """State of PrimalDual.

    Attributes:
        z: the current point.
        mean: running mean of the direction, as Adam keeps it; ``square``, that of its squares.
        ratio: (B,) logarithm of the weight of the norm over that of the loss.
        pull: (B,) in (0, 1), running mean of the norm's weight.
        nearest: (B,) norm of the smallest break, infinite where there is none.
        best: that break, or the point of greatest loss.
    """

    z: Tensor
    mean: Tensor
    square: Tensor
    ratio: Tensor
    pull: Tensor
    nearest: Tensor
    best: Best


@dataclass(frozen=True)
class PrimalDual(MinimumNorm):
    """Steps down a weighted sum of norm and loss; the norm's weight grows while the goal is kept.

    No ball holds the search, so a pixel can go far and come back, and each has its own step length
    (Adam): what networks ask for that hardly react to small changes. The loss fades out behind the
    border, log(1 + exp(-margin)). In l_1 the norm is taken care of by soft thresholds in the same
    lengths, up to five times that of the pixel with the greatest slope: pixels whose slope is next
    to nothing here may go on, and find out whether they matter further away.

    Args:
        steps: number of gradients, > 0.
        loss: a margin, positive exactly where the goal is reached.
        rate: step length of a pixel, > 0; it falls to a tenth, as that of the weight does.

    Raises: ValueError: a number is not positive, or the set is no l_1 or l_2 ball.

    Source: the problem and the two kinds of steps of Matyasko and Chau 2021 (PDPGD), and the limit
        on thresholds from what five steps of their inner loop reach; lengths are ours.
    """

    set: Ball
    steps: int = 500
    loss: Loss = field(default_factory=SoftMargin)
    rate: float = 0.2

    def __post_init__(self) -> None:
        require_positive("PrimalDual", steps=self.steps, rate=self.rate)
        if not isinstance(self.set, L1 | L2):
            raise ValueError(f"PrimalDual: set must be L1 or L2, got {self.set}; take LeastNorm")

    def begin(self, problem: Problem) -> Balanced:
        """The image itself, and a norm that counts a hundredth."""
        x = problem.x
        zero, rows = torch.zeros_like(x), x.new_zeros(len(x))
        best = Best.none_yet(x, zero)
        return Balanced(zero, zero, zero, rows - 4.6, rows + 0.01, rows + torch.inf, best)

    def advance(self, problem: Problem, state: Balanced, k: int) -> Balanced:
        """Look, step down norm and loss, weigh them anew."""
        x, z = problem.x, state.z
        here, gradient = Best.with_slope(problem, self.loss, z, x + z)
        state = self.noted(state, here)
        length = geometric(self.rate, self.rate / 10, k, self.steps)
        pull = per_row(state.pull, x)
        down = -per_row(torch.sigmoid(-here.score), x) * gradient
        if isinstance(self.set, L2):
            down = torch.lerp(down, z / per_row(positive(self.set.norm(z)), x), pull)
        mean, square = (
            torch.lerp(old, new, share)
            for old, new, share in ((state.mean, down, 0.1), (state.square, down.square(), 0.001))
        )
        spread = root(square / (1 - 0.999 ** (k + 1))) + 1e-8
        z = z - length / (1 - 0.9 ** (k + 1)) * mean / spread
        z = torch.minimum(torch.maximum(z, -x), 1 - x)
        if isinstance(self.set, L1):
            most = MOST / spread.flatten(1).amax(1)
            back = torch.minimum(1 / spread, per_row(most, x)) * length * pull / (1 - pull)
            z = z.sign() * (z.abs() - back).clamp(min=0)
        turn = WEIGHT * (1 - 0.9 * k / self.steps)
        ratio = (state.ratio + torch.where(here.reached, turn, -turn)).clamp(-LARGEST, LARGEST)
        weight = torch.lerp(state.pull, torch.sigmoid(ratio), 0.1)
        return Balanced(z, mean, square, ratio, weight, state.nearest, state.best)


class Narrowed(NamedTuple):
    """State of ShrinkingBall: the point, the one before it, the radius (B,), and as FMN's."""

    z: Tensor
    before: Tensor
    radius: Tensor
    nearest: Tensor
    best: Best


@dataclass(frozen=True)
class ShrinkingBall(MinimumNorm):
    """Steepest steps with momentum in a ball a little smaller than the smallest break so far.

    The ball is smaller by 30 % at first and by 0.3 % at last; until something breaks it grows from
    one and a half times the first guess of the distance.

    Args:
        steps: number of gradients, > 0.
        loss: a margin, positive where the goal is reached.

    Raises: ValueError: if steps is not positive.

    Source: ours; the radius that follows the best break is from Pintor et al. 2021 (FMN), the
        momentum from Croce and Hein 2020 (Auto-PGD).
    """

    set: Ball
    steps: int = 300
    loss: Loss = field(default_factory=Margin)

    def __post_init__(self) -> None:
        require_positive("ShrinkingBall", steps=self.steps)

    def begin(self, problem: Problem) -> Narrowed:
        """The image itself."""
        best = Best.none_yet(problem.x, z := torch.zeros_like(problem.x))
        infinite = torch.full_like(best.score, torch.inf)
        return Narrowed(z, z, torch.zeros_like(best.score), infinite, best)

    def advance(self, problem: Problem, state: Narrowed, k: int) -> Narrowed:
        """Look, set the radius by the best break, step and project twice."""
        x, z = problem.x, state.z
        here, gradient = Best.with_slope(problem, self.loss, z, x + z)
        state = self.noted(state, here)
        guess = (-here.score / positive(self.set.dual_norm(gradient))).clamp(min=1e-4) * 1.5
        grown = state.radius * 1.02 if k else guess
        gap = geometric(0.3, 0.003, k, self.steps)
        radius = torch.where(state.nearest.isinf(), grown, state.nearest * (1 - gap))
        radius = torch.minimum(radius, self.set.norm(torch.maximum(x, 1 - x)))
        ball = replace(self.set, eps=radius)
        length = per_row(radius * geometric(1, 0.02, k, self.steps), x)
        ahead = ball.project(x, z + self.set.stride(x + z, gradient, length))
        if k:
            ahead = ball.project(x, z.lerp(ahead, 0.75) + (z - state.before) * 0.25)
        return state._replace(z=ahead, before=z, radius=radius)


class Bracket(NamedTuple):
    """The best point (B, C, H, W), its norm (B,), and the largest radius that held (B,)."""

    z: Tensor
    norm: Tensor
    held: Tensor


@dataclass(frozen=True)
class LeastNorm(Attack):
    """The smallest perturbation by several searches in turn, each from what those before found.

    First towards some wrong classes the least point that would break a linear network, and a search
    without a radius: a shrinking ball in l_inf, primal and dual steps in l_2 and l_1. Then targeted
    Auto-PGD at radii that close in on the least one that breaks; in l_2 and l_1 only where steps
    suffice for four radii. Last a walk along the border: the network is taken for linear at the
    best break, and the least point that breaks the linear one is tried, or one on the way.

    What is returned is the smallest that was found, if it lies in the set; take a set as large as
    the box, ``Ball.everything``, to measure distances.

    Args:
        steps: gradients for each image, two forward passes counted as one, at least 100.
        loss: a margin, positive exactly where the goal is reached; `Margin` begins as `SoftMargin`.
        targets: wrong classes that Auto-PGD aims at, > 0.
        radii: that it tries at most, fewer where steps are few; > 0.

    Raises: ValueError: if a number is unfit.

    Source: ours; the parts are those of Matyasko and Chau 2021, Croce and Hein 2020 (AutoAttack,
        and FAB for the linear step, box included).
    """

    set: Ball
    steps: int = 1000
    loss: Loss = field(default_factory=Margin)
    targets: int = 3
    radii: int = 8

    def __post_init__(self) -> None:
        require_positive("LeastNorm", targets=self.targets, radii=self.radii)
        if self.steps < 100:
            raise ValueError(f"LeastNorm: steps must be at least 100, got {self.steps}; try 1000")

    @property
    def classes(self) -> int:
        """Fewest classes the losses are defined for."""
        return TargetedDLR.fewest

    def plan(self) -> tuple[int, int, int, int]:
        """Gradients of the first search, radii, gradients at each for a class, steps to walk."""
        left = self.steps - 3 * self.targets - 2
        first, middle = int(left * FIRST), int(left * (1 - FIRST - LAST))
        radii = min(self.radii, middle // (LONG * self.targets))
        if radii < FEWEST and isinstance(self.set, L1 | L2):
            first, radii = first + middle, 0
        elif radii < 2:
            radii = min(2, self.radii)
        each = max(2, middle // max(1, radii) // self.targets - 2)
        left -= first + radii * self.targets * (each + 2)
        return first, radii, each, max(0, 2 * left // (2 + TRIES))

    def find(self, problem: Problem) -> AttackResult:
        """The searches in turn."""
        x, zero, (steps, radii, each, walks) = problem.x, torch.zeros_like(problem.x), self.plan()
        rows = x.new_zeros(len(x))
        state = Bracket(zero, torch.full_like(rows, torch.inf), rows)
        logits, _ = look(problem.model, self.loss, x, problem.y)
        wrong = logits.scatter(1, problem.y.unsqueeze(1), -torch.inf)
        classes = wrong.topk(min(self.targets, logits.shape[1] - 1), dim=1).indices
        for target in classes.unbind(1):
            z = zero
            for _ in range(2):
                z = self.ahead(problem, self.loss.toward(target), z)
                state = self.noted(problem, state, z)
        search = PrimalDual if isinstance(self.set, L1 | L2) else ShrinkingBall
        soft = SoftMargin() if self.loss == Margin() else self.loss
        first = search(self.set, steps, soft).find(problem).z
        state = self.noted(problem, state, first)
        state = state._replace(z=trees.where(state.norm.isinf(), first, state.z))
        for _ in range(radii):
            state = self.at_radius(problem, state, each)
        bold = torch.ones_like(state.norm)
        for _ in range(walks):
            state, bold = self.walk(problem, state, bold)
        last = Best.at(problem, self.loss, z := self.set.project(x, state.z), x + z)
        return AttackResult(self.set.apply(x, last.z), last.z, last.score)

    def noted(self, problem: Problem, state: Bracket, z: Tensor) -> Bracket:
        """Keep a point that breaks with a smaller norm."""
        here, norm = Best.at(problem, self.loss, z, problem.x + z), self.set.norm(z)
        less = here.reached & (norm < state.norm) & self.set.fits(problem.x, z)
        return Bracket(*trees.where(less, (z, norm), (state.z, state.norm)), state.held)

    def at_radius(self, problem: Problem, state: Bracket, steps: int) -> Bracket:
        """Targeted Auto-PGD in a ball smaller than the best break, but larger than what held."""
        most = self.set.norm(torch.maximum(problem.x, 1 - problem.x))
        most = torch.minimum(most, per_row(self.set.eps, most).expand_as(most))
        high = torch.minimum(state.norm, most)
        radius = torch.maximum(high * 0.85, (state.held + high) / 2)
        apgd = APGD(replace(self.set, eps=radius), steps, DLR())
        found = MultiTargeted(apgd, self.targets).find(problem)
        after = self.noted(problem, state, found.z)
        held = torch.where(after.norm < state.norm, state.held, radius)
        return after._replace(held=torch.maximum(state.held, held))

    def ahead(self, problem: Problem, loss: Loss, z: Tensor) -> Tensor:
        """The least point that breaks the network if it is as linear as it looks at z."""
        x = problem.x
        seen = climb(problem.model, loss, x + z, problem.y)
        need = (seen.gradient * z).flatten(1).sum(1).double() - seen.score.double()
        return self.set.least(x, seen.gradient, need + 1e-5 * need.abs()).to(x)

    def walk(self, problem: Problem, state: Bracket, bold: Tensor) -> tuple[Bracket, Tensor]:
        """From the best break to the one of the linear network, or as far on the way as gains."""
        far, before, share = state.z, state.norm, bold
        near = self.ahead(problem, self.loss, far)
        for _ in range(TRIES):
            state = self.noted(problem, state, far.lerp(near, per_row(share, far)))
            share = torch.where(state.norm < before, share, 0.4 * share)
        return state, torch.where(state.norm < before, 2 * bold, 0.3 * bold).clamp(1e-3, 1)
