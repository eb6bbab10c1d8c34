"""Two perturbations that share one budget: the convex hull of two balls, in both its parts."""

import math

import torch
from torch import Tensor

from mpkit.core.checks import Radius
from mpkit.sets import fused
from mpkit.sets.balls import L1, L2, Ball, Linf
from mpkit.sets.fused import by_kernel
from mpkit.sets.norms import per_row, positive
from mpkit.sets.projections import clip_to_box

KNOWN: tuple[type[Ball], ...] = (L1, L2, Linf)
"""Balls that a kernel knows; not the first as the second of a pair, whose price takes a search."""


def nearest_pair(a: Ball, b: Ball, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Solve argmin ‖p' - p‖² + ‖q' - q‖² subject to ‖p'‖ ≤ w eps_a, ‖q'‖ ≤ (1 - w) eps_b, w free.

    The sums p' + q' are the convex hull of the two balls (the box not counted). At the solution
    one more unit of either budget is worth the same, and w is found by halving on that balance.

    Args:
        a: the ball of p, (B, ...); its norm is taken over each row.
        b: the ball of q, (B, ...) of its own shape.

    Returns:
        w (B,) in [0, 1], and p', q' as near as can be; pairs already allowed come back unchanged.
    """
    if b.order == 1 and a.order != 1:
        w, second, first = nearest_pair(b, a, q, p)
        return 1 - w, a.scaled(1 - w).shrink(first), b.scaled(1 - (1 - w)).shrink(second)
    if type(a) in KNOWN and type(b) in KNOWN[1:]:
        low = _balanced(q, p, KNOWN.index(type(a)), KNOWN.index(type(b)), a.eps, b.eps)
    else:
        low = _halved(a, b, p, q)
    least, most = _share(a, p), 1 - _share(b, q)
    w = torch.where(least <= most, torch.minimum(torch.maximum(low, least), most), low)
    return w, a.scaled(w).shrink(p), b.scaled(1 - w).shrink(q)


def _halved(a: Ball, b: Ball, p: Tensor, q: Tensor) -> Tensor:
    """The share w (B,) at which a unit of either budget is worth the same."""
    low, high = p.new_zeros(len(p)), p.new_ones(len(p))
    for _ in range(30 if p.dtype == torch.float32 else 50):
        w = (low + high) / 2
        price = _price(b, q, 1 - w)
        more = _use(a, p, price) > w if a.order == 1 else _price(a, p, w) > price
        low, high = torch.where(more, w, low), torch.where(more, high, w)
    return low


@by_kernel(fused.pair_share)
def _balanced(q: Tensor, p: Tensor, a: int, b: int, eps_a: Radius, eps_b: Radius) -> Tensor:
    """The same for balls that a kernel knows, by their places among these."""
    return _halved(KNOWN[a](eps_a), KNOWN[b](eps_b), p, q)


def box_pair(a: Ball, b: Ball, x: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Take from p and q what pushes x + p + q out of [0, 1]; no entry grows.

    What is too much comes off the part for which it costs budget: an l_inf ball gives last.

    Args:
        a: the ball of p, (B, C, H, W) as x and q are.
        b: the ball of q.
    """
    if a.order == math.inf and b.order != math.inf:
        return box_pair(b, a, x, q, p)[::-1]
    total = clip_to_box(p + q, x)
    kept = total - q
    p = torch.minimum(torch.maximum(kept, p.clamp(max=0)), p.clamp(min=0))
    return p, total - p


def _price(ball: Ball, z: Tensor, share: Tensor) -> Tensor:
    """What a little more of the budget would bring nearer, when z is shrunk to a share of it."""
    rest = z - ball.scaled(share).shrink(z)
    norm = ball.dual_norm(rest)
    return per_row(ball.eps, norm) * norm


def _use(ball: Ball, z: Tensor, price: Tensor) -> Tensor:
    """The share of an l_1 budget that z keeps when its norm costs so much (a proximal step)."""
    eps = per_row(ball.eps, price).clamp(min=torch.finfo(price.dtype).tiny ** 0.5)
    return ball.norm(z - Linf(price / eps).shrink(z)) / eps


def _share(ball: Ball, z: Tensor) -> Tensor:
    norm = ball.norm(z)
    return norm / positive(per_row(ball.eps, norm))
