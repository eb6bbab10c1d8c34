"""What the rows add up to: who is found, who is wronged, what is named and what is cured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch

from mpkit.core.statistics import proportion

GAP, LARGE_GAP = 0.05, 0.2
"""A model hides something in a set where who knows it takes this much more than usual attacks."""

CURED = 0.05
"""The doctor's final accuracy may lie this far above that of who knows the mask."""

DETECTORS = ("doctor", "flags", "binarization", "indicators")
LEVELS = {"no sign": 0, "suspicious": 1, "masked": 2}
Row = Mapping[str, Any]


def accuracy(row: Row, name: str) -> float:
    """The share that is right under usual or knowing attacks, of images that are right at first."""
    truth = row["truth"]
    right = [bit for bit, clean in zip(truth[name], truth["clean"], strict=True) if clean == "1"]
    return right.count("1") / max(len(right), 1)


def gap(row: Row) -> float:
    """What usual attacks miss, as a share of the images that are right at first."""
    return accuracy(row, "usual") - accuracy(row, "knowing")


def label(row: Row) -> bool | None:
    """Whether something is hidden; None for what counts in neither way.

    That is a mask that hides nothing in the set, and an honest network where the usual attacks
    miss as much: they are weak there, and whether a gradient is hidden is not known. In poses no
    gradient is asked for: there only answers that are no function of the image count.
    """
    if row["improper"]:
        return True
    if row["set"] == "rt":
        return None if row["hides"] else False
    return row["hides"] if row["hides"] == (gap(row) >= GAP) else None


def weak(row: Row) -> bool:
    """Whether usual attacks miss much of an honest network; it hid something by the first rule."""
    return not row["hides"] and row["set"] != "rt" and gap(row) >= GAP


def suspicion(row: Row, name: str) -> float:
    """A number that grows with what a detector has against a model.

    For the doctor it is the verdict (0, 1, 2) and the share that challengers break beyond
    first-order attacks; the others have one of their own.
    """
    if name != "doctor":
        return float(row["others"][name]["score"])
    told = row["doctor"]
    return 0.0 if "crash" in told else LEVELS[told["verdict"]] + told["first"] - told["final"]


def raised(row: Row, name: str) -> bool:
    """Whether a detector calls the model masked, by its own rule."""
    if name == "doctor":
        return row["doctor"].get("verdict") == "masked"
    return bool(row["others"][name]["raised"])


def named(row: Row) -> bool:
    """Whether one of the two causes that are printed is what the model does."""
    return bool(set(row["doctor"].get("causes", ())) & set(row["wanted"]))


def curable(row: Row) -> bool:
    """Whether a cure can be compared: in a ball, of a model whose answers repeat on average."""
    return row["set"] != "rt" and (row["draws"] > 1 or not row["improper"])


def cured(row: Row) -> bool:
    """Whether the doctor's final accuracy comes within reach of who knows the mask."""
    told = row["doctor"]
    return "crash" not in told and told["final"] <= accuracy(row, "knowing") + CURED


def share(rows: Iterable[Row], holds: Callable[[Row], bool]) -> dict[str, Any]:
    """How many of some rows, with the share and its interval in percent."""
    bits = [holds(row) for row in rows]
    if not bits:
        return {"of": 0, "count": 0}
    rate = proportion(torch.tensor(bits))
    percent = [round(100 * value, 1) for value in rate]
    return {"of": len(bits), "count": sum(bits), "percent": percent}


def curve(rows: Sequence[Row], name: str) -> tuple[list[list[float]], float]:
    """The ROC curve of a detector, as false and true alarms at falling limits, and its area."""
    hidden = [suspicion(row, name) for row in rows if label(row)]
    honest = [suspicion(row, name) for row in rows if label(row) is False]
    points = [[0.0, 0.0]]
    for limit in sorted({*hidden, *honest}, reverse=True):
        rates = [sum(v >= limit for v in values) / len(values) for values in (honest, hidden)]
        points.append([round(rate, 4) for rate in rates])
    wins = sum((a > b) + (a == b) / 2 for a in hidden for b in honest)
    return points, round(wins / (len(hidden) * len(honest)), 4)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """All scores: of the doctor by group and by set, and of everybody in balls."""
    hidden = [row for row in rows if label(row)]
    honest = [row for row in rows if label(row) is False]
    found: dict[str, Any] = {"doctor": {}, "everybody": {}}
    groups = {f"group: {g}": g for g in dict.fromkeys(row["group"] for row in rows)}
    kinds = {f"set: {s}": s for s in dict.fromkeys(row["set"] for row in rows)}
    picks: dict[str, Callable[[Row], bool]] = {
        "all": lambda row: True,
        **{name: lambda row, g=group: row["group"] == g for name, group in groups.items()},
        **{name: lambda row, s=kind: row["set"] == s for name, kind in kinds.items()},
        "first rule": lambda row: True,
        "large gap": lambda row: row["set"] != "rt" and gap(row) >= LARGE_GAP,
        "improper": lambda row: row["improper"],
    }
    for name, pick in picks.items():
        some, fine = (list(filter(pick, part)) for part in (hidden, honest))
        if name == "first rule":
            some += filter(weak, rows)
        if not some + fine:
            continue
        found["doctor"][name] = {
            "found": share(some, lambda row: raised(row, "doctor")),
            "named": share(some, named),
            "cured": share(filter(curable, some), cured),
            "honest called masked": share(fine, lambda row: raised(row, "doctor")),
            "honest called suspicious": share(
                fine, lambda row: row["doctor"].get("verdict") == "suspicious"
            ),
            "crashes": sum("crash" in row["doctor"] for row in (*some, *fine)),
            "seconds": median(row["doctor"]["seconds"] for row in (*some, *fine)),
        }
    balls = [row for row in rows if row["set"] != "rt"]
    for name in DETECTORS:
        points, area = curve(balls, name)
        told = [row["doctor"] if name == "doctor" else row["others"][name] for row in balls]
        found["everybody"][name] = {
            "found": share((r for r in balls if label(r)), lambda row, n=name: raised(row, n)),
            "false alarms": share(
                (r for r in balls if label(r) is False), lambda row, n=name: raised(row, n)
            ),
            "curve": points,
            "area": area,
            "seconds": median(one["seconds"] for one in told),
        }
    return found
