"""Attacks that know of a dead zone in front of a network, without access to its layers."""

from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from mpkit.attacks.base import Attack, AttackResult, Best, Problem
from mpkit.attacks.gradients import Model, climb
from mpkit.attacks.wrappers import Wrapper
from mpkit.sets import L1, L2, Ball, BehindDeadZone, dead_zone
from mpkit.sets.norms import per_row, positive


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
