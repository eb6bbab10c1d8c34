"""The largest l_p ball in a union of two balls, and in its convex hull; both without the box.

A convex region that contains an l_1 ball and an l_inf ball contains their hull, and with it l_p
balls that are larger than those in the union.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def hull_radius(p: float, l1: float, linf: float, d: int) -> float:
    """The radius of the largest l_p ball in the convex hull of an l_1 ball and an l_inf ball.

    Args:
        p: at least 1, or math.inf.
        l1: radius of the first ball, > 0.
        linf: radius of the second, > 0.
        d: the number of coordinates.

    Raises: ValueError: p below 1, a radius that is not positive, or no coordinate.

    Source: Croce and Hein 2020.
    """
    _check(p, l1, linf, d)
    order = math.inf if p == 1 else 1.0 if p == math.inf else p / (p - 1)
    return l1 / float(torch.linalg.vector_norm(worst_weights(l1, linf, d), order))


def worst_weights(l1: float, linf: float, d: int) -> Tensor:
    """The linear classifier (d,) for which the hull promises no more than is true, for every p.

    Its first weights are 1, as many as fit into l1 / linf; the next is the fraction that is left.
    """
    _check(1, l1, linf, d)
    left = l1 / linf - torch.arange(d, dtype=torch.float64)
    return left.clamp(0, 1)


def union_radius(p: float, l1: float, linf: float, d: int) -> float:
    """The radius of the largest l_p ball in the union of an l_1 ball and an l_inf ball.

    Arguments and errors are those of ``hull_radius``.

    Source: Croce and Hein 2020.
    """
    _check(p, l1, linf, d)
    if l1 <= linf:
        return linf
    if l1 >= d * linf:
        return l1 / d if p == math.inf else l1 * d ** (1 / p - 1)
    rest = l1 - linf
    if p == math.inf:
        return linf
    return float((linf**p + rest**p / (d - 1) ** (p - 1)) ** (1 / p))


def _check(p: float, l1: float, linf: float, d: int) -> None:
    if not p >= 1:
        raise ValueError(f"hulls: p must be at least 1, got {p}; use 1, 2 or math.inf")
    if not (0 < l1 < math.inf and 0 < linf < math.inf and d >= 1):
        raise ValueError(
            f"hulls: radii must be positive and finite and d at least 1, got l1={l1}, "
            f"linf={linf}, d={d}"
        )
