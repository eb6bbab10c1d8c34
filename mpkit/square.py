"""Square attack: random squares, no gradients, for l_inf, l_2 and l_1."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.checks import require_positive
from mpkit.engine import Best, Iterative, Problem
from mpkit.geometry import per_row
from mpkit.losses import Loss, Margin
from mpkit.norms import positive
from mpkit.sets import L2, Ball, Linf


class Patched(NamedTuple):
    """State of a random search: the best point so far is where it stands."""

    best: Best


@dataclass(frozen=True)
class Square(Iterative):
    """Random search with square patches that shrink as the search goes on; needs no gradient.

    For l_inf a patch takes the values ± eps in each channel. For l_2 and l_1 the mass of a second
    patch, and what is left of the budget, moves into a first one in the shape of a pyramid. Every
    proposal is projected onto ball ∩ box; it is kept where it is worse for the model.

    Args:
        set: the ball, with its box.
        steps: number of forward passes, > 0.
        share: share of the image that the first patches cover, in (0, 1].
        loss: what is maximized.

    Raises:
        ValueError: if steps is not positive or share not in (0, 1].

    Source: Andriushchenko et al. 2020; for l_1 Croce and Hein 2021, appendix A. Projection in
    place of rescaling and clipping is ours.
    """

    set: Ball
    steps: int = 1000
    share: float = 0.8
    loss: Loss = field(default_factory=Margin)

    def __post_init__(self) -> None:
        require_positive("Square", steps=self.steps)
        if not 0 < self.share <= 1:
            raise ValueError(f"Square: share must lie in (0, 1], got {self.share}; try 0.8")

    def begin(self, problem: Problem) -> Patched:
        """Vertical stripes for l_inf, a checkerboard of pyramids else."""
        x = problem.x
        if isinstance(self.set, Linf):
            z = _signs((len(x), x.shape[1], 1, x.shape[3]), problem).expand_as(x)
        else:
            side = max(1, min(x.shape[2:]) // 5)
            tiles = [-(-size // side) for size in x.shape[2:]]
            bump = _hill(torch.arange(side, device=x.device), side).to(x.dtype)
            board = torch.outer(bump, bump).repeat(*tiles)
            sign = _signs((len(x), x.shape[1], *tiles), problem)
            board = sign.repeat_interleave(side, 2).repeat_interleave(side, 3) * board
            z = board[:, :, : x.shape[2], : x.shape[3]]
        z = z * per_row(self.set.eps / positive(self.set.norm(z)), x)
        z = self.set.project(x, z)
        return Patched(Best.at(problem, self.loss, z, x + z))

    def advance(self, problem: Problem, state: Patched, k: int) -> Patched:
        """Propose one patch for each image and keep it where it helps."""
        x, z = problem.x, state.best.z
        side = self.side(x, k)
        patch = _patch(side, problem)
        sign = _signs((len(x), x.shape[1], 1, 1), problem)
        if isinstance(self.set, Linf):
            z = torch.where(patch > 0, per_row(self.set.eps, x) * sign, z)
        else:
            z = self.moved(z, patch, _patch(side, problem), sign)
        z = self.set.project(x, z)
        return Patched(state.best.or_better(Best.at(problem, self.loss, z, x + z)))

    def side(self, x: Tensor, k: int) -> int:
        """The side of the patches of step k in pixels."""
        done = 10000 * k / self.steps
        halvings = sum(done > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000))
        height, width = x.shape[2:]
        side = math.sqrt(self.share / 2**halvings * height * width)
        return min(max(round(side), 1), height, width)

    def moved(self, z: Tensor, into: Tensor, out_of: Tensor, sign: Tensor) -> Tensor:
        """Empty one patch; fill another with a pyramid on top of what is there.

        Args:
            z: (B, C, H, W), the current perturbation.
            into: (B, 1, H, W), the pyramid that grows, zero outside its patch.
            out_of: (B, 1, H, W), positive in the patch that is emptied.
            sign: (B, C, 1, 1), the signs of the pyramid.
        """
        norm = self.set.norm
        power = 2 if isinstance(self.set, L2) else 1
        kept = z.masked_fill((into > 0) | (out_of > 0), 0)
        free = per_row(self.set.eps, norm(kept)) ** power - norm(kept) ** power
        old = z * (into > 0)
        shape = sign * into
        shape = shape / per_row(positive(norm(shape)), z) + old / per_row(positive(norm(old)), z)
        size = free.clamp(min=0) ** (1 / power) / positive(norm(shape))
        return kept + shape * per_row(size, z)


def _signs(shape: tuple[int, ...], problem: Problem) -> Tensor:
    """Random -1 and 1."""
    x = problem.x
    bits = torch.randint(0, 2, shape, generator=problem.rng, device=x.device)
    return (2 * bits - 1).to(x.dtype)


def _patch(side: int, problem: Problem) -> Tensor:
    """A pyramid at a random place of each image: (B, 1, H, W), zero outside its square."""
    x, lines = problem.x, []
    for size in x.shape[2:]:
        first = torch.randint(
            0, size - side + 1, (len(x), 1), generator=problem.rng, device=x.device
        )
        lines.append(_hill(torch.arange(size, device=x.device) - first, side).to(x.dtype))
    return (lines[0].unsqueeze(2) * lines[1].unsqueeze(1)).unsqueeze(1)


def _hill(at: Tensor, side: int) -> Tensor:
    """A triangle 1, 2, .., 2, 1 over side pixels, and zero elsewhere."""
    return torch.minimum(at + 1, side - at).clamp(min=0)
