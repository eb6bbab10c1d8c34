"""A ledger as a table, a record and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mpkit.core.statistics import Estimate
from mpkit.evaluation.gauge import Gauge
from mpkit.evaluation.ledger import CLEAN, Ledger
from mpkit.sets import Ball, PerturbationSet

SATURATED = 100.0
"""Logits that differ by more leave nothing of a softmax's gradient in float32."""


def accuracies(ledger: Ledger, level: float = 0.95) -> dict[str, Estimate]:
    """Clean accuracy, accuracy in each set, their union and their average, with intervals.

    Args:
        ledger: any ledger.
        level: coverage in (0, 1).
    """
    each = {name: ledger.accuracy(name, level) for name in (CLEAN, *ledger.sets)}
    if len(ledger.sets) < 2:
        return each
    both = {"union": ledger.union_accuracy(level), "average": ledger.average_accuracy(level)}
    return {**each, **both}


def table(ledger: Ledger) -> str:
    """Accuracies with 95 % intervals, then what each attack added, as text for a terminal."""
    shares = [
        (name, f"{100 * e.value:.1f} %", f"{100 * e.low:.1f} to {100 * e.high:.1f}")
        for name, e in accuracies(ledger).items()
    ]
    gains = [
        (g.name, *(f"{n:,}" for n in (g.tried, g.broken, g.in_union, g.forward, g.backward)))
        for g in ledger.gains()
    ]
    head = ("attack", "tried", "broken", "new to union", "forward", "backward")
    text = columns(("accuracy", "", "95 % interval"), shares) + "\n\n" + columns(head, gains)
    text += f"\n\n{len(ledger):,} examples"
    if unfit := int(ledger.unfit.sum()):
        text += f"; the network answered NaN on {unfit:,} of them, which count as broken"
    return text


def hints(
    ledger: Ledger, threat: PerturbationSet, shape: tuple[int, int, int], classes: int
) -> list[str]:
    """What a reader should know before the numbers are believed, one line each; [] for nothing.

    Args:
        ledger: a finished one.
        threat: the set, or union, that was searched.
        shape: (C, H, W) of the images.
        classes: how many there are.
    """
    told = []
    if unfit := int(ledger.unfit.sum()):
        told.append(f"the network answered NaN on {unfit:,} images, which count as broken")
    if answers := ledger.facts.get("answers"):
        told += hints_on_outputs(torch.tensor(answers, dtype=torch.float64))
    clean, chance = ledger.accuracy(), 1 / classes
    if clean.low <= chance and clean.value - chance <= (1 - chance) / 4:
        told.append(
            f"clean accuracy is {clean.value:.1%}, no better than chance among {classes} classes: "
            "check the weights, the order of the classes and the normalization"
        )
    return told + hints_on_radii(threat, shape)


def hints_on_outputs(logits: Tensor) -> list[str]:
    """What is odd about logits (B, K): they are probabilities, or a softmax of them is flat."""
    rows = logits.double()
    if not bool((rows.abs() < 1e29).all()):  # also as records write them
        return [
            "the network answers with NaN or infinity, which has no gradient; leave out logarithms "
            "of what may be zero"
        ]
    sums = rows.sum(1)
    alike = bool(((sums - sums.mean()).abs() <= 1e-3 * sums.mean().abs()).all())
    if bool((rows >= 0).all()) and (alike or bool((rows <= 1).all())) and bool(rows.any()):
        return [
            "the outputs look like probabilities; attacks expect logits, and a second softmax "
            "hides gradients: leave the network's own softmax or sigmoid out"
        ]
    first, second = rows.topk(2, dim=1).values.unbind(1)
    if float((first - second).median()) > SATURATED:
        return [
            f"logits differ by more than {SATURATED:g}, so that a softmax of them is flat and its "
            "gradient zero: divide them by a constant"
        ]
    return []


def hints_on_radii(threat: PerturbationSet, shape: tuple[int, int, int]) -> list[str]:
    """Balls that hold every image of a shape (C, H, W)."""
    told = []
    for part in threat.parts():
        whole = part.everything(torch.zeros(1, *shape)) if isinstance(part, Ball) else None
        if isinstance(part, Ball) and whole and float(part.eps) >= float(whole.eps):
            told.append(f"{part.describe()} holds every image there is: check its units")
    return told


def columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of text in columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    )


def summary(ledger: Ledger) -> dict[str, Any]:
    """What a record holds of a ledger: plain data, shares in [0, 1] as [value, low, high]."""
    return {
        "examples": len(ledger),
        "level": 0.95,
        "accuracy": {name: [*estimate] for name, estimate in accuracies(ledger).items()},
        "attacks": [gain._asdict() for gain in ledger.gains()],
        "settings": ledger.facts,
        "nan": int(ledger.unfit.sum()),
    }


def gauge_table(gauge: Gauge) -> str:
    """Accuracy at scale 1, the median scale and the area, by set, and what each set breaks first.

    The ± is half of a 95 % interval.
    """
    first, rows = gauge.binding(), list[tuple[str, ...]]()
    for name, numbers in gauge_summary(gauge)["sets"].items():
        accuracy, area = numbers["accuracy"], numbers["area"]
        median = numbers["median"]
        rows.append(
            (
                name,
                f"{100 * accuracy[0]:.1f} %",
                f"> {gauge.most:g}" if median is None else f"{median:.3f}",
                f"{area[0]:.3f} ± {(area[2] - area[1]) / 2:.3f}",
                f"{first[name]:,}" if name in first else "",
            )
        )
    return columns(("", "at scale 1", "median scale", "area", "breaks first"), rows)


def gauge_summary(gauge: Gauge) -> dict[str, Any]:
    """What a record holds of a gauge: scales to four digits, and what the table shows.

    A scale is None where nothing was found, and a median where that is more than half.
    """
    names: dict[str, str | None] = {name: name for name in gauge.scales} | {"union": None}
    sets = {}
    for word, name in names.items():
        scales = gauge.of(name)
        median = float(scales.sort().values[(len(scales) - 1) // 2])
        sets[word] = {
            "accuracy": [*gauge.accuracy(1, name)],
            "median": median if median <= gauge.most else None,
            "area": [*gauge.area(name)],
            "scales": [float(f"{s:.4g}") if s <= gauge.most else None for s in scales.tolist()],
        }
    return {"most": gauge.most, "sets": sets, "breaks first": gauge.binding()}
