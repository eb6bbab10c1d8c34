"""Exact l_1 projections by sorting: what ours are timed against."""

from __future__ import annotations

import torch
from torch import Tensor


def sorted_l1(d: Tensor, eps: float) -> Tensor:
    """The nearest point of the l_1 ball for each row of (B, N): Duchi et al. 2008, figure 1."""
    size = d.abs()
    ordered = size.sort(dim=1, descending=True).values
    excess = ordered.cumsum(1) - eps
    count = torch.arange(1, d.shape[1] + 1, device=d.device)
    last = (ordered * count > excess).sum(1, keepdim=True)
    threshold = (excess.gather(1, last - 1) / last).clamp(min=0)
    return d.sign() * (size - threshold).clamp(min=0)


def sorted_l1_and_box(d: Tensor, eps: float, x: Tensor) -> Tensor:
    """The nearest point of the l_1 ball with x + z in [0, 1], for each row of (B, N).

    Each entry is clamp(|d| - t, 0, room) in size. Their sum is linear in t between the points
    where an entry leaves its wall or reaches zero; these are sorted and the sum is followed.
    """
    room = torch.where(d > 0, 1 - x, x)
    size = d.abs()
    leaves, ends = (size - room).clamp(min=0), size
    total = torch.minimum(size, room).sum(1, keepdim=True)
    points, order = torch.cat([leaves, ends], 1).sort(dim=1)
    change = torch.cat([torch.ones_like(size), -torch.ones_like(size)], 1).gather(1, order)
    slope = change.cumsum(1)  # how many entries shrink beyond each point
    gaps = points.diff(dim=1)
    fallen = (slope[:, :-1] * gaps).cumsum(1)
    at = torch.cat([torch.zeros_like(total), fallen], 1)  # how much the sum has lost at each point
    need = total - eps
    where = ((at <= need).sum(1, keepdim=True) - 1).clamp(min=0)
    rest = (need - at.gather(1, where)) / slope.gather(1, where).clamp(min=1)
    threshold = torch.where(need > 0, points.gather(1, where) + rest, 0)
    return d.sign() * torch.minimum((size - threshold).clamp(min=0), room)
