"""Ideas for networks behind a dead zone that the library does not have: what *A threshold* tried.

A search by whole pixels in a few gradients, images that are bent like rubber, and a loss that gives
images up which cannot be saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate

from mpkit.attacks import Attack, AttackResult, CrossEntropy, Loss
from mpkit.attacks.base import Best, Problem
from mpkit.attacks.dead_zone import Behind
from mpkit.attacks.gradients import climb
from mpkit.data.augmentation import Augmentation
from mpkit.sets import L1, dead_zone
from mpkit.sets.norms import per_row
from mpkit.training import Random, Scheme, Single

MOST, CRUMB = 32, 1e-3
"""Pixels that one step may turn, at most; the least change that counts as a turn."""


@dataclass(frozen=True)
class WholePixels(Attack):
    """Turns whole pixels behind a dead zone, many with each gradient, by promise over price.

    Every step spends an equal share of what is left of the budget, on pixels that have not moved
    yet; the last one turns its last pixel part of the way. Promises are blurred by chance, so that
    no two searches are alike: a network that always meets the same one learns to mislead it.

    Args:
        set: the ball in front of the zone, around images of one channel.
        a: the width of the zone, in [0, 1/2).
        steps: gradients, at least 1.
        blur: a promise is multiplied by a number between 1 - blur and 1, drawn anew.
        loss: what is climbed.
    """

    set: L1
    a: float
    steps: int = 5
    blur: float = 0.3
    loss: Loss = field(default_factory=CrossEntropy)

    def find(self, problem: Problem) -> AttackResult:
        """The point after the last step."""
        z = torch.zeros_like(problem.x)
        for k in range(self.steps):
            z = self.set.project(problem.x, z + self._turned(problem, z, self.steps - k))
        best = Best.at(problem, self.loss, z, problem.x + z)
        return AttackResult(problem.x + z, z, best.score)

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


@dataclass(frozen=True)
class Elastic(Augmentation):
    """Images as if drawn on rubber: turned, sheared, stretched and bent a little, by chance.

    Args:
        bend: standard deviation of the shifts of 5 x 5 points, in pixels; between them the shifts
            are interpolated.
        turn: largest angle of rotation and shear, in degrees, and largest stretch, in percent.

    Source: after Simard, Steinkraus and Platt 2003.
    """

    bend: float = 0.5
    turn: float = 5.0

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Bend every image on its own."""
        new = {"generator": rng, "device": x.device, "dtype": x.dtype}
        drawn = 2 * torch.rand(4, len(x), **new) - 1
        angle, shear = drawn[:2] * self.turn * torch.pi / 180
        wide, high = 1 + drawn[2:] * self.turn / 100
        rows = (angle.cos() * wide, shear.tan() - angle.sin(), angle.sin(), angle.cos() * high)
        matrix = torch.stack(rows, 1).view(-1, 2, 2)
        grid = affine_grid(torch.cat([matrix, x.new_zeros(len(x), 2, 1)], 2), [*x.shape], False)
        points = torch.randn(len(x), 2, 5, 5, **new) * self.bend
        shifts = interpolate(points, x.shape[2:], mode="bicubic", align_corners=True)
        size = x.new_tensor([x.shape[3], x.shape[2]])
        return grid_sample(x, grid + 2 * shifts.movedim(1, 3) / size, align_corners=False)


@dataclass(frozen=True)
class Limited(Single):
    """Training against one attack, by the loss (1 - p^q) / q of the probability p of the class.

    Cross-entropy cares most for the images that are lost. This one gives them up, and cares most
    for those on the edge.

    Args:
        q: in (0, 1]; towards 0 the loss becomes the cross-entropy.

    Source: Zhang and Sabuncu 2018, who made it for labels that are wrong.
    """

    q: float = 0.5

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The bounded loss at the image that the attack found."""
        return -torch.expm1(-self.q * super().__call__(model, x, y, rng)) / self.q


@dataclass(frozen=True)
class Bounded(Random):
    """One attack per batch with the loss of ``Limited``, once the first epochs are over.

    Args:
        q: of the loss.
        begin: epochs of cross-entropy before it.
    """

    q: float = 0.5
    begin: int = 0

    def at(self, epoch: int, robust: Mapping[str, float]) -> Scheme:
        """The cross-entropy in the first epochs."""
        return Random(self.attacks, self.weights) if epoch < self.begin else self

    def settled(self, rng: torch.Generator) -> Scheme:
        """Training against the attack that is drawn."""
        drawn = super().settled(rng)
        assert isinstance(drawn, Single)
        return Limited(drawn.attack, self.q)
