"""Answers that are known: optima of linear models, and projections by sorting, in float64.

None of this shares a line with the attacks and projections that it checks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpkit.audit.conformance import Search, brought_back
from mpkit.sets import L1, L2, Ball, Linf


def best_linear(ball: Ball, w: Tensor, x: Tensor) -> Tensor:
    """The greatest ⟨w, z⟩ over ball ∩ box, in closed form, in float64: (B,).

    Args:
        ball: l_inf, l_2 or l_1, with one radius.
        w: (C, H, W), or (B, C, H, W).
        x: (B, C, H, W) in [0, 1].

    Raises: TypeError: for another kind of ball.
    """
    x, w = x.double().flatten(1), w.double().expand(x.shape).flatten(1)
    size, room = w.abs(), torch.where(w > 0, 1 - x, x)
    eps = float(ball.eps)
    if isinstance(ball, Linf):
        return (size * room.clamp(max=eps)).sum(1)
    if isinstance(ball, L1):  # the best entry to its wall, then the next best
        order = size.argsort(1, descending=True)
        size, room = size.gather(1, order), room.gather(1, order)
        left = (eps - (room.cumsum(1) - room)).clamp(min=0)
        return (size * torch.minimum(room, left)).sum(1)
    if isinstance(ball, L2):  # z = min(t |w|, room), the t found by halving
        low, high = torch.zeros(len(x), 1).double(), room.amax(1, keepdim=True) / size.min() + 1
        for _ in range(200):
            middle = (low + high) / 2
            long = torch.minimum(middle * size, room).norm(dim=1, keepdim=True) > eps
            low, high = torch.where(long, low, middle), torch.where(long, middle, high)
        return (size * torch.minimum(low * size, room)).sum(1)
    raise TypeError(f"best_linear: needs a Linf, L2 or L1 ball, got {type(ball).__name__}")


class Threshold(nn.Module):
    """A linear classifier of ten classes: class 1 gets ⟨w, x⟩ - level, class 0 gets 0."""

    def __init__(self, w: Tensor, level: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(w.clone())
        self.level = level

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (B, C, H, W): (B, 10)."""
        lead = (x * self.weight).flatten(1).sum(1, keepdim=True) - self.level
        rest = torch.arange(8).to(lead) + 50
        return torch.cat([torch.zeros_like(lead), lead, -rest.expand(len(x), 8)], 1)


SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
"""The shares of the best possible gain at which ``reach`` sets its thresholds."""


def reach(
    search: Search, ball: Ball, shape: tuple[int, int, int], problems: int = 3, copies: int = 4
) -> float:
    """How near an attack comes to the optimum of linear models, box included.

    The model's threshold lies so high that a given share of the greatest possible gain is needed
    to cross it. An attack that loses the fraction g crosses all thresholds below 1 - g. What
    counts is what is crossed inside of the set, whatever the attack returns where it fails, so
    attacks that maximize a loss and attacks that minimize a norm are treated alike.

    Args:
        search: the attack, set to this ball.
        ball: its set.
        shape: of the images.
        problems: how many models and images are drawn.
        copies: starts for each, in one batch; half of them must cross.

    Returns: the greatest of ``SHARES`` up to which all are crossed, 0 where the first is not;
        mean over the problems.
    """
    return sum(_reach_of_one(search, ball, shape, i, copies) for i in range(problems)) / problems


def _reach_of_one(
    search: Search, ball: Ball, shape: tuple[int, int, int], seed: int, copies: int
) -> float:
    rng = torch.Generator().manual_seed(seed)
    w, x = torch.randn(shape, generator=rng), torch.rand(shape, generator=rng)
    x = torch.where(x < 0.4, 0, torch.where(x > 0.9, 1, x)).unsqueeze(0)
    w = w * (5 / float(best_linear(ball, w, x)))  # no logit so large that a softmax saturates
    lead, reached = float((w * x).double().sum()), 0.0
    x, y = x.repeat(copies, 1, 1, 1), torch.zeros(copies, dtype=torch.int64)
    for share in SHARES:
        model = Threshold(w, lead + share * 5).eval()
        image = brought_back(ball, x, search(model, x, y).detach())
        with torch.no_grad():
            crossed = model(image).argmax(1) == 1
        if crossed.double().mean() < 0.5:
            break
        reached = share
    return reached


def nearest_l1(d: Tensor, eps: float) -> Tensor:
    """The nearest point of the l_1 ball in float64, by sorting: (B, ...) to (B, ...).

    Source: Duchi et al. 2008, figure 1.
    """
    rows = d.double().flatten(1)
    size = rows.abs().sort(1, descending=True).values
    levels = (size.cumsum(1) - eps) / torch.arange(1, size.shape[1] + 1)
    active = (size > levels).sum(1, keepdim=True).clamp(min=1)
    level = levels.gather(1, active - 1).clamp(min=0)
    return ((rows.abs() - level).clamp(min=0) * rows.sign()).view(d.shape)


def nearest_l2(d: Tensor, eps: float) -> Tensor:
    """The nearest point of the l_2 ball in float64: (B, ...) to (B, ...)."""
    rows = d.double().flatten(1)
    length: Tensor = rows.norm(p=2, dim=1, keepdim=True)
    return (rows * (eps / length).clamp(max=1)).view(d.shape)


class Misplaced(NamedTuple):
    """How far a projection is from the exact one, in radii.

    Attributes:
        distance: largest distance in l_2 of a result from the nearest point.
        beyond: largest excess of a result's norm over the radius.
        moved: largest distance by which a point that lay inside was moved.
    """

    distance: float
    beyond: float
    moved: float


def misplaced(project: Callable[[Tensor], Tensor], ball: Ball, size: int = 784) -> Misplaced:
    """Compare a projection with the exact one on points outside and inside of a ball, no box.

    Args:
        project: (B, n) points to (B, n) points, float32.
        ball: l_1 or l_2, with one radius.
        size: n.
    """
    eps, norm = float(ball.eps), 1 if isinstance(ball, L1) else 2
    nearest = nearest_l1 if isinstance(ball, L1) else nearest_l2
    rng = torch.Generator().manual_seed(0)
    dense = torch.randn(40, size, generator=rng)
    sparse = dense * (torch.rand(40, size, generator=rng) < 0.02)
    points = torch.cat([dense, sparse, sparse.sign()])
    lengths = points.norm(p=norm, dim=1, keepdim=True).clamp(min=1e-9)
    far = points / lengths * eps * torch.linspace(1.1, 10, len(points)).unsqueeze(1)
    near = points / lengths * eps * torch.linspace(0.1, 0.9, len(points)).unsqueeze(1)
    found = project(torch.cat([far, near])).double()  # in one batch, as attacks meet them
    return Misplaced(
        float((found[: len(far)] - nearest(far, eps)).norm(dim=1).max()) / eps,
        max(0.0, float(found.norm(p=norm, dim=1).max()) / eps - 1),
        float((found[len(far) :] - near).norm(dim=1).max()) / eps,
    )
