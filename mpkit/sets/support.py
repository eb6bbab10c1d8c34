"""The greatest value of a linear function over ball ∩ box, exactly: what certificates stand on.

Each solves max_z ⟨g, z⟩ subject to ‖z‖ ≤ eps and x + z in [0, 1], row by row, for gradients g
(B, S, n), S of them for every image x (B, n); eps is a number or (B, 1, 1). The results, (B, S),
are never too small but for rounding, and have gradients in g.
"""

import torch
from torch import Tensor

from mpkit.sets.norms import positive
from mpkit.sets.thresholds import stretching


def room(g: Tensor, x: Tensor) -> Tensor:
    """How far each entry may go in the direction of g before the image meets [0, 1]: (B, S, n)."""
    x = x.unsqueeze(1)
    return torch.where(g > 0, 1 - x, x)


def over_linf_ball_and_box(g: Tensor, eps: Tensor | float, x: Tensor) -> Tensor:
    """Every entry goes as far as ball or box let it."""
    return (g.abs() * room(g, x).clamp(max=eps)).sum(2)


def over_l1_ball_and_box(g: Tensor, eps: Tensor | float, x: Tensor) -> Tensor:
    """The entries with the largest abs(g) go to the box, as far as the radius lasts."""
    size, order = g.abs().sort(dim=2, descending=True)
    far = room(g, x).gather(2, order)
    spent = far.cumsum(2) - far
    return (size * torch.minimum((eps - spent).clamp(min=0), far)).sum(2)


def over_l2_ball_and_box(g: Tensor, eps: Tensor | float, x: Tensor) -> Tensor:
    """The least of upper bounds by duality, at the multiplier that makes them equal to it.

    For every m > 0, ⟨g, z⟩ ≤ m eps² / 2 + max over the box of (⟨g, z⟩ - m ‖z‖² / 2), with equality
    at the m for which the maximizer, clip(g / m), has the norm eps; so an m that is not quite that
    one gives a bound that is not quite tight, and never a wrong one.
    """
    size, far = g.abs(), room(g, x)
    radius = torch.as_tensor(eps, dtype=g.dtype, device=g.device).expand(*g.shape[:2], 1)
    with torch.no_grad():  # the bound's slope in g is z, as if it did not depend on g
        flat, walls = size.flatten(0, 1), far.flatten(0, 1)
        squared = stretching(flat, -walls, walls, radius.reshape(-1, 1)).view_as(radius)
        m = positive(positive(squared).rsqrt())
        z = torch.minimum(size / m, far)
        price = (m * (radius.square() - z.square().sum(2, keepdim=True)) / 2).squeeze(2)
    dual = price + (size * z).sum(2)
    ball = radius.squeeze(2) * torch.linalg.vector_norm(g, dim=2)
    return torch.minimum(torch.minimum(dual, ball), (size * far).sum(2))
