"""Ways in which published l_1 attacks differ from the exact one, to show what each is worth.

Nothing else in the package uses these. Each is a ball, a start or an attack that replaces one part
of SLIDE, so that a page can switch them one by one.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mpkit.attacks import SLIDE, AttackResult
from mpkit.attacks.base import Problem
from mpkit.attacks.pgd import Start, Walk
from mpkit.sets import L1, Ball
from mpkit.sets.norms import l1_norm, per_row
from mpkit.sets.projections import clip_to_box, nearest_in_l1_ball


class Inexact(L1):
    """An l_1 ball whose projection is not the nearest point of ball ∩ box."""


@dataclass(frozen=True)
class OneTooMany(Inexact):
    """The threshold counts one entry too many: (10, 0) at eps = 1 goes to (5.5, 0).

    In the sorted form of the projection the number of active entries is taken one too large, so
    the threshold is too small and the result leaves the ball. Rows inside the ball are put on its
    sphere as well. As in the paper's released code and a widely used library.
    """

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """The faulty point, then clipped to the box: (B, C, H, W)."""
        size = z.flatten(1).abs()
        ordered = size.sort(1, descending=True).values
        count = torch.arange(1, size.shape[1] + 1, device=z.device, dtype=z.dtype)
        excess = ordered.cumsum(1) - per_row(self.eps, size)
        active = (ordered * count > excess).sum(1, keepdim=True)
        wrong = active.clamp(max=size.shape[1] - 1)
        threshold = excess.gather(1, wrong) / (wrong + 1)
        shrunk = (size - threshold).clamp_(min=0).view_as(z).copysign_(z)
        return clip_to_box(shrunk, x)


@dataclass(frozen=True)
class Rescaled(Inexact):
    """Rows outside are scaled down radially, which is feasible but not nearest."""

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """z times eps / ‖z‖ where it is too large, then clipped to the box: (B, C, H, W)."""
        norm = l1_norm(z).clamp(min=torch.finfo(z.dtype).tiny)
        factor = (per_row(self.eps, norm) / norm).clamp(max=1)
        return clip_to_box(z * per_row(factor, z), x)


@dataclass(frozen=True)
class ClippedAfter(Inexact):
    """The exact projection onto the ball, and only then the box: feasible but not nearest."""

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """The nearest point of the ball, clipped to the box: (B, C, H, W)."""
        return clip_to_box(nearest_in_l1_ball(z, self.eps), x)


@dataclass(frozen=True)
class BoxIgnored(Inexact):
    """The exact projection onto the ball, and no box: pixels leave [0, 1]."""

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """The nearest point of the ball: (B, C, H, W)."""
        return nearest_in_l1_ball(z, self.eps)


@dataclass(frozen=True)
class StartClippedToOne(Start):
    """A start clipped to [0, 1] for images that a network sees on another scale.

    With images in 0..255 every start image is then nearly black; in our scale the same start is
    the image clipped to [0, top] with top = 1 / 255.
    """

    top: float = 1 / 255

    def __call__(self, ball: Ball, problem: Problem) -> Tensor:
        """The perturbation that blackens the image; it may lie outside the ball."""
        x = problem.x
        return (x + ball.sample(x, problem.rng)).clamp_(0, self.top) - x

    def inside(self, ball: Ball, problem: Problem) -> Tensor:
        """The same: it is not brought into the ball, which is the fault."""
        return self(ball, problem)


@dataclass(frozen=True)
class RandomQuantile(SLIDE):
    """SLIDE with its quantile drawn uniformly from [lowest, quantile)."""

    lowest: float = 0.8

    def drawn(self, problem: Problem) -> SLIDE:
        """SLIDE with a quantile drawn now."""
        share = float(torch.rand((), generator=problem.rng, device=problem.x.device))
        quantile = self.lowest + share * (self.quantile - self.lowest)
        fields = (self.set, self.steps, self.step, self.loss, self.start, self.schedule)
        return SLIDE(*fields, quantile)


class QuantileOnce(RandomQuantile):
    """SLIDE with its quantile drawn once per attack, where once per step was meant."""

    def find(self, problem: Problem) -> AttackResult:
        """Draw the quantile, then run SLIDE."""
        return self.drawn(problem).find(problem)


class QuantileEachStep(RandomQuantile):
    """SLIDE with its quantile drawn anew at every step."""

    def advance(self, problem: Problem, state: Walk, k: int) -> Walk:
        """Draw this step's quantile, then step."""
        return self.drawn(problem).advance(problem, state, k)
