"""Reading the records of a study: accuracies, who stood, what each attack added."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mpkit.core.records import read_record
from mpkit.core.statistics import Estimate, mean_of

Record = dict[str, Any]

ROWS: tuple[str, ...] = (
    *("natural", "linf", "max", "l1", "l2", "avg", "msd", "random", "balanced", "tuned"),
    *("tuned-on", "paired", "ramp", "rt", "max-rt", "avg-rt", "max-apgd", "msd-long"),
)
IN_COLOUR: tuple[str, ...] = (
    *("natural", "linf", "max", "avg", "l1", "l2", "msd", "random", "balanced", "paired"),
    *("ramp", "rt", "max-rt", "avg-rt"),
)


def records(folder: Path, seed: int = 0) -> dict[str, Record]:
    """The records of one seed, by scheme, in the order of the study's rows.

    Args:
        folder: as ``mpkit reproduce`` filled it.
        seed: of the networks.

    Raises: ValueError: there is none, or they were evaluated in several ways; the message says
        what mends it.
    """
    found = {}
    for path in folder.glob(f"*-seed{seed}.json"):
        record = read_record(path)
        found[record["recipe"].partition("-")[2]] = record
    if not found:
        raise ValueError(
            f"{folder}: no record of seed {seed}; run mpkit reproduce mnist (or cifar10) "
            f"--out {folder}"
        )
    if len(ways := {record.get("examination") for record in found.values()}) > 1:
        raise ValueError(
            f"{folder}: its records were evaluated in {len(ways)} ways, by other editions of the "
            "attacks or on other images, and do not compare; the command that made them evaluates "
            f"the older ones again (mpkit reproduce DATA --out {folder})"
        )
    order = [*ROWS, *sorted(found)]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0])))


def seeds(folder: Path) -> list[int]:
    """The seeds that a folder of records has networks of, in order."""
    found = (re.fullmatch(r".+-seed(\d+)\.json", path.name) for path in folder.iterdir())
    return sorted({int(match[1]) for match in found if match})


def accuracy(record: Record, key: str) -> Estimate:
    """Share of test images that survive, with its 95 % interval.

    Args:
        record: of one network.
        key: clean, linf, l2, l1, rt, "union norms", "union linf+rt", "affine norms"...
    """
    return Estimate(*record["evaluation"]["accuracy"][key])


def standing(record: Record, key: str) -> Tensor:
    """Which test images survive: (N,) bool."""
    return bits(record["evaluation"]["standing"][key])


def bits(stored: Record) -> Tensor:
    """Bools that a record holds as text, eight to a byte: (N,) bool."""
    content = np.frombuffer(base64.b64decode(stored["bits"]), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(content)[: stored["count"]].astype(bool))


def difference(one: Record, other: Record, key: str) -> Estimate:
    """Accuracy of one network minus that of another on the same images, paired, with interval."""
    return mean_of(standing(one, key).double() - standing(other, key).double())


def after(record: Record, key: str, attacks: int) -> float:
    """Accuracy in one ball if the evaluation had stopped after its first few attacks.

    Args:
        record: of one network.
        key: linf, l2 or l1.
        attacks: how many were run; 0 for the clean accuracy.
    """
    made = record["evaluation"]
    mine = [
        gain for gain in made["attacks"] if gain["name"].partition(" ")[2].startswith(f"{key}:")
    ]
    broken = sum(gain["in_set"] for gain in mine[:attacks])
    return float(made["accuracy"]["clean"][0] - broken / made["points"])


def pixels(stored: Record) -> Tensor:
    """Images that a record holds as text: float32 in [0, 1], of the stored shape."""
    numbers = np.frombuffer(base64.b64decode(stored["uint8"]), dtype=np.uint8)
    return torch.from_numpy(numbers.astype(np.float32) / 255).reshape(stored["shape"])
