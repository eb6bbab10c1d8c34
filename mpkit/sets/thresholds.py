"""The threshold by which an l_1 projection shrinks every entry, found without sorting.

Memory is the cost on a CPU: one buffer is written again and again, and none is made per step.
A size is (B, n), ≥ 0; the room, (B, n), is the most that each entry may keep, None for no walls; a
level is (B, 1), and a radius (B, 1) or of no dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mpkit.sets.norms import bisected, positive, slack

ROUNDS = 40
"""Newton steps at most on a CPU, where the loop ends once all rows are settled."""
BLIND_ROUNDS = 3
"""Newton steps on a GPU, which is not asked; they polish what sorting found (see the tests)."""


def soft(size: Tensor, level: Tensor, room: Tensor | None, out: Tensor) -> Tensor:
    """min(max(size - level, 0), room), row by row, written into out (B, n)."""
    torch.sub(size, level, out=out).clamp_(min=0)
    return out if room is None else torch.minimum(out, room, out=out)


def threshold(
    size: Tensor, room: Tensor | None, radius: Tensor, norm: Tensor, inside: Tensor, spare: Tensor
) -> Tensor:
    """The t ≥ 0 at which sum(min(max(size - t, 0), room)) falls to the radius, (B, 1).

    A few bisections, then Newton steps kept inside the bracket, until no row moves any more.
    On a CPU the loop ends there, needs no bisection near the radius, and goes through the entries
    above the bracket alone where they are few; on a GPU it begins at what sorting finds and runs
    its fixed length, so nothing is synchronized.

    Args:
        norm: (B, 1), the sum at t = 0.
        inside: (B, 1), rows whose threshold nobody needs.
        spare: (B, n), overwritten.
    """

    def short_of(level: Tensor) -> Tensor:
        return soft(size, level, room, spare).sum(1, keepdim=True) > radius

    unread = blind(size)
    low, high = torch.zeros_like(size[:, :1]), size.amax(1, keepdim=True)
    if unread:
        level = shrinking(size, room, radius)
    else:
        if not bool((norm <= 2 * radius).all()):
            low, high = bisected(low, high, short_of, 5)
        level = low
        size, room, spare = _above(torch.where(inside, high, low), size, room, spare)
    moved = None if room is None else torch.empty_like(size)
    nearly = slack(size.dtype) / 4 * radius
    for _ in range(BLIND_ROUNDS if unread else ROUNDS):
        soft(size, level, room, spare)
        excess = spare.sum(1, keepdim=True) - radius
        settled = inside | (excess.abs() <= nearly)
        if not unread and bool(settled.all()):
            break
        above = excess > 0
        low, high = torch.where(above, level, low), torch.where(above, high, level)
        slope = _free(size, level, spare, moved).sum(1, keepdim=True)
        newton = excess.div_(positive(slope)).add_(level)
        good = newton == newton.clamp(low, high)
        good &= newton != torch.where(above, high, low)  # there it stood before: it would swing
        newton = torch.where(good, newton, low.lerp(high, 0.5))
        last, level = level, torch.where(settled, level, newton)
        if not unread and torch.equal(level, last):
            break
    return level


def _free(size: Tensor, level: Tensor, shrunk: Tensor, moved: Tensor | None) -> Tensor:
    """1 for entries that still shrink, 0 at zero or at their wall; shrunk and moved are used up."""
    if moved is None:
        return shrunk.sign_()
    return torch.eq(shrunk, torch.sub(size, level, out=moved), out=shrunk)


def _above(
    level: Tensor, size: Tensor, room: Tensor | None, spare: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Entries above a level moved together, padded with zeros; as they were if over n / 8 are."""
    count = torch.gt(size, level, out=spare).sum(1).long()
    most = int(count.max())
    if 8 * most > size.shape[1]:
        return size, room, spare
    row, column = spare.nonzero(as_tuple=True)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    few = [
        one.new_zeros(len(one), most).index_put_((row, place), one[row, column])
        for one in (size, room)
        if one is not None
    ]
    return few[0], few[1] if room is not None else None, torch.empty_like(few[0])


def blind(tensor: Tensor) -> bool:
    """Whether a tensor lies where values are not read between steps: on a GPU."""
    return tensor.is_cuda


def shrinking(size: Tensor, room: Tensor | None, radius: Tensor) -> Tensor:
    """The t ≥ 0 at which sum(min(max(size - t, 0), room)) falls to the radius: (B, 1).

    The sum falls piecewise linearly; entries begin to fall where they leave their wall and end at
    zero.
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
    line in s squared. Where the walls hold even the radius, the last point. d and its walls,
    low ≤ 0 and high ≥ 0, are (B, n).
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
