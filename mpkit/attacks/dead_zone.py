"""Attacks that know of a dead zone in front of a network, without access to its layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import Tensor

from mpkit.attacks.apgd import APGD
from mpkit.attacks.base import Attack, AttackResult, Best, Climb, Problem, Seen, Stop
from mpkit.attacks.gradients import Model, climb
from mpkit.attacks.losses import DLR, CrossEntropy, Loss, Margin
from mpkit.attacks.wrappers import MultiTargeted, Restarts, Worst, Wrapper
from mpkit.core.checks import require_positive
from mpkit.models.rank_zone import RankRule
from mpkit.sets import L1, L2, Ball, BehindDeadZone, dead_zone
from mpkit.sets.norms import per_row, positive

MOST, CRUMB = 32, 1e-3  # pixels that one step may turn; the least change that counts as a turn
SHARES = (0.0, 1 / 6, 1 / 3, 2 / 3, 1.0)  # of a rank zone's greatest width: searches bring it there


@dataclass(frozen=True)
class Behind:
    """What follows a dead zone: logits of its output u."""

    model: Model
    a: float

    def __call__(self, u: Tensor) -> Tensor:
        """Ask about an image that gives u."""
        return self.model(dead_zone.back(u, self.a))


@dataclass(frozen=True)
class Straight:
    """A network whose slope in front of a dead zone is that of a straight line."""

    model: Behind

    def __call__(self, x: Tensor) -> Tensor:
        """The network's logits."""
        a = self.model.a
        line = x / (1 - a)
        return self.model(line + (dead_zone.ramp(x, a) - line).detach())


@dataclass(frozen=True)
class BehindZone(Wrapper):
    """An attack run on the output of the dead zone in front of a network.

    There every pixel has a slope, while in front of the dead zone most have none. It needs no
    access to the network's layers: the ramp has an inverse.

    Args:
        attack: whose set is a ball in the output.
        a: the width of the dead zone, in [0, 1/2).
        within: an l_1 or l_2 ball around the images that the answer is brought into; whole pixels
            are kept, those that gain most for their cost, since each pays for the dead zone first.
            None for all that the attack's ball allows in front of the dead zone.
    """

    attack: Attack
    a: float
    within: L1 | L2 | None = None

    @property
    def set(self) -> BehindDeadZone | L1 | L2:  # type: ignore[override]
        """The ball ``within``, or what the attack's ball allows in front of the dead zone."""
        return self.within or BehindDeadZone(cast(Ball, self.attack.set), self.a)

    def find(self, problem: Problem) -> AttackResult:
        """Search the output, and return the nearest images that give what was found."""
        x, a = problem.x, self.a
        near = None if problem.donors is None else dead_zone.ramp(problem.donors, a)
        behind = Behind(problem.model, a)
        inner = replace(problem, x=dead_zone.ramp(x, a), donors=near, model=behind)
        found = self.attack.find(inner)
        z = dead_zone.nearest(x, found.image, a) - x
        if isinstance(self.within, L1 | L2):
            slope = climb(inner.model, self.loss, found.image, problem.y).gradient
            gain = (slope * (found.image - inner.x)).sum(1, keepdim=True)
            z = _affordable(self.within, z, gain)
        z = self.set.project(x, z)
        best = Best.at(problem, self.loss, z, x + z)
        return AttackResult(x + z, z, best.score)


def _affordable(ball: L1 | L2, z: Tensor, gain: Tensor) -> Tensor:
    """The pixels of z with the most gain (B, 1, H, W) for their cost, as many as fit the ball."""
    power = 1 if isinstance(ball, L1) else 2
    cost = z.abs().pow(power).sum(1, keepdim=True).flatten(1)
    worth = torch.where(cost > 0, gain.flatten(1) / positive(cost), -torch.inf)
    order = worth.argsort(1, descending=True)
    fits = cost.gather(1, order).cumsum(1) <= per_row(ball.eps, z).reshape(-1, 1) ** power
    return z * torch.zeros_like(cost).scatter(1, order, fits.to(z.dtype)).view_as(gain)


@dataclass(frozen=True)
class StraightThrough(Wrapper):
    """An attack that is given the slope 1 / (1 - a) wherever a dead zone has none or another.

    Args:
        attack: on the images, in any set.
        a: the width of the dead zone, in [0, 1/2).

    Source: Athalye, Carlini and Wagner 2018, the backward pass differentiable approximation.
    """

    attack: Attack
    a: float

    def find(self, problem: Problem) -> AttackResult:
        """Run the attack; values are those of the network, slopes those of the straight line."""
        straight = Straight(Behind(problem.model, self.a))
        found = self.attack.find(replace(problem, model=straight))
        best = Best.at(problem, self.loss, found.z, found.image)
        return AttackResult(found.image, found.z, best.score)


@dataclass(frozen=True)
class Held:
    """A network that sees an image move in some of its pixels only."""

    model: Model
    base: Tensor
    free: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Ask about the base, with the free pixels of x."""
        return self.model(self.base + self.free * (x - self.base))


@dataclass(frozen=True)
class BelowRank(Wrapper):
    """An attack that a rank zone does not answer by becoming wider, or that pays for the width.

    It moves the border of a drawing, which does not count, and one pixel less than the rank of the
    others: those with most to gain, blurred by chance. It may go on several times: the border of
    what was found lies elsewhere. For a width, as many others as the rank are made so grey first.

    Args:
        attack: within what ``left`` leaves of the ball.
        ball: the l_1, l_2 or l_inf ball.
        rule: of the zone.
        width: that the zone is brought to, in [0, 1/2).
        rounds: how often, at least 1.

    Raises: ValueError: if rounds is not positive.
    """

    attack: Attack
    ball: Ball
    rule: RankRule
    width: float = 0.0
    rounds: int = 1

    def __post_init__(self) -> None:
        require_positive("BelowRank", rounds=self.rounds)

    @property
    def set(self) -> Ball:  # type: ignore[override]
        """The ball."""
        return self.ball

    @staticmethod
    def left(ball: Ball, rule: RankRule, width: float) -> Ball | None:
        """The ball without what the width costs; None where nothing is left."""
        p, eps = ball.order, ball.eps
        if p == math.inf or width == 0:
            return ball
        if isinstance(eps, Tensor) or (rest := eps**p - rule.rank * width**p) <= 0:
            return None
        return replace(ball, eps=rest ** (1 / p))

    def find(self, problem: Problem) -> AttackResult:
        """Choose what may move, pay, and run the attack there; and again from what it found."""
        x = here = problem.x
        best = Best.none_yet(x, self.set.zero(x))
        for _ in range(self.rounds):
            base, free = self._chosen(problem, here)
            held = Held(problem.model, base, free.to(x.dtype))
            whole = replace(problem, x=base, model=held, stop=Stop(), stepping=None)  # held by rows
            found = self.attack.find(whole)
            z = self.ball.project(x, torch.where(free, found.image, base) - x)
            here = x + z
            best = best.or_better(Best.at(problem, self.loss, z, here))
        return AttackResult(x + best.z, best.z, best.score)

    def _chosen(self, problem: Problem, here: Tensor) -> tuple[Tensor, Tensor]:
        """The images with the width paid for, and which of their pixels are free to move."""
        x, edge = problem.x, self.rule.border(here)
        slope = climb(problem.model, self.loss, here, problem.y).gradient
        chance = torch.rand((2, *x.shape), generator=problem.rng, device=x.device, dtype=x.dtype)
        way = torch.where(slope > 0, 1 - x, x)
        if self.ball.order == math.inf:
            way = torch.minimum(way, per_row(self.ball.eps, x))
        promise = (slope.abs() * way * (1 - 0.3 * chance[0])).masked_fill(edge, -1)
        free = edge | _most(promise, self.rule.rank - 1)
        if not self.width:
            return x, free
        black, grey = x < 0.5, torch.full_like(x, self.width)
        fit = (torch.where(black, x, 1 - x) < self.width) & ~free
        paid = _most(chance[1].masked_fill(~fit, -1), self.rule.rank)
        return torch.where(paid, torch.where(black, grey, 1 - grey), x), free & ~paid


def searches_below(
    ball: Ball, rule: RankRule, steps: int, targets: int
) -> Iterator[tuple[str, Attack]]:
    """Named searches that a rank zone does not see, and, for several widths, such as pay for it.

    Args:
        ball: the l_1, l_2 or l_inf ball.
        rule: of the zone in front of the network.
        steps: gradients of each run.
        targets: wrong classes that one of them aims at; 0 for none, where classes are few.
    """
    for width in sorted({share * rule.most for share in SHARES}):
        left = BelowRank.left(ball, rule, width)
        if left is None:
            continue
        climb = APGD(left, steps, Margin())
        climbs: list[Attack] = [replace(climb, loss=CrossEntropy())]
        climbs.append(climb if width else Restarts(climb, 3))
        if targets and not width:
            climbs.append(MultiTargeted(APGD(left, max(2, steps // 2), DLR()), targets))
        if width and isinstance(left, L1 | L2):
            climbs.append(BehindZone(replace(climb, set=left.scaled(1 / (1 - width))), width, left))
        rounds = 1 if ball.order != math.inf else 2 if width else 4
        hidden = tuple(BelowRank(one, ball, rule, width, rounds) for one in climbs)
        yield f"below-{100 * width:.3g}", Worst(hidden, Margin())


def _most(worth: Tensor, count: int) -> Tensor:
    """The places of the largest values of each row, so many, like ``worth``: bool."""
    flat = worth.flatten(1)
    places = flat.topk(min(count, flat.shape[1]), dim=1).indices
    return torch.zeros_like(flat, dtype=torch.bool).scatter(1, places, True).view_as(worth)


@dataclass(frozen=True)
class WholePixels(Climb):
    """Turns whole pixels behind a dead zone, many with each gradient, by promise over price.

    Every step spends an equal share of the budget that is left, on pixels that have not moved yet.
    Chance blurs promises: a network that always meets the same search learns to mislead it.

    Args:
        set: the ball in front of the zone, around images of one channel.
        a: the width of the zone, in [0, 1/2).
        steps: gradients, at least 1.
        blur: a promise is multiplied by a number between 1 - blur and 1, drawn anew.
        loss: what is climbed.

    Raises: ValueError: steps or width out of their range.
    """

    set: L1
    a: float
    steps: int = 5
    blur: float = 0.3
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        require_positive("WholePixels", steps=self.steps)
        dead_zone.require_width("WholePixels", self.a)

    def coordinate(self, x: Tensor, state: Seen) -> Tensor:
        """The last point."""
        return cast(Tensor, state.best.z)

    def advance(self, problem: Problem, state: Seen, k: int) -> Seen:
        """A share of the pixels more."""
        z = state.best.z + self._turned(problem, state.best.z, self.steps - k)
        return Seen(state.best._replace(z=self.set.project(problem.x, z)))

    def _turned(self, problem: Problem, z: Tensor, steps: int) -> Tensor:
        """What the next of so many steps changes, of the shape of the images."""
        u = dead_zone.ramp(problem.x + z, self.a)
        model = Behind(problem.model, self.a)
        slope = climb(model, self.loss, u, problem.y).gradient.flatten(1)
        x, spent, up = problem.x.flatten(1), z.flatten(1).abs(), slope > 0
        to_white, to_black = (1 - self.a - x).clamp(min=0), (self.a - x).clamp(max=0)
        way = torch.where(up, to_white, to_black)
        chance = torch.rand(x.shape, generator=problem.rng, device=x.device, dtype=x.dtype)
        promise = slope * (up.to(x.dtype) - u.flatten(1)) * (1 - self.blur * chance)
        fit = (spent == 0) & (way.abs() > CRUMB) & (promise > 0)
        worth = torch.where(fit, promise / way.abs().clamp(min=CRUMB), 0)
        best, pixel = worth.topk(min(MOST, x.shape[1]), dim=1)
        price = way.abs().gather(1, pixel)
        left = per_row(self.set.eps, x).reshape(-1, 1) - spent.sum(1, keepdim=True)
        share = (left / steps - price.cumsum(1) + price) / price.clamp(min=CRUMB)
        share = share.clamp(0, 1) if steps == 1 else (share >= 1).to(x.dtype)
        share = torch.where(best > 0, share, 0)
        return torch.zeros_like(x).scatter(1, pixel, share * way.gather(1, pixel)).view_as(z)
