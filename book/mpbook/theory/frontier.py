r"""The exact trade-off: which pairs of risks a classifier can have, and which ones none can.

**The floor** (ours; sharper than the theorems when the strong feature is noisy). Let p be the
chance that sign(x_0) = y. In both models every classifier satisfies, up to τ terms that vanish
as N grows in theorem 2,

* R_inf ≥ 1 - p,
* R_inf + (2p - 1) R_other ≥ p,
* R_inf + R_other ≥ 1 (the theorem),
* R_other ≥ Φ(-α), a little more at finite d in theorem 1,

against the full sets. Three classifiers are its corners: sign(x_0), a constant, and (as d and
N grow) the mean; tossing a coin between two of them reaches the edges. So the floor is
exactly the limit of what is possible. Against the fixed maps of theorem 1's proof, by contrast, the
two risks of *every* classifier add up to exactly 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import singledispatch
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpbook.theory.bounds import SwapBound
from mpbook.theory.gaussians import GaussianModel, StrongBit, StrongPixel
from mpbook.theory.linear import chance_of_error, normal_cdf


class Risks(NamedTuple):
    """Pairs of risks: R_inf and the risk against the other adversary, (K,) each."""

    linf: Tensor
    other: Tensor


@dataclass(frozen=True)
class Floor:
    """Half-planes a · R_inf + b · R_other ≥ c, with a, b ≥ 0, that hold for every classifier."""

    lines: tuple[tuple[float, float, float], ...]

    def lowest(self, linf: Tensor) -> Tensor:
        """The least R_other (K,) that the floor allows at each R_inf (K,), or infinity."""
        least = torch.zeros_like(linf)
        for a, b, c in self.lines:
            rest = c - a * linf
            blocked = torch.where(rest > 1e-12, math.inf, 0.0).to(linf)
            least = torch.maximum(least, rest / b if b > 0 else blocked)
        return least

    def slack(self, risks: Risks) -> Tensor:
        """How far above the floor pairs of risks are (K,): the least of a R_inf + b R_other - c."""
        return torch.stack([a * risks.linf + b * risks.other - c for a, b, c in self.lines]).amin(0)


@singledispatch
def floor(model: GaussianModel) -> Floor:
    """What no classifier can go below, against the full sets of the theorem about this model.

    The sets are l_inf radius 2η and, for a ``StrongBit``, l_1 radius 2, for a ``StrongPixel`` the
    swaps of x_0 with x_1..x_N. All lines are proved on the pages *linf-l1-limit* and *linf-rt*.
    """
    raise ValueError(f"floor: no theorem about {type(model).__name__}; give StrongBit, StrongPixel")


@floor.register
def _(model: StrongBit) -> Floor:
    p = model.p
    erased = normal_cdf(min(0.0, 1 / math.sqrt(model.d) - model.alpha))
    return Floor(((1, 0, 1 - p), (1, 2 * p - 1, p), (1, 1, 1), (0, 1, erased)))


@floor.register
def _(model: StrongPixel) -> Floor:
    bound, p = SwapBound(model), normal_cdf(1 / model.s)
    near = normal_cdf(-max(0.0, 1 - 2 * model.eta) / model.s)
    steep = p - (2 * p - 1) * (bound.half_selection + bound.hiding)
    weak = normal_cdf(-model.alpha) - bound.tau / 2
    other = max(weak, model.bayes_risk())
    return Floor(((1, 0, near), (1, 2 * p - 1, steep), (1, 1, 1 - bound.tau), (0, 1, other)))


def linear_risks(model: StrongBit, strong: Tensor, bias: Tensor) -> Risks:
    """Risks of strong · x_0 + (x_1 + ... + x_d) / √d + bias against the full balls, exactly.

    The radii are 2η (l_inf) and 2 (l_1); weights and biases are (K,), and so are the risks. Only √d
    enters, so d may be as large as 10^12.
    """
    root, one = math.sqrt(model.d), torch.ones_like(strong)
    costs = (2 * model.eta * (strong.abs() + root), 2 * strong.abs().clamp(min=1 / root))
    risks = Risks(torch.zeros_like(strong), torch.zeros_like(strong))
    bits = ((strong, model.p), (-strong, 1 - model.p))
    for risk, cost in zip(risks, costs, strict=True):
        for (bit, chance), label in product(bits, (bias, -bias)):
            risk += chance / 2 * chance_of_error(model.alpha + bit + label - cost, one)
    return risks


def linear_frontier(model: StrongBit, points: int = 200) -> Risks:
    """The best that linear classifiers with equal weak weights do against the full balls.

    Searches a grid of the strong weight (0, 1/√d and up) and the bias, adds sign(x_0) and the
    constant, and keeps the `lower_hull`: the pairs that a coin between two of them attains.
    """
    top = 2 * model.alpha + 6
    knee = torch.tensor([0.0, 1 / math.sqrt(model.d)], dtype=torch.float64)
    strong = torch.cat([knee, torch.linspace(0, top, points, dtype=torch.float64)])
    bias = torch.linspace(0, top, points, dtype=torch.float64)
    grid = torch.cartesian_prod(strong, bias)
    spread_out = torch.stack(linear_risks(model, grid[:, 0], grid[:, 1]))
    alone = 1 - model.p if 2 * model.eta < 1 else 1.0  # of sign(x_0), which l_1 always spoils
    corners = torch.tensor([[alone, 0.5], [1.0, 0.5]], dtype=torch.float64)
    return lower_hull(Risks(*torch.cat([spread_out, corners], dim=1)))


def lower_hull(risks: Risks) -> Risks:
    """The lower left boundary of the convex hull of pairs of risks.

    A classifier that tosses a coin between two others has the average of their risks, even when the
    adversary sees the coin: so every point of this boundary is attained. Returned are its corners,
    by increasing R_inf and decreasing R_other.
    """
    hull: list[tuple[float, float]] = []
    for point in sorted(zip(risks.linf.tolist(), risks.other.tolist(), strict=True)):
        if hull and point[1] >= hull[-1][1]:
            continue
        while len(hull) > 1 and _turn(hull[-2], hull[-1], point) <= 0:
            hull.pop()
        hull.append(point)
    return Risks(*torch.tensor(hull, dtype=torch.float64).T)


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    """Twice the signed area of the triangle a, b, c: positive for a left turn."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def least_risk(model: StrongBit, tilt: float, cells: int = 6) -> float:
    """The least tilt · R_inf + (1 - tilt) · R_1 of any classifier, in the limit of large d.

    Args:
        model: theorem 1's data; its d is not used.
        tilt: weight of R_inf, in [0, 1].
        cells: grid cells of T per α, at least 1; T's noise is cut off at 4 standard deviations.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    noise = grid_noise(model, cells)
    width, half = len(noise) + 6 * cells, len(noise) // 2
    cost: list[float] = [0.0] * (2 * width)
    entries: list[tuple[int, int, float]] = []
    limits: list[float] = []
    for label, bit, k in product((-1, 1), (0, 1), range(-half, half + 1)):
        chance = float(noise[k + half]) / 2 * (model.p if label == 2 * bit - 1 else 1 - model.p)
        place = label * cells + k
        near = range(place - 2 * cells, place + 2 * cells + 1)
        # One clean point before each adversary: its share of the risk, and where it can be taken.
        for weight, reached in (
            (tilt * chance, product((bit,), near)),
            ((1 - tilt) * chance, product((0, 1), (place,))),
        ):
            for at_bit, at in reached:  # its chance of error is at least Pr[f ≠ label] there
                entries.append((len(limits), at_bit * width + at + width // 2, -label))
                entries.append((len(limits), len(cost), -1.0))
                limits.append(-1.0 if label > 0 else 0.0)
            cost.append(weight)
    row, column, value = (np.array(part) for part in zip(*entries, strict=True))
    table = coo_array((value, (row, column)), shape=(len(limits), len(cost)))
    return float(linprog(cost, table.tocsr(), np.array(limits), bounds=(0, 1)).fun)


def grid_noise(model: StrongBit, cells: int) -> NDArray[np.float64]:
    """The probabilities (K,) of T - αy on the grid of so many cells per α: symmetric, K odd."""
    half = math.ceil(4 * cells / model.alpha)
    mass = np.exp(-((np.arange(-half, half + 1) * model.alpha / cells) ** 2) / 2)
    return np.asarray(mass / mass.sum())
