"""The ledger while it is being written: units of one attack on one batch, kept in a file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.core.checks import require_images
from mpkit.core.files import DataError
from mpkit.data.lazy import Rows
from mpkit.evaluation.goals import Entry
from mpkit.evaluation.ledger import CLEAN, Ledger

DONE = "units done"


class Unit(NamedTuple):
    """One row of the ledger on one batch: row 0 is the clean one."""

    row: int
    columns: slice
    batch: int


@dataclass
class ResumableLedger:
    """A ledger whose units are filled in order: all rows of a batch, then the next batch.

    Args:
        ledger: its tensors are written in place, on the CPU.
        batch: examples of a unit.
        pilot: examples after which a new batch begins, whatever is in the one before.
        done: units behind us.
    """

    ledger: Ledger
    batch: int
    pilot: int = 0
    done: int = 0

    @property
    def rows(self) -> int:
        """Rows of the ledger."""
        return len(self.ledger.names)

    @property
    def units(self) -> int:
        """Units in all."""
        return (len(self._cuts()) - 1) * self.rows

    def _cuts(self) -> list[int]:
        """Where batches begin, and the end."""
        n = len(self.ledger)
        early, late = range(0, min(self.pilot, n), self.batch), range(self.pilot, n, self.batch)
        return [*early, *late, n]

    def units_left(self) -> list[Unit]:
        """What is to do, in order."""
        cuts = self._cuts()
        places = (divmod(number, self.rows) for number in range(self.done, self.units))
        return [Unit(row, slice(cuts[b], cuts[b + 1]), b) for b, row in places]

    def broken_by_set(self, columns: slice) -> Tensor:
        """Which examples of a batch are broken in which set, or wrong when clean: (S, B) bool."""
        broken, within = self.ledger.broken[:, columns], self.ledger.within[:, columns]
        each = [(broken & (within == s)).any(0) for s in range(len(self.ledger.sets))]
        return torch.stack(each) | broken[0]

    def idle(self, unit: Unit) -> bool:
        """Whether the attack was run on the pilot's images, and broke none of them."""
        first, ledger = slice(self.pilot), self.ledger
        tried, broken = bool(ledger.tried[unit.row, first].any()), ledger.broken[unit.row, first]
        return unit.columns.start >= self.pilot and tried and not bool(broken.any())

    def close_unit(self, file: Path | None) -> None:
        """One more unit is done: keep what there is, and at the end the bare ledger."""
        self.done += 1
        if file is not None:
            mark = {} if self.done == self.units else {DONE: self.done}
            replace(self.ledger, facts=self.ledger.facts | mark).save(file)

    def note(self) -> str:
        """A short word on how it stands."""
        seen = self.ledger.broken[:, : self._cuts()[self.done // self.rows]].any(0)
        return f"union {1 - float(seen.double().mean()):.1%}" if len(seen) else ""


def opened(
    file: Path | None,
    entries: tuple[Entry, ...],
    facts: dict[str, Any],
    x: Tensor | Rows,
    y: Tensor,
    first: int,
    pilot: int = 0,
) -> ResumableLedger:
    """A new ledger, or the one of an interrupted run of the same evaluation.

    Args:
        file: where the run is kept, if anywhere.
        entries: the attacks.
        facts: attacks, model, seed and batch, as plain data; "batch" is read from it.
        x: (N, C, H, W), with labels y, (N,).
        first: place of the first example in its data set.
        pilot: examples after which a new batch begins.

    Raises: DataError: if the file is no ledger, or that of another evaluation.
    """
    labels = [part.describe() for entry in entries for part in entry.attack.set.parts()]
    names = (CLEAN, *(entry.name for entry in entries))
    a, n = len(names), len(x)
    blank = Ledger(
        names=names,
        sets=tuple(dict.fromkeys(labels)),
        facts=facts,
        examples=torch.arange(first, first + n),
        labels=y.cpu().clone(),
        prints=torch.tensor(prints(x, facts["batch"])),
        broken=torch.zeros(a, n, dtype=torch.bool),
        within=torch.full((a, n), -1, dtype=torch.int8),
        tried=torch.zeros(a, n, dtype=torch.bool),
        margin=torch.full((a, n), torch.nan),
        steps=torch.zeros(a, n, dtype=torch.int32),
        images=torch.zeros(a, 2, dtype=torch.int64),
        unfit=torch.zeros(n, dtype=torch.bool),
    )
    state = ResumableLedger(blank, facts["batch"], pilot)
    if file is None or not file.exists():
        return state
    kept = Ledger.load(file)
    done = kept.facts.pop(DONE, state.units)
    if kept.words() != blank.words() or not all(
        torch.equal(getattr(kept, name), getattr(blank, name))
        for name in ("examples", "labels", "prints")
    ):
        raise DataError(
            f"{file}: holds another evaluation (other attacks, model, images, seed or batch); "
            "give the same ones to go on, or another file (--output FOLDER)"
        )
    if not kept.of_one_model(blank):
        raise DataError(
            f"{file}: holds the evaluation of another network (other weights, code or numbers); "
            "give the same one to go on, or another file (--output FOLDER)"
        )
    return ResumableLedger(kept, facts["batch"], pilot, done)


def prints(x: Tensor | Rows, batch: int) -> list[int]:
    """A hash of every image, read batch by batch.

    Raises: ValueError: images on disk do not lie in [0, 1].
    """
    found = []
    for start in range(0, len(x), batch):
        part = x[start : start + batch]
        if isinstance(x, Rows):
            require_images(part)
        for image in part.cpu():
            content = hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
            found.append(int.from_bytes(content[:8], "big", signed=True))
    return found
