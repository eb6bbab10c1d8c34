"""Nearest points of the l_inf, l_2 and l_1 balls, alone and cut by the pixel box, row by row.

Each solves argmin_q ‖q - d‖_2 subject to ‖q‖ ≤ eps, and x + q in [0, 1] where there is a box, for d
(B, ...) in pixel units, a radius ≥ 0, which is a number or (B,), and images of the same shape. A
ValueError is raised if eps is not positive and finite, or d holds NaN or infinity.

Rows that are already inside come back untouched, bit for bit, and projecting twice changes
nothing. Results are exact to 1e-5 of the radius in float32, and to rounding in float64; for points
thousands of radii away, to the rounding of the point itself. A row
counts as inside up to half of the rounding allowance that membership grants, so whatever comes
back is a member, however its norm is summed. On a GPU a kernel does a whole row, see ``fused``.
"""

import torch
from torch import Tensor

from mpkit.core.checks import Radius, require_sound
from mpkit.core.trees import pick
from mpkit.sets import fused
from mpkit.sets.fused import by_kernel
from mpkit.sets.norms import l2_norm, per_row, positive, root, size_and_room, slack
from mpkit.sets.thresholds import ROUNDS, blind, soft, stretching, threshold

BLIND_ROUNDS = 3
"""Newton steps for l_2 on a GPU, which is not asked whether any is needed, after sorting."""


@by_kernel(fused.linf_nearest)
@torch.no_grad()
def nearest_in_linf_ball(d: Tensor, eps: Radius) -> Tensor:
    """The nearest point with ‖q‖_inf ≤ eps."""
    require_sound("nearest_in_linf_ball", d, eps)
    if not isinstance(eps, Tensor):
        return d.clamp(-eps, eps)
    radius = per_row(eps, d)
    return torch.clamp(d, -radius, radius)


@by_kernel(fused.l2_nearest)
@torch.no_grad()
def nearest_in_l2_ball(d: Tensor, eps: Radius) -> Tensor:
    """The nearest point with ‖q‖_2 ≤ eps."""
    require_sound("nearest_in_l2_ball", d, eps)
    radius = per_row(eps, d)
    norm = per_row(l2_norm(d), d)
    fits = norm <= radius * (1 + slack(d.dtype) / 2)
    return d * torch.where(fits, 1, radius / positive(norm))


@by_kernel(fused.l1_nearest)
@torch.no_grad()
def nearest_in_l1_ball(d: Tensor, eps: Radius) -> Tensor:
    """The nearest point with ‖q‖_1 ≤ eps.

    Source: the minimizer and its threshold, Duchi et al. 2008, figure 1; here the threshold is
    found by Newton steps inside a shrinking bracket instead of by sorting.
    """
    require_sound("nearest_in_l1_ball", d, eps)
    return _shrunk_to_l1(d.flatten(1), d.flatten(1), None, eps).view_as(d)


def clip_to_box(d: Tensor, x: Tensor) -> Tensor:
    """The nearest point with x + q in [0, 1]."""
    return torch.clamp(d, -x, 1 - x)


@by_kernel(fused.linf_nearest)
@torch.no_grad()
def nearest_in_linf_ball_and_box(d: Tensor, eps: Radius, x: Tensor) -> Tensor:
    """The nearest point with ‖q‖_inf ≤ eps and x + q in [0, 1]."""
    require_sound("nearest_in_linf_ball_and_box", d, eps)
    return clip_to_box(nearest_in_linf_ball(d, eps), x)


@by_kernel(fused.l2_nearest)
@torch.no_grad()
def nearest_in_l2_ball_and_box(d: Tensor, eps: Radius, x: Tensor) -> Tensor:
    """The nearest point with ‖q‖_2 ≤ eps and x + q in [0, 1].

    The minimizer is clip(s d) for one s in (0, 1]; s grows to its value through the (finitely
    many) sets of entries that reach the box.
    """
    require_sound("nearest_in_l2_ball_and_box", d, eps)
    long, low, high = d.flatten(1), -x.flatten(1), 1 - x.flatten(1)
    clipped = torch.clamp(long, low, high)
    radius = per_row(eps, clipped)
    inside = clipped.norm(dim=1, keepdim=True) <= radius * (1 + slack(d.dtype) / 2)
    if not blind(d) and bool(inside.all()):
        return clipped.view_as(d)
    long = long / positive(long.abs().amax(1, keepdim=True))
    short = _scaled_into(long, low, high, radius, inside)
    short = _within(short, short.norm(dim=1, keepdim=True), radius)
    return pick(inside, clipped, short).view_as(d)


def _scaled_into(d: Tensor, low: Tensor, high: Tensor, radius: Tensor, inside: Tensor) -> Tensor:
    """clip(s d) with the s at which its norm rises to the radius, (B, n).

    Newton steps on s squared: entries that reach the box keep their part of the norm, and s
    follows from the others, from below and until no row moves any more. On a CPU the loop ends
    there; on a GPU it runs its fixed length.
    """
    squared, reach, short = d.square(), torch.empty_like(d), torch.empty_like(d)
    goal = radius.square()
    scale, nearly = goal / positive(squared.sum(1, keepdim=True)), slack(d.dtype) / 8 * goal
    if blind(d):
        scale = torch.maximum(scale, stretching(d, low, high, radius))
    scale = torch.where(inside, 1, scale)
    for _ in range(BLIND_ROUNDS if blind(d) else ROUNDS):
        torch.clamp(torch.mul(d, root(scale), out=reach), low, high, out=short)
        missing = goal - torch.linalg.vecdot(short, short).unsqueeze(1)
        settled = inside | (missing <= nearly)
        if not blind(d) and bool(settled.all()):
            break
        free = torch.linalg.vecdot(torch.eq(short, reach, out=reach), squared).unsqueeze(1)
        following = scale + missing / positive(free)
        settled = settled | (following == scale) | (free == 0)
        if not blind(d) and bool(settled.all()):
            break
        scale = torch.where(settled, scale, following)
    return short


@by_kernel(fused.l1_nearest)
@torch.no_grad()
def nearest_in_l1_ball_and_box(d: Tensor, eps: Radius, x: Tensor) -> Tensor:
    """The nearest point with ‖q‖_1 ≤ eps and x + q in [0, 1].

    The minimizer shrinks every entry by one threshold and then clips it to the box; clipping the
    nearest point of the ball alone is feasible but not nearest.

    Source: Croce and Hein 2021, proposition 2.1.
    """
    require_sound("nearest_in_l1_ball_and_box", d, eps)
    clipped = clip_to_box(d, x)
    return _shrunk_to_l1(d.flatten(1), clipped.flatten(1), x, eps).view_as(d)


def _shrunk_to_l1(d: Tensor, clipped: Tensor, x: Tensor | None, eps: Radius) -> Tensor:
    """Rows of ``clipped`` whose l_1 norm is within eps, else d shrunk by its threshold."""
    radius = per_row(eps, d)
    held = clipped.abs()
    norm = held.sum(1, keepdim=True)
    inside = norm <= radius * (1 + slack(d.dtype) / 2)
    if not blind(d) and bool(inside.all()):
        return clipped.clone()
    if x is None:
        size, room, short = held, None, torch.empty_like(held)
    else:
        (size, room), short = size_and_room(d, x), held
    soft(size, threshold(size, room, radius, norm, inside, short), room, short)
    _within(short, short.sum(1, keepdim=True), radius)
    return pick(inside, clipped, short.copysign_(d), out=short)


def _within(size: Tensor, norm: Tensor, radius: Tensor) -> Tensor:
    """Undo what rounding left outside: scale down rows whose norm passes the radius."""
    fits = norm <= radius * (1 + slack(size.dtype) / 4)
    return size.mul_(torch.where(fits, 1, radius / norm))
