"""Bounds of a ReLU network over a set of images: interval arithmetic, and linear relaxations.

A lower bound here is below the truth but for rounding in float64, about 1e-12 of the logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.certify.network import ReluNetwork, through
from mpkit.core.checks import require_images, require_labels
from mpkit.sets import L1, L2, Ball, Linf
from mpkit.sets.norms import per_row, positive

MEMORY = 1 << 25
"""Numbers that one pass backwards holds at most: 256 MB in float64."""


class Region(ABC):
    """A set of images around each of B images, over which linear functions can be minimized.

    Attributes:
        low: (B, C, H, W), the least value of every pixel.
        high: (B, C, H, W), the greatest.
    """

    low: Tensor
    high: Tensor

    @abstractmethod
    def least(self, a: Tensor) -> Tensor:
        """The least ⟨a, image⟩ over the set, or less: slopes (B, S, C, H, W) to (B, S)."""


class BoxRegion(Region):
    """Every pixel between two bounds of its own.

    Args:
        low: (B, C, H, W).
        high: (B, C, H, W), nowhere less.
    """

    def __init__(self, low: Tensor, high: Tensor) -> None:
        self.low, self.high = low, high

    def least(self, a: Tensor) -> Tensor:
        """Exact: each pixel at the bound that its slope asks for."""
        a = a.flatten(2)
        low, high = (end.flatten(1).unsqueeze(1) for end in (self.low, self.high))
        return (a.clamp(min=0) * low + a.clamp(max=0) * high).sum(2)


class BallRegion(Region):
    """The images of ball ∩ box.

    Args:
        ball: the ball; in l_inf, l_2 and l_1 the box counts exactly.
        x: (B, C, H, W) in [0, 1].
    """

    def __init__(self, ball: Ball, x: Tensor) -> None:
        ball.check(x)
        self.ball, self.x = ball, x
        self.low, self.high = torch.zeros_like(x), torch.ones_like(x)
        if isinstance(ball, Linf | L2 | L1):  # a lone entry moves by the radius at most
            reach = per_row(ball.eps, x)
            self.low, self.high = (x - reach).clamp(min=0), (x + reach).clamp(max=1)

    def least(self, a: Tensor) -> Tensor:
        """The value at x less the greatest change."""
        here: Tensor = (a * self.x.unsqueeze(1)).flatten(2).sum(2)
        return here - self.ball.support(self.x, -a)


class Interval(NamedTuple):
    """Bounds of every neuron before a ReLU: (B, ...) each."""

    low: Tensor
    high: Tensor


def intervals(network: ReluNetwork, region: Region) -> list[Interval]:
    """Interval arithmetic: bounds before every ReLU, and last of the logits.

    Args:
        network: in the precision of the region.
        region: of B images.

    Source: Gowal et al. 2018, section 3.1.
    """
    found = [_across(network, 0, Interval(region.low, region.high))]
    for number in range(1, len(network.groups)):
        found.append(_across(network, number, _passed(found[-1])))
    return found


def _passed(before: Interval) -> Interval:
    return Interval(before.low.relu(), before.high.relu())


def _across(network: ReluNetwork, number: int, ends: Interval) -> Interval:
    """What interval arithmetic makes of bounds on its way through one group of layers."""
    low, high = ends
    for layer in network.groups[number]:
        middle, radius = layer((low + high) / 2), layer.spread((high - low) / 2)
        low, high = middle - radius, middle + radius
    return Interval(low, high)


def margins(y: Tensor, classes: int) -> Tensor:
    """The functions "true logit less another", the own one left out: labels (B,) to (B, K-1, K)."""
    eye = torch.eye(classes, dtype=torch.float64, device=y.device)
    others = torch.stack([(y + k) % classes for k in range(1, classes)], 1)
    return eye[y].unsqueeze(1) - eye[others]


def rivals(y: Tensor, classes: int) -> Tensor:
    """The classes that the functions of ``margins`` compare with: (B,) to (B, K-1)."""
    return torch.stack([(y + k) % classes for k in range(1, classes)], 1)


def linear_bound(
    network: ReluNetwork,
    region: Region,
    spec: Tensor,
    before: Sequence[Interval],
    slopes: Sequence[Tensor] = (),
    pull: Sequence[Tensor] = (),
    trace: list[Tensor] | None = None,
) -> Tensor:
    """The least value of linear functions of what follows the given ReLUs, by one pass backwards.

    Every ReLU is replaced by a line above it and one below it; what comes out is a linear function
    of the image, which is minimized over the region.

    Args:
        network: in the precision of the region.
        region: of B images.
        spec: (B, S, ...), slopes in what the group after the last given ReLU puts out.
        before: bounds before the first, second... ReLU.
        slopes: of the line below each of them, in [0, 1], (B, S or 1, ...); those of least
            area where not given.
        pull: what is taken from the slopes in front of each of them, (B, S, ...): the
            multipliers, each >= 0, of signs that are known there, times the sign.
        trace: is given the slopes behind each ReLU, the last one first.

    Returns: (B, S) lower bounds.

    Source: Zhang et al. 2018 (CROWN), theorem 3.2; free slopes: Xu et al. 2021; multipliers:
        Wang et al. 2021 (beta-CROWN), theorem 3.1.
    """
    a, total = through(network.groups[len(before)], spec)
    for number in reversed(range(len(before))):
        low, high = (end.unsqueeze(1) for end in before[number])
        above = high.clamp(min=0) / positive(high.clamp(min=0) - low.clamp(max=0))
        below = slopes[number] if slopes else (high > -low).to(a.dtype)
        below = torch.where(low >= 0, 1.0, torch.where(high <= 0, 0.0, below))
        if trace is not None:
            trace.append(a)
        plus, minus = a.clamp(min=0), a.clamp(max=0)
        total = total - (minus * above * low.clamp(max=0)).flatten(2).sum(2)
        a = plus * below + minus * above
        a, constant = through(network.groups[number], a - pull[number] if pull else a)
        total = total + constant
    return total + region.least(a)


def linear_bounds(
    network: ReluNetwork,
    region: Region,
    spec: Tensor,
    before: Sequence[Interval],
    steps: int = 0,
    rate: float = 0.2,
) -> Tensor:
    """The same with as many functions at a time as memory allows, and slopes that are searched for.

    Args:
        steps: of a signed gradient search for the slopes of every function; 0 for none.
        rate: of its first step; it falls to a tenth.

    Returns: (B, S), the best of all steps.
    """
    widest = max([shape.numel() for shape in network.shapes[: len(before)]] + [0])
    width = max(widest, region.low[0].numel(), spec[0, 0].numel())
    many = max(1, MEMORY // (width * len(spec) * (4 if steps else 1)))
    found = [
        _searched(network, region, part, before, steps, rate)
        if steps and before
        else linear_bound(network, region, part, before)
        for part in spec.split(many, 1)  # type: ignore[no-untyped-call]
    ]
    return torch.cat(found, 1)


def _searched(
    network: ReluNetwork,
    region: Region,
    spec: Tensor,
    before: Sequence[Interval],
    steps: int,
    rate: float,
) -> Tensor:
    slopes = [
        (high > -low).to(spec.dtype).unsqueeze(1).repeat(1, spec.shape[1], *[1] * (low.dim() - 1))
        for low, high in before
    ]
    best = spec.new_full(spec.shape[:2], -torch.inf)
    for step in range(steps + 1):
        with torch.enable_grad():
            asked = [one.requires_grad_(True) for one in slopes]
            value = linear_bound(network, region, spec, before, asked)
            if step < steps:
                uphill = torch.autograd.grad(value.sum(), asked)
        best = torch.maximum(best, value.detach())
        if step < steps:
            length = rate * 0.1 ** (step / steps)
            slopes = [
                (one.detach() + length * g.sign()).clamp(0, 1)
                for one, g in zip(asked, uphill, strict=True)
            ]
    return best


def before_relus(network: ReluNetwork, region: Region, steps: int = 0) -> list[Interval]:
    """Bounds before every ReLU by linear relaxation, those of interval arithmetic where better.

    Only neurons that interval arithmetic, with the bounds so far, leaves undecided are bounded by
    a pass backwards.

    Args:
        network: in the precision of the region.
        region: of B images.
        steps: of the search for slopes, see ``linear_bounds``.
    """
    found: list[Interval] = []
    for number, shape in enumerate(network.shapes):
        ends = _passed(found[-1]) if found else Interval(region.low, region.high)
        low, high = _across(network, number, ends)
        flat_low, flat_high = low.flatten(1).clone(), high.flatten(1).clone()
        open_ = ((flat_low < 0) & (flat_high > 0)).any(0).nonzero().squeeze(1)
        if len(open_):
            eye = torch.zeros(len(open_), shape.numel(), dtype=low.dtype, device=low.device)
            eye[torch.arange(len(open_)), open_] = 1
            spec = eye.view(1, -1, *shape).expand(len(low), -1, *shape)
            least = linear_bounds(network, region, spec, found, steps)
            most = -linear_bounds(network, region, -spec, found, steps)
            flat_low[:, open_] = torch.maximum(flat_low[:, open_], least)
            flat_high[:, open_] = torch.minimum(flat_high[:, open_], most)
        flat_high = torch.maximum(flat_low, flat_high)
        found.append(Interval(flat_low.view_as(low), flat_high.view_as(high)))
    return found


@dataclass(frozen=True)
class LinearRelaxation:
    """How hard the linear relaxation tries.

    Args:
        inner: steps of the search for slopes for every bound before a ReLU.
        last: the same for the margins.
    """

    inner: int = 0
    last: int = 0

    def margins(self, network: ReluNetwork, region: Region, y: Tensor) -> Tensor:
        """Lower bounds of "true logit less another" over the region: (B, K-1), see ``rivals``.

        An example whose bounds are all positive is classified as y everywhere in the region.
        """
        return self.both(network, region, y)[0]

    def both(
        self, network: ReluNetwork, region: Region, y: Tensor
    ) -> tuple[Tensor, list[Interval]]:
        """The margins' bounds, and those before every ReLU."""
        require_images(region.low)
        require_labels(y, region.low)
        spec = margins(y, network.classes).to(region.low.dtype)
        before = before_relus(network, region, self.inner)
        return linear_bounds(network, region, spec, before, self.last), before
