"""Branch and bound over the signs of ReLUs: complete in every set that linear functions can be
minimized over, with bounds by linear relaxation for hundreds of cases at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.certify.bounds import Interval, Region, linear_bound
from mpkit.certify.network import ReluNetwork
from mpkit.sets.norms import root

ENTRIES = 1e-9
"""How far a lower bound may pass an upper one, in logits, before a case counts as empty."""


class Cases(NamedTuple):
    """N cases that are still open: an example, a rival class, and signs of some neurons.

    Attributes:
        example: (N,) int64.
        spec: (N, 1, K), "true logit less that of the rival".
        low: (N, H), bounds before every ReLU, one layer after the other.
        high: (N, H).
        sign: (N, H), 1 where the case says that the neuron is on, -1 for off, 0 for nothing.
        slope: (N, H), of the line below each ReLU.
        dual: (N, H), multipliers of the signs, >= 0.
        bound: (N,), a lower bound of the margin.
        fresh: (N,) bool, where a sign is new that bounds behind it have not heard of.
    """

    example: Tensor
    spec: Tensor
    low: Tensor
    high: Tensor
    sign: Tensor
    slope: Tensor
    dual: Tensor
    bound: Tensor
    fresh: Tensor

    def take(self, rows: Tensor) -> Cases:
        """Some of the cases."""
        return Cases(*(one[rows] for one in self))

    def joined(self, other: Cases) -> Cases:
        """All of both."""
        return Cases(*(torch.cat(pair) for pair in zip(self, other, strict=True)))

    def open(self) -> Tensor:
        """Which neurons may be on or off: (N, H) bool."""
        return (self.low < 0) & (self.high > 0)


class Bounder:
    """Bounds of cases of one network.

    Args:
        network: in float64.
        region: the sets of some examples, by their numbers (N,).
        steps: of the search for slopes and multipliers.
        rate: of its first step.
    """

    def __init__(
        self,
        network: ReluNetwork,
        region: Callable[[Tensor], Region],
        steps: int = 6,
        rate: float = 0.1,
    ) -> None:
        self.network, self.region, self.steps, self.rate = network, region, steps, rate
        self.sizes = [shape.numel() for shape in network.shapes]

    def layers(self, flat: Tensor) -> list[Tensor]:
        """Numbers of all neurons, (N, H), layer by layer: (N, ...) each."""
        parts = flat.split(self.sizes, 1)  # type: ignore[no-untyped-call]
        return [p.view(-1, *s) for p, s in zip(parts, self.network.shapes, strict=True)]

    def bound(self, cases: Cases, region: Region, trace: list[Tensor] | None = None) -> Tensor:
        """One pass backwards with the slopes and multipliers that the cases have: (N,)."""
        low, high, slope, pull = (
            self.layers(v) for v in (cases.low, cases.high, cases.slope, cases.dual * cases.sign)
        )
        before = [Interval(*ends) for ends in zip(low, high, strict=True)]
        slopes, pulls = ([one.unsqueeze(1) for one in many] for many in (slope, pull))
        return linear_bound(self.network, region, cases.spec, before, slopes, pulls, trace).squeeze(
            1
        )

    def tightened(self, cases: Cases, region: Region) -> Cases:
        """Bounds behind the first layer, computed anew with the signs that the cases know."""
        low, high = list(self.layers(cases.low)), list(self.layers(cases.high))
        for number, shape in enumerate(self.network.shapes):
            if number == 0:
                continue
            before = [Interval(*ends) for ends in zip(low[:number], high[:number], strict=True)]
            wide = ((low[number] < 0) & (high[number] > 0)).any(0).flatten().nonzero().squeeze(1)
            if not len(wide):
                continue
            eye = torch.zeros(len(wide), shape.numel(), dtype=cases.low.dtype)
            eye[torch.arange(len(wide)), wide] = 1
            spec = eye.view(1, -1, *shape).expand(len(cases.low), -1, *shape)
            ends = linear_bound(self.network, region, torch.cat([spec, -spec], 1), before)
            least, most = ends.split(len(wide), 1)  # type: ignore[no-untyped-call]
            flat_low, flat_high = low[number].flatten(1).clone(), high[number].flatten(1).clone()
            flat_low[:, wide] = torch.maximum(flat_low[:, wide], least)
            flat_high[:, wide] = torch.minimum(flat_high[:, wide], -most)
            low[number], high[number] = (
                flat_low.view_as(low[number]),
                flat_high.view_as(low[number]),
            )
        flat = [torch.cat([one.flatten(1) for one in ends], 1) for ends in (low, high)]
        return cases._replace(low=flat[0], high=flat[1])

    def refined(self, cases: Cases) -> tuple[Cases, Tensor]:
        """Search slopes and multipliers, and the image at which the last linear bound is least.

        Returns: the cases with their best bounds, infinite for empty cases, and (N, C, H, W).
        """
        region, fresh = self.region(cases.example), cases.fresh.nonzero().squeeze(1)
        if len(fresh):
            tight = self.tightened(cases.take(fresh), self.region(cases.example[fresh]))
            cases.low[fresh], cases.high[fresh] = tight.low, tight.high
            cases = cases._replace(fresh=torch.zeros_like(cases.fresh))
        empty = (cases.low > cases.high + ENTRIES).any(1)
        slope, dual = cases.slope.clone(), cases.dual.clone()
        best, at = cases.bound.clone(), [slope.clone(), dual.clone()]
        mean = [torch.zeros_like(slope), torch.zeros_like(dual)]
        square = [torch.zeros_like(slope), torch.zeros_like(dual)]
        for step in range(self.steps + 1):
            last = step == self.steps
            with torch.enable_grad():
                asked = [slope.requires_grad_(), dual.requires_grad_()]
                value = self.bound(cases._replace(slope=slope, dual=dual), region)
                if not last:
                    uphill = torch.autograd.grad(value.sum(), asked)
            value = value.detach()
            better = value > best
            best = torch.where(better, value, best)
            for kept, now in zip(at, asked, strict=True):
                kept[better] = now.detach()[better]
            if last or bool((best > 0).all()):
                break
            moved = []
            for i, (one, g) in enumerate(zip(asked, uphill, strict=True)):  # Adam, upwards
                mean[i] = 0.9 * mean[i] + 0.1 * g
                square[i] = 0.99 * square[i] + 0.01 * g * g
                m, v = mean[i] / (1 - 0.9 ** (step + 1)), square[i] / (1 - 0.99 ** (step + 1))
                moved.append(one.detach() + self.rate * 0.97**step * m / (root(v) + 1e-12))
            slope, dual = moved[0].clamp(0, 1), moved[1].clamp(min=0)
        cases = cases._replace(slope=at[0], dual=at[1], bound=torch.where(empty, torch.inf, best))
        return cases, self.lowest(cases, region)

    def lowest(self, cases: Cases, region: Region) -> Tensor:
        """The images at which the linear functions that bound the cases are least."""
        watched = _Watched(region)
        with torch.enable_grad():
            self.bound(cases, watched)
        return watched.image()

    def split(self, cases: Cases, tried: int = 6) -> Cases:
        """Two new cases for each, one neuron on in the first half of them and off in the second.

        Of the neurons whose relaxation costs the bound most, the one is taken whose two cases have
        the best bounds after one pass each.

        Source: De Palma et al. 2021 (filtered smart branching).
        """
        region, trace = self.region(cases.example), list[Tensor]()
        self.bound(cases, region, trace)
        slopes = torch.cat([one.flatten(1) for one in reversed(trace)], 1).abs()
        width = (cases.high - cases.low).clamp(min=1e-30)
        cost = torch.where(cases.open(), slopes * cases.high * -cases.low / width + 1e-12, -1.0)
        tried = min(tried, cost.shape[1])
        value, neuron = cost.topk(tried, 1)
        rows = torch.arange(len(cases.low)).repeat_interleave(tried)
        wide = self.halves(cases.take(rows), neuron.flatten())
        ends = self.bound(wide, self.region(wide.example)).view(2, -1, tried)
        worth = torch.where(value > 0, ends.amin(0) + 1e-3 * ends.amax(0), -torch.inf)
        chosen = neuron.gather(1, worth.argmax(1, keepdim=True)).squeeze(1)
        return self.halves(cases, chosen)

    def halves(self, cases: Cases, neuron: Tensor) -> Cases:
        """The cases with one neuron (N,) each on, then the same with it off: 2 N of them."""
        rows, last = torch.arange(len(neuron)), sum(self.sizes[:-1])
        low, high = cases.low.clone(), cases.high.clone()
        low[rows, neuron], high[rows, neuron] = 0.0, 0.0
        on, off = cases.sign.clone(), cases.sign.clone()
        on[rows, neuron], off[rows, neuron] = 1.0, -1.0
        cases = cases._replace(fresh=neuron < last)
        return cases._replace(low=low, sign=on).joined(cases._replace(high=high, sign=off))


class _Watched(Region):
    """A region that remembers the slopes it was asked about, to tell where the least value is."""

    def __init__(self, region: Region) -> None:
        self.region, self.low, self.high = region, region.low, region.high

    def least(self, a: Tensor) -> Tensor:
        self.asked = a.detach().requires_grad_()
        self.value = self.region.least(self.asked)
        return self.value

    def image(self) -> Tensor:
        """(N, C, H, W): the slope of the least value in the asked ones is where it is taken."""
        (image,) = torch.autograd.grad(self.value.sum(), [self.asked])
        return image.squeeze(1)
