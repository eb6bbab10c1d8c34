"""Estimates with intervals: no rate without its uncertainty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Estimate(NamedTuple):
    """A simulated number and the interval that holds the true one at the stated level."""

    value: float
    low: float
    high: float

    def holds(self, truth: float) -> bool:
        """Whether the interval contains a value."""
        return self.low <= truth <= self.high


def proportion(wrong: Tensor, level: float = 0.95) -> Estimate:
    """The rate of True with its Clopper-Pearson interval, which is never too short.

    Args:
        wrong: (N,) bool.
        level: coverage in (0, 1).
    """
    from scipy.stats import binomtest

    n, k = len(wrong), int(wrong.sum())
    interval = binomtest(k, n).proportion_ci(level, method="exact")
    return Estimate(k / n, float(interval.low), float(interval.high))


def mean_of(values: Tensor, level: float = 0.95) -> Estimate:
    """The mean with a normal interval.

    Args:
        values: (N,), independent, N large enough for the central limit theorem.
        level: coverage in (0, 1).
    """
    z = float(torch.special.ndtri(torch.tensor((1 + level) / 2, dtype=torch.float64)))
    mean, half = float(values.mean()), z * float(values.std()) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)
