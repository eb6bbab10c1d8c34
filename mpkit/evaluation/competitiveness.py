"""Competitiveness: how near one network comes to networks made for each attack alone.

The measures of MultiRobustBench, for the attacks of its nine that exist here: balls in l_inf, l_2
and l_1. Spatial flow, recolouring, both JPEG attacks, elastic warps and LPIPS do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

Accuracies = Mapping[str, Mapping[float, float]]
"""Accuracy by attack and strength; the attack ``clean`` has the strength 0."""

STRENGTHS = {"linf": 0.005, "l2": 0.125, "l1": 1.5}
"""The least strength of the benchmark on CIFAR-10; the others are its multiples up to twenty."""

_PERCENT = {
    "linf": "83.0 73.3 65.1 57.5 51.0 44.7 40.3 35.6 31.8 28.9 25.6 22.4 20.3 18.1 15.1 13.9 11.8 "
    "10.3 9.4 8.8",
    "l2": "85.7 78.2 71.9 65.3 59.9 54.8 50.3 46.0 42.2 39.0 35.9 33.2 30.6 28.6 25.9 24.6 22.4 "
    "20.8 19.4 17.4",
    "l1": "82.8 76.7 71.7 66.9 62.8 58.3 54.8 52.3 49.5 47.7 43.9 42.3 40.4 36.9 33.3 32.2 29.7 "
    "27.6 25.5 24.9",
}
SPECIALISTS: Accuracies = {"clean": {0.0: 0.942}} | {
    norm: {STRENGTHS[norm] * (i + 1): float(share) / 100 for i, share in enumerate(shares.split())}
    for norm, shares in _PERCENT.items()
}
"""Accuracies on CIFAR-10 of ResNet-18s, each trained against the one attack at the one strength.

Source: Dai, Mahloujifar et al. 2023 (MultiRobustBench), their code's table of best accuracies,
rounded to a tenth of a per cent; measured with AutoAttack.
"""


class Competitiveness(NamedTuple):
    """Ratios of accuracies to those of specialists.

    Attributes:
        average: over all attacks and strengths, the clean images once among them: CR-ind-avg.
        worst: the least of them: CR-ind-worst.
        attack: whose ratio that is.
        strength: at which.
    """

    average: float
    worst: float
    attack: str
    strength: float


def best(attack: str, strength: float, specialists: Accuracies = SPECIALISTS) -> float:
    """The specialist's accuracy, on the straight line between the two nearest strengths.

    Args:
        attack: such as linf.
        strength: from the least to the greatest known one; below, clean accuracy is the other end.
        specialists: what is known.

    Raises: ValueError: an unknown attack, or a strength beyond the known ones.
    """
    if attack not in specialists:
        raise ValueError(
            f"best: no specialist for attack {attack!r}; there are {', '.join(specialists)}"
        )
    known = sorted({**specialists["clean"], **specialists[attack]}.items())
    if not known[0][0] <= strength <= known[-1][0] * (1 + 1e-9):
        raise ValueError(
            f"best: strength {strength:g} of {attack} is not in [{known[0][0]:g}, "
            f"{known[-1][0]:g}]; leave it out"
        )
    for (low, above), (high, below) in pairwise(known):
        if strength <= high * (1 + 1e-9):
            share = min(1.0, (strength - low) / (high - low))
            return above + share * (below - above)
    return known[-1][1]


def competitiveness(found: Accuracies, specialists: Accuracies = SPECIALISTS) -> Competitiveness:
    """Mean and least ratio of a network's accuracies to those of the specialists.

    Args:
        found: the network's, with ``clean``; shares in [0, 1].
        specialists: the best that is known for each attack alone.

    Raises: ValueError: ``clean`` is missing, or there is no specialist.

    Source: Dai, Mahloujifar et al. 2023 (MultiRobustBench), the competitiveness ratios over
        attacks one by one.
    """
    if "clean" not in found:
        raise ValueError("competitiveness: needs the accuracy on clean images, as clean: {0: a}")
    ratios = {
        (attack, strength): accuracy / best(attack, strength, specialists)
        for attack, each in found.items()
        for strength, accuracy in each.items()
    }
    attack, strength = min(ratios, key=lambda one: ratios[one])
    average = sum(ratios.values()) / len(ratios)
    return Competitiveness(average, ratios[attack, strength], attack, strength)


def at_strengths(least: Tensor, norm: str, times: int = 20) -> dict[float, float]:
    """Accuracy at each of the benchmark's strengths, from the least norm that breaks each image.

    Args:
        least: (N,), 0 where the network errs on the clean image, infinite where nothing broke it.
        norm: a key of STRENGTHS.
        times: how many strengths.
    """
    radii = [STRENGTHS[norm] * (i + 1) for i in range(times)]
    return {radius: float((least > radius).double().mean()) for radius in radii}


def clean_accuracy(least: Tensor) -> dict[float, float]:
    """The accuracy on clean images from the same, in the form that ``competitiveness`` takes."""
    return {0.0: float(torch.gt(least, 0).double().mean())}
