"""The union gauge: how far all sets must be scaled until one of them breaks an example.

A fixed radius says one thing of each example, broken or not. The gauge says at which scale it
breaks, in every set, so that networks are compared where a radius gives nought or ties, and one
sees which of the sets binds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mpkit.attacks.gradients import Model
from mpkit.core.checks import ordinary, require_images, require_labels, require_positive
from mpkit.core.devices import full_precision
from mpkit.core.files import DataError, unpacked, write_tensors
from mpkit.core.progress import Quiet
from mpkit.core.statistics import Estimate, mean_of, proportion
from mpkit.evaluation.evaluate import facts_of, generator_of
from mpkit.evaluation.goals import EachSet
from mpkit.evaluation.resume import prints
from mpkit.evaluation.scales import Search
from mpkit.evaluation.suites import Budget, standard
from mpkit.models.identity import WHO, same
from mpkit.sets import PerturbationSet


@dataclass(frozen=True)
class Gauge:
    """For every set and example the smallest scale at which the example was broken.

    Like robust accuracy, an upper bound: a stronger search finds smaller scales.

    Attributes:
        scales: by the names of the sets, (N,) float64 ≥ 0: 0 where the network is wrong on the
            clean example, infinite where nothing was found up to ``most``.
        most: the greatest scale that was searched.
    """

    scales: dict[str, Tensor]
    most: float

    @property
    def union(self) -> Tensor:
        """The least scale over the sets: (N,)."""
        return torch.stack(list(self.scales.values())).amin(0)

    def of(self, name: str | None = None) -> Tensor:
        """The scales in one set, or in the union: (N,)."""
        return self.union if name is None else self.scales[name]

    def accuracy(self, scale: float, name: str | None = None) -> Estimate:
        """The share of examples not broken with all budgets times ``scale``, with its interval."""
        return proportion(self.of(name) > scale)

    def area(self, name: str | None = None) -> Estimate:
        """The area under the accuracy from scale 0 to ``most``: the mean of the capped scale."""
        return mean_of(self.of(name).clamp(max=self.most))

    def binding(self) -> dict[str, int]:
        """How many of the examples that are right when clean each set breaks first."""
        stacked = torch.stack(list(self.scales.values()))
        counted = (self.union > 0) & self.union.isfinite()
        first = stacked.argmin(0)[counted]
        return {name: int((first == i).sum()) for i, name in enumerate(self.scales)}


@torch.inference_mode(False)
@full_precision()
def gauge(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: PerturbationSet,
    rng: torch.Generator,
    *,
    budget: Budget | str = "quick",
    classes: int = 10,
    most: float = 4.0,
    rounds: int = 8,
    batch: int = 250,
    file: Path | None = None,
    progress: Quiet | None = None,
) -> Gauge:
    """Search the smallest scale of the sets that breaks each example.

    In each set: the suite at scale 1; in a ball also minimum-norm searches and steps along the
    border by the network's slope, exact on linear networks; then the suite again and again at
    half way between the smallest scale that broke and the largest that did not.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (N, C, H, W) in [0, 1].
        y: (N,) int64.
        threat: a set, or a union of sets, at scale 1.
        rng: on the device of x; one number is drawn.
        budget: of the suite, see ``standard``.
        classes: of the network.
        most: the greatest scale, ≥ 1.
        rounds: halvings, ≥ 0; each finds the scale twice as exactly, to a thousandth.
        batch: examples at a time.
        file: where finished batches are kept; a stopped search goes on from there.
        progress: told of every set of every batch.

    Returns: the gauge, its scales on the CPU.

    Raises:
        ValueError: an argument is unfit.
        DataError: the file belongs to another search.

    Source: the curves of accuracy against size of Dong et al. 2020, here for unions and scales.
    """
    x, y = ordinary(x), ordinary(y)
    require_images(x)
    require_labels(y, x)
    require_positive("gauge", batch=batch, classes=classes)
    if not 1 <= most < float("inf") or rounds < 0:
        raise ValueError(
            f"gauge: most must be at least 1 and finite, rounds at least 0, got {most}, {rounds}"
        )
    for part in threat.parts():
        part.check(x)
    seed = int(torch.randint(2**62, (), generator=rng, device=x.device))
    entries = standard(threat, budget, classes)
    facts = facts_of(model, entries, EachSet(), batch, seed, x[:1])
    facts |= {"most": most, "rounds": rounds, "images": prints(x, batch), "labels": y.tolist()}
    kept = _Kept(file, facts)
    starts, parts = range(0, len(x), batch), threat.parts()
    left = [start for start in starts if start not in kept.done]
    told = progress or Quiet()
    told.start(len(starts) * len(parts), (len(starts) - len(left)) * len(parts))
    try:
        for start in left:
            rows, found = slice(start, start + batch), []
            for number, part in enumerate(parts):
                random = generator_of(x.device, seed, f"gauge {number}", start)
                search = Search(model, x[rows], y[rows], part, budget, classes, random)
                found.append(search.run(most, rounds))
                told.advance(1, part.describe())
            kept.add(start, torch.stack(found))
    finally:
        told.close()
    scales = torch.cat([kept.done[start] for start in starts], 1)
    return Gauge({part.describe(): row for part, row in zip(parts, scales, strict=True)}, most)


@dataclass
class _Kept:
    """Finished batches, by their first example: scales (sets, B)."""

    file: Path | None
    facts: dict[str, Any]
    done: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file is None or not self.file.exists():
            return
        tensors, words = unpacked(self.file)
        found = json.loads(words.get("facts", "{}"))
        settings = [{k: v for k, v in one.items() if k not in WHO} for one in (found, self.facts)]
        if settings[0] != settings[1] or not same(found, self.facts):
            raise DataError(
                f"{self.file}: belongs to another search (network, images, sets or settings); "
                "name another file"
            )
        self.done = {int(name): tensor for name, tensor in tensors.items()}

    def add(self, start: int, scales: Tensor) -> None:
        self.done[start] = scales
        if self.file is not None:
            named = {str(start): tensor for start, tensor in self.done.items()}
            write_tensors(self.file, named, facts=json.dumps(self.facts))
