"""Norms, their duals and the directions of steepest ascent, row by row.

Every function treats a batch ``(B, ...)`` as B independent vectors: all entries of a row, over
channels and pixels, count together. A radius is a number or a tensor ``(B,)``.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mpkit.core.checks import Radius
from mpkit.sets import fused
from mpkit.sets.fused import by_kernel


def slack(dtype: torch.dtype) -> float:
    """Relative rounding allowance with which a norm is compared with a radius: 32 machine epsilons.

    That is 3.8e-6 for torch.float32 and 7.1e-15 for torch.float64.
    """
    return 32 * torch.finfo(dtype).eps


def per_row(radius: Radius, like: Tensor) -> Tensor:
    """Return the radius as a tensor (B, 1, ..., 1), or of no dimension, that broadcasts over rows.

    Device, dtype and the number of dimensions are those of ``like``, (B, ...).
    """
    if isinstance(radius, Tensor):
        radius = radius.to(device=like.device, dtype=like.dtype)
        return radius.reshape(-1, *[1] * (like.dim() - 1)) if radius.dim() else radius
    return torch.full((), radius, device=like.device, dtype=like.dtype)


def root(x: Tensor) -> Tensor:
    """The square root of each entry, at least 0, rounded alike on every x86 processor.

    ``Tensor.sqrt`` takes it from MKL, whose last bit depends on the processor's maker.
    """
    return x.rsqrt().reciprocal_()


def linf_norm(d: Tensor) -> Tensor:
    """Largest absolute entry of each row, the dual of the l_1 norm: (B, ...) to (B,)."""
    return d.flatten(1).abs().amax(1)


def l1_norm(d: Tensor) -> Tensor:
    """Sum of the absolute entries of each row, the dual of the l_inf norm: (B, ...) to (B,)."""
    return d.flatten(1).abs().sum(1)


@by_kernel(fused.l2_length)
def l2_norm(d: Tensor) -> Tensor:
    """Euclidean norm of each row, its own dual, free of overflow: (B, ...) to (B,)."""
    flat = d.flatten(1)
    largest = positive(flat.abs().amax(1, keepdim=True))
    scaled: Tensor = (flat / largest).norm(dim=1)
    return scaled * largest.squeeze(1)


@by_kernel(fused.l2_direction)
def unit_direction(g: Tensor) -> Tensor:
    """The z with ‖z‖_2 ≤ 1 that maximizes ⟨g, z⟩: g over its norm, zero where the row is zero.

    Rows are first divided by their largest entry, so a tiny gradient does not vanish.
    """
    flat = g.flatten(1)
    flat = flat / positive(flat.abs().amax(1, keepdim=True))
    return flat.div_(positive(flat.norm(dim=1, keepdim=True))).view_as(g)


@torch.no_grad()
def sparse_direction(g: Tensor, quantile: float) -> Tensor:
    """A z with ‖z‖_1 = 1 that shares one step among the largest entries of g, in their signs.

    Entries of abs(g) at or above the quantile, in [0, 1), and at least one, take part with equal
    shares; where g is zero nothing moves. SLIDE's step (Tramèr and Boneh 2019, algorithm 1).
    """
    flat = g.flatten(1)
    size = flat.abs()
    moving = max(1, round((1 - quantile) * size.shape[1]))
    least = size.topk(moving, dim=1, sorted=False).values.amin(1, keepdim=True)
    signs = torch.ge(size, least, out=size).mul_(flat.sign())
    return signs.div_(signs.abs().sum(1, keepdim=True).clamp_(min=1)).view_as(g)


@by_kernel(fused.l1_filling)
@torch.no_grad()
def filling_step(image: Tensor, g: Tensor, length: Tensor) -> Tensor:
    """Solve argmax_s ⟨g, s⟩ subject to ‖s‖_1 ≤ length and image + s in [0, 1], row by row.

    The entries with the largest abs(g) go to the box, as far as the length lasts; the level of
    abs(g) down to which it lasts is found by halving. The length is of no dimension or
    (B, 1, ..., 1).
    """
    size, room = size_and_room(g, image)
    budget, above = length.reshape(-1, 1), torch.empty_like(size)

    def cost(level: Tensor) -> Tensor:
        spent: Tensor = torch.linalg.vecdot(torch.gt(size, level, out=above), room)
        return spent.unsqueeze(1)

    top = size.amax(1, keepdim=True)
    low, high = bisected(torch.zeros_like(top), top, lambda level: cost(level) > budget, 24)
    share = (budget - cost(high)) / positive(cost(low) - cost(high))
    part = torch.gt(size, low, out=above)
    part.lerp_(torch.gt(size, high, out=size), 1 - share.clamp(0, 1))
    return part.mul_(room).mul_(g.flatten(1).sign()).view_as(g)


def bisected(
    low: Tensor, high: Tensor, higher: Callable[[Tensor], Tensor], times: int
) -> tuple[Tensor, Tensor]:
    """Halve the intervals from low to high, row by row, keeping the half that holds the turn.

    ``higher`` is called with levels, (B, 1) as all here is, and is true where the turn lies above.
    Returns the ends of the last intervals.
    """
    width = high - low
    for _ in range(times):
        width = width * 0.5
        low = torch.addcmul(low, higher(low + width).to(low.dtype), width)
    return low, torch.minimum(low + width, high)


def boxed(v: Tensor) -> Tensor:
    """Clip values to [0, 1] and let the gradient pass as if they had not been clipped.

    The derivative of a clamp is 0 outside of its walls, and in some versions of torch at the
    walls too, where a black background lies; a search through it would see no slope.
    """
    fixed = v.detach()
    return v + fixed.clamp(0, 1).sub_(fixed)


def size_and_room(d: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """abs(d), and how far each entry may go in its direction before x meets [0, 1]: (B, n).

    Negative where x lies beyond that wall, as one part of an affine pair may without the other.
    """
    d, x = d.flatten(1), x.flatten(1)
    upwards = torch.gt(d, 0, out=torch.empty_like(d))
    return d.abs(), torch.lerp(x, 1 - x, upwards, out=upwards)


def positive(norm: Tensor) -> Tensor:
    """A norm that can be divided by: at least the smallest normal number."""
    return norm.clamp(min=torch.finfo(norm.dtype).tiny)
