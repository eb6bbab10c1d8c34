"""Projections' unknowns by sorting the points where an entry changes its part in the sum.

A GPU sorts rows quickly and hates long loops of small kernels; a few Newton steps after this give
what rounding takes. Sums run in double precision: where a point lies far outside, what matters is
a small difference of large ones. On a CPU sorting is the slow way.
"""

import torch
from torch import Tensor

from mpkit.norms import positive


def blind(tensor: Tensor) -> bool:
    """Whether a tensor lies where values are not read between steps: on a GPU."""
    return tensor.is_cuda


def shrinking(size: Tensor, room: Tensor | None, radius: Tensor) -> Tensor:
    """The t ≥ 0 at which sum(min(max(size - t, 0), room)) falls to the radius: (B, 1).

    The sum falls piecewise linearly; entries begin to fall where they leave their wall and end at
    zero.

    Args:
        size: (B, n), ≥ 0.
        room: (B, n), or nothing for no walls.
        radius: (B, 1) or of no dimension.
    """
    begins = torch.zeros_like(size) if room is None else (size - room).clamp_(min=0)
    points, order = torch.cat([begins, size], 1).sort(dim=1)
    falling = torch.where(order < size.shape[1], 1, -1).cumsum(1)
    lost = (falling[:, :-1] * points.double().diff(dim=1)).cumsum(1)
    lost = torch.cat([torch.zeros_like(lost[:, :1]), lost], 1)
    kept = size if room is None else torch.minimum(size, room)
    need = (kept.double().sum(1, keepdim=True) - radius).clamp(min=0)
    last = ((lost <= need).sum(1, keepdim=True) - 1).clamp(min=0)
    rest = (need - lost.gather(1, last)) / falling.gather(1, last).clamp(min=1)
    level = (points.gather(1, last) + rest).to(size.dtype)
    return torch.minimum(level, points[:, -1:])


def stretching(d: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """The square of the s at which the norm of clip(s d) reaches the radius, nearly: (B, 1).

    Beyond wall / abs(d) an entry keeps its wall; between two such points the squared norm is a
    line in s squared. Where the walls hold even the radius, the last point.

    Args:
        d: (B, n).
        low: (B, n) ≤ 0.
        high: (B, n) ≥ 0.
        radius: (B, 1) or of no dimension.
    """
    squared, wall = d.square(), torch.where(d > 0, high, low).square()
    points, order = (wall / positive(squared)).sort(dim=1)
    walled = wall.gather(1, order).double().cumsum(1)
    free = squared.gather(1, order).double().flip(1).cumsum(1).flip(1)
    before = torch.cat([torch.zeros_like(walled[:, :1]), walled[:, :-1]], 1)
    reached = before + points * free <= radius.square()
    first = reached.sum(1, keepdim=True).clamp(max=d.shape[1] - 1)
    rest = (radius.square() - before.gather(1, first)).clamp(min=0)
    return (rest / positive(free.gather(1, first))).to(d.dtype)
