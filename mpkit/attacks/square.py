"""Random search without gradients: squares in l_inf, l_2 and l_1, and any set's own draws."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mpkit.attacks.base import Best, Iterative, Problem, Seen
from mpkit.attacks.losses import CrossEntropy, Loss, Margin
from mpkit.core.checks import require_positive
from mpkit.sets import Ball, PerturbationSet
from mpkit.sets.norms import per_row, positive

STRETCH = 5.0
"""How far a proposal for l_2 or l_1 is blown up before it is projected (ours, see the tests)."""


@dataclass(frozen=True)
class Square(Iterative):
    """Random search with square patches that shrink as the search goes on; needs no gradient.

    For l_inf a patch takes the values ± eps in each channel. For l_2 and l_1 the mass of a second
    patch, and what is left of the budget, moves into a first one, around a peak in its middle.
    A proposal is stretched, so that what the box cuts off goes to pixels with room left, and
    projected onto ball ∩ box; it is kept where it is worse for the model.

    Args:
        steps: number of forward passes, > 0.
        share: share of the image that the first patches cover, in (0, 1].

    Raises: ValueError: if steps is not positive or share not in (0, 1].

    Source: Andriushchenko et al. 2020; for l_1 Croce and Hein 2021, appendix A. Ours are, for l_2
    and l_1, the single sharp peak and the projection of the stretched proposal in place of
    rescaling and clipping.
    """

    set: Ball
    steps: int = 1000
    share: float = 0.8
    loss: Loss = field(default_factory=Margin)

    def __post_init__(self) -> None:
        require_positive("Square", steps=self.steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"Square: share must lie in (0, 1], got {self.share}; try 0.8")

    def begin(self, problem: Problem) -> Seen:
        """Vertical stripes for l_inf, a checkerboard of peaks else."""
        x = problem.x
        if self.set.order == math.inf:
            z = _signs((len(x), x.shape[1], 1, x.shape[3]), problem).expand_as(x)
        else:
            side = max(1, min(x.shape[2:]) // 5)
            tiles = [-(-size // side) for size in x.shape[2:]]
            peak = _peak([_from_middle(0, side, side, x)] * 2).repeat(*tiles)
            sign = _signs((len(x), x.shape[1], *tiles), problem)
            board = sign.repeat_interleave(side, 2).repeat_interleave(side, 3) * peak
            z = board[:, :, : x.shape[2], : x.shape[3]]
        z = self.set.project(x, z * per_row(self.set.eps / positive(self.set.norm(z)), x))
        return Seen(Best.at(problem, self.loss, z, x + z))

    def advance(self, problem: Problem, state: Seen, k: int) -> Seen:
        """Propose one patch for each image and keep it where it helps."""
        x, z = problem.x, state.best.z
        side = self.side(x, k)
        inside, peak = _patch(side, problem)
        sign = _signs((len(x), x.shape[1], 1, 1), problem)
        if self.set.order == math.inf:
            z = torch.where(inside, per_row(self.set.eps, x) * sign, z)
        else:
            z = STRETCH * self.moved(z, inside, _patch(side, problem)[0], sign * peak)
        z = self.set.project(x, z)
        return Seen(state.best.or_better(Best.at(problem, self.loss, z, x + z)))

    def side(self, x: Tensor, k: int) -> int:
        """The side of the patches of step k in pixels.

        The area halves at fixed marks: shares of ``steps`` for l_inf; for l_2 and l_1, where large
        patches serve longest, numbers of steps, and the side is odd and at least 3 where the
        image is larger than a few pixels.
        """
        height, width = x.shape[2:]
        side = round(math.sqrt(self.share / 2 ** self.halvings(k) * height * width))
        if self.set.order != math.inf:
            side = max(side, min(3, min(height, width) // 4)) | 1
        return min(max(side, 1), height, width)

    def halvings(self, k: int) -> int:
        """How often the area was halved before step k."""
        done = 10000 * k / self.steps if self.set.order == math.inf else k
        return sum(done > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))

    def kind(self, k: int) -> Hashable:
        """How far the patches have shrunk."""
        return self.halvings(k)

    def moved(self, z: Tensor, into: Tensor, out_of: Tensor, shape: Tensor) -> Tensor:
        """Empty one patch; add a shape to another, which takes all that is free of the budget.

        Patches are (B, 1, H, W) bool; the shape, (B, C, H, W), is zero outside ``into``.
        """
        norm, eps = self.set.norm, per_row(self.set.eps, z)
        power = 2 if self.set.order == 2 else 1
        kept, old = z.masked_fill(into | out_of, 0), z * into
        shape = shape / per_row(norm(shape), z)
        shape = shape + old / per_row(norm(old), z).clamp(min=1e-6 * eps)
        free = (eps**power - per_row(norm(kept), z) ** power).clamp(min=0) ** (1 / power)
        size = per_row(norm(shape), z)  # zero where a single pixel cancels what it held
        return kept + shape * torch.where(size > 0, free / positive(size), 0)


def _signs(shape: tuple[int, ...], problem: Problem) -> Tensor:
    """Random -1 and 1."""
    x = problem.x
    bits = torch.randint(0, 2, shape, generator=problem.rng, device=x.device)
    return (2 * bits - 1).to(x.dtype)


def _patch(side: int, problem: Problem) -> tuple[Tensor, Tensor]:
    """A square at a random place of each image, and a peak in its middle: (B, 1, H, W) each."""
    x, rng, away = problem.x, problem.rng, []
    for size in x.shape[2:]:
        first = torch.randint(0, size - side + 1, (len(x), 1), generator=rng, device=x.device)
        away.append(_from_middle(first, side, size, x))
    inside = (away[0].unsqueeze(2) <= side / 2) & (away[1].unsqueeze(1) <= side / 2)
    return inside.unsqueeze(1), (_peak(away) * inside).unsqueeze(1)


def _from_middle(first: Tensor | int, side: int, size: int, x: Tensor) -> Tensor:
    """Distance in pixels of each of ``size`` pixels from the middle of ``side`` ones."""
    at = torch.arange(size, device=x.device) - first
    return (at - (side - 1) / 2).abs().to(x.dtype)


def _peak(away: list[Tensor]) -> Tensor:
    """One in the middle; falls with the third power of the distance in the maximum norm."""
    return (1 + torch.maximum(away[0].unsqueeze(-1), away[1].unsqueeze(-2))) ** -3


@dataclass(frozen=True)
class WorstOfK(Iterative):
    """The worst of k random points of a set, drawn by the law of its ``sample``.

    Args:
        steps: number of tries k, > 0.

    Raises: ValueError: if steps is not positive.

    Source: Engstrom et al. 2019, the worst-of-10 adversary of rotations and translations.
    """

    set: PerturbationSet
    steps: int = 10
    loss: Loss = field(default_factory=CrossEntropy)
    alike = True

    def __post_init__(self) -> None:
        require_positive("WorstOfK", steps=self.steps)

    def advance(self, problem: Problem, state: Seen, k: int) -> Seen:
        """Draw one more point for each example."""
        z = self.set.sample(problem.x, problem.rng)
        image = self.set.apply(problem.x, z)
        return Seen(state.best.or_better(Best.at(problem, self.loss, z, image)))
