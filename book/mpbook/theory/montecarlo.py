"""Risks of any classifier by simulation, with intervals, and a test that two laws are one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mpbook.theory.adversaries import Adversary
from mpbook.theory.linear import Classifier
from mpkit.core.statistics import Estimate, mean_of, proportion


class Source(Protocol):
    """Anything that labelled points can be drawn from."""

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (n, k) and labels (n,), -1.0 or +1.0."""


@dataclass(frozen=True, eq=False)
class Tally:
    """Which of the same N points each adversary turned into errors, (N,) bool by its name."""

    wrong: Mapping[str, Tensor]

    def risk(self, name: str, level: float = 0.95) -> Estimate:
        """R_adv against one adversary."""
        return proportion(self.wrong[name], level)

    def worst(self, level: float = 0.95) -> Estimate:
        """R_max: a point counts as soon as one of the adversaries turned it into an error."""
        return proportion(torch.stack(list(self.wrong.values())).any(dim=0), level)

    def average(self, level: float = 0.95) -> Estimate:
        """R_avg: the mean of the adversaries' risks."""
        return mean_of(torch.stack(list(self.wrong.values())).double().mean(dim=0), level)


def measure(
    f: Classifier, model: Source, adversaries: Mapping[str, Adversary], n: int, rng: torch.Generator
) -> Tally:
    """Attack n fresh points with every adversary, the same for each, and note the errors."""
    parts: dict[str, list[Tensor]] = {name: [] for name in adversaries}
    for start in range(0, n, 4096):
        x, y = model.sample(min(4096, n - start), rng)
        for name, adversary in adversaries.items():
            attacked = adversary(f, x, y, rng)
            with torch.no_grad():
                parts[name].append(y * f(attacked) <= 0)
    return Tally({name: torch.cat(part) for name, part in parts.items()})


def two_sample(a: Tensor, b: Tensor, rng: torch.Generator, permutations: int = 999) -> float:
    """Test whether two samples come from one law: energy distance, permutation p-value.

    The p-value in (0, 1] is exact: under one law Pr[p ≤ t] ≤ t, for any sample size; it is a
    multiple of 1 / (permutations + 1).

    Args:
        a: (n, k), one sample.
        b: (m, k), the other.
        rng: source of the permutations.
        permutations: how many.

    Source: Székely and Rizzo 2004.
    """
    pooled = torch.cat([a, b]).double()
    distance = torch.cdist(pooled, pooled)
    share = pooled.new_full((len(pooled),), -1 / len(b))
    share[: len(a)] = 1 / len(a)
    shuffles = [torch.randperm(len(pooled), generator=rng) for _ in range(permutations)]
    signed = torch.stack([share, *(share[order] for order in shuffles)])
    energy = -((signed @ distance) * signed).sum(dim=1)
    as_large = int((energy[1:] >= energy[0] - 1e-12).sum())
    return (1 + as_large) / (permutations + 1)
