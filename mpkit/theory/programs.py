"""All classifiers at once: the frontier of theorem 1 by linear programming (ours).

As d grows, a classifier can know only the bit x_0 and T = Σ x_i / √d, which is N(αy, 1); the l_inf
adversary moves T by up to 2α and cannot change the bit, the l_1 adversary chooses the bit and
cannot change T. With T on a grid, the least weighted risk over *all* classifiers is a linear
program whose unknowns are Pr[f = +1] at each cell and each attacked point's chance of error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mpkit.theory.gaussians import StrongBit


def least_risk(model: StrongBit, tilt: float, cells: int = 6) -> float:
    """The least tilt · R_inf + (1 - tilt) · R_1 of any classifier, in the limit of large d.

    Args:
        model: theorem 1's data; its d is not used.
        tilt: weight of R_inf, in [0, 1].
        cells: grid cells of T per α, at least 1; T's noise is cut off at 4 standard deviations.

    Returns: the optimum of the linear program.
    """
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    noise = grid_noise(model, cells)
    width = len(noise) + 6 * cells
    points = list(_points(model, tilt, noise, cells))
    cost = np.concatenate([np.zeros(2 * width), [point.weight for point in points]])
    entries: list[tuple[int, int, float]] = []
    limits: list[float] = []
    for index, point in enumerate(points):
        for bit, place in product(point.bits, point.places):
            # Its chance of error is at least Pr[f ≠ label] wherever the adversary can take it.
            unknown = bit * width + place + width // 2
            entries.append((len(limits), unknown, -point.label))
            entries.append((len(limits), 2 * width + index, -1.0))
            limits.append(-1.0 if point.label > 0 else 0.0)
    row, column, value = (np.array(part) for part in zip(*entries, strict=True))
    table = coo_array((value, (row, column)), shape=(len(limits), len(cost)))
    return float(linprog(cost, table.tocsr(), np.array(limits), bounds=(0, 1)).fun)


class _Point(NamedTuple):
    """One clean point before one adversary: its share of the risk and where it can be taken."""

    weight: float
    label: float
    bits: Sequence[int]
    places: Sequence[int]


def _points(
    model: StrongBit, tilt: float, noise: NDArray[np.float64], cells: int
) -> Iterator[_Point]:
    half = len(noise) // 2
    for label, bit, k in product((-1, 1), (0, 1), range(-half, half + 1)):
        right = bit == (label + 1) // 2
        chance = float(noise[k + half]) / 2 * (model.p if right else 1 - model.p)
        place = label * cells + k
        near = range(place - 2 * cells, place + 2 * cells + 1)
        yield _Point(tilt * chance, label, (bit,), near)
        yield _Point((1 - tilt) * chance, label, (0, 1), (place,))


def grid_noise(model: StrongBit, cells: int) -> NDArray[np.float64]:
    """The probabilities of T - αy on the grid, symmetric, with an odd number of cells.

    Args:
        model: gives α.
        cells: grid cells per α.

    Returns: (K,), summing to 1.
    """
    half = math.ceil(4 * cells / model.alpha)
    mass = np.exp(-((np.arange(-half, half + 1) * model.alpha / cells) ** 2) / 2)
    return np.asarray(mass / mass.sum())
