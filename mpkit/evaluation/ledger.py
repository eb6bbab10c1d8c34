"""The ledger: which attack broke which example, and every table that follows from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.core.files import DataError, packed, unpacked, write_atomically
from mpkit.core.statistics import Estimate, mean_of, proportion
from mpkit.models.identity import WHO, same

CLEAN = "clean"
FORMAT = "mpkit ledger 1"


class Gain(NamedTuple):
    """What one attack added, counted in examples.

    Attributes:
        tried: examples it was run on.
        broken: examples it broke.
        in_set: of these, broken by nothing before it in the same set.
        in_union: of these, broken by nothing before it at all.
        alone: of these, broken by no other attack at all.
        forward: images that went through the network.
        backward: of these, with a gradient.
    """

    name: str
    tried: int
    broken: int
    in_set: int
    in_union: int
    alone: int
    forward: int
    backward: int


@dataclass(frozen=True, eq=False)
class Ledger:
    """What survived: a boolean matrix of attacks and examples, the clean images in its first row.

    Attributes:
        names: A + 1 names of rows, "clean" first.
        sets: S names of perturbation sets, such as "linf:0.3".
        facts: what else is known: attacks in words, seed, fingerprints; plain data.
        examples: (N,) int64, the places of the examples in their data set, rising.
        labels: (N,) int64.
        prints: (N,) int64, a hash of each image, so that ledgers of other images do not mix.
        broken: (A + 1, N) bool, True where the model is wrong on an image that was checked to lie
            in its set.
        within: (A + 1, N) int8, the number of that set, -1 for none; an attack on a union may
            find its examples in different sets.
        tried: (A + 1, N) bool, where the attack was run.
        margin: (A + 1, N) float32, greatest wrong logit minus true logit at the image that the
            attack found; positive when broken, NaN where it was not tried.
        steps: (A + 1, N) int32, steps of the search that the example went through.
        images: (A + 1, 2) int64, images sent forward through the network, and with a gradient.
        unfit: (N,) bool, where the network answered NaN to some image: counted as broken.
    """

    names: tuple[str, ...]
    sets: tuple[str, ...]
    facts: dict[str, Any]
    examples: Tensor
    labels: Tensor
    prints: Tensor
    broken: Tensor
    within: Tensor
    tried: Tensor
    margin: Tensor
    steps: Tensor
    images: Tensor
    unfit: Tensor

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.examples)

    def __eq__(self, other: object) -> bool:
        """Whether all of two ledgers is equal, bit for bit."""
        if not isinstance(other, Ledger):
            return NotImplemented
        return (
            self.words() == other.words()
            and self.of_one_model(other)
            and all(
                a.shape == b.shape
                and torch.equal(a.nan_to_num(-torch.inf), b.nan_to_num(-torch.inf))
                for a, b in zip(self.tensors().values(), other.tensors().values(), strict=True)
            )
        )

    __hash__ = None  # type: ignore[assignment]

    def words(self) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, Any]]:
        """All but the tensors, and what identifies the model: see ``of_one_model``."""
        return self.names, self.sets, {k: v for k, v in self.facts.items() if k not in WHO}

    def of_one_model(self, other: Ledger) -> bool:
        """Whether both tell of the same network; of one without an identity, nothing is known."""
        if not all(name in one.facts for one in (self, other) for name in WHO):
            return True
        return same(self.facts, other.facts)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def broken_in(self, name: str) -> Tensor:
        """Examples that are wrong when clean or were broken within one set: (N,) bool.

        Args:
            name: a set of ``sets``, or "clean".

        Raises: ValueError: if there is no such set.
        """
        if name == CLEAN:
            return self.broken[0]
        if name not in self.sets:
            raise ValueError(f"Ledger: no set {name!r}; there are {', '.join(self.sets)}")
        return (self.broken & (self.within == self.sets.index(name))).any(0) | self.broken[0]

    def broken_at_all(self) -> Tensor:
        """Examples that are wrong when clean or were broken within any set: (N,) bool."""
        return self.broken.any(0)

    def accuracy(self, name: str = CLEAN, level: float = 0.95) -> Estimate:
        """Share of examples that survived one set, with its Clopper-Pearson interval.

        Args:
            name: a set of ``sets``, or "clean".
            level: coverage in (0, 1).
        """
        return proportion(~self.broken_in(name), level)

    def union_accuracy(self, level: float = 0.95) -> Estimate:
        """Share of examples that survived every set, 1 - R_max, with Clopper-Pearson interval."""
        return proportion(~self.broken_at_all(), level)

    def average_accuracy(self, level: float = 0.95) -> Estimate:
        """Mean over sets of the share that survived, 1 - R_avg, with a normal interval."""
        survived = torch.stack([~self.broken_in(name) for name in self.sets])
        return mean_of(survived.double().mean(0), level)

    def broken_by(self, name: str | None = None) -> Tensor:
        """The first row that broke each example, 0 for clean, -1 for none: (N,) int64.

        Args:
            name: count only what was found within this set, and the clean row.
        """
        here = self.broken
        if name is not None:
            here = here & (self.within == self.sets.index(name))
            here[0] = self.broken[0]
        return torch.where(here.any(0), here.int().argmax(0), -1)

    def gains(self) -> list[Gain]:
        """What each attack broke, what of it was new, and what it cost, in the order of rows."""
        found = []
        for i in range(1, len(self.names)):
            mine, before = self.broken[i], self.broken[:i]
            same = (self.within[:i] == self.within[i]) & before
            new_in_set = mine & ~same.any(0) & ~self.broken[0]
            alone = mine & (self.broken.sum(0) == 1)
            counts = (self.tried[i], mine, new_in_set, mine & ~before.any(0), alone)
            numbers = [*(int(count.sum()) for count in counts), *self.images[i].tolist()]
            found.append(Gain(self.names[i], *numbers))
        return found

    def left_out(self, pilot: int) -> str:
        """The names of attacks that were run on the first images, so many, and on none after."""
        early, late = self.tried[:, :pilot].any(1), self.tried[:, pilot:].any(1)
        idle = early & ~late & ~self.broken.any(1)
        return ", ".join(self.names[i] for i in idle.nonzero().flatten())

    def save(self, path: Path) -> None:
        """Write the ledger as one safetensors file, whole or not at all.

        Raises: OSError: disk full or not writable; an earlier file is untouched.
        """
        words = {"names": self.names, "sets": self.sets, "facts": self.facts, "format": FORMAT}
        content = packed(self.tensors(), ledger=json.dumps(words, sort_keys=True))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(content))

    @classmethod
    def load(cls, path: Path) -> Ledger:
        """Read a ledger back, equal to what was saved.

        Raises: DataError: if the file is missing, damaged or no ledger.
        """
        try:
            tensors, about = unpacked(path)
            words: dict[str, Any] = json.loads(about["ledger"])
            if words.pop("format") != FORMAT:
                raise KeyError("format")
            words["names"], words["sets"] = tuple(words["names"]), tuple(words["sets"])
            return cls(**words | tensors)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}: is no ledger that can be read ({type(error).__name__}: {error}); "
                "give a file that mpkit evaluate or Ledger.save wrote"
            ) from error


def merged(ledgers: Sequence[Ledger]) -> Ledger:
    """One ledger from several: of other examples (shards), or of other attacks (restarts).

    Shards must have the same rows; their examples are put in order. Ledgers of the same examples
    give their attack rows one after the other, the clean row once.

    Raises: ValueError: if the ledgers are of neither kind, or shards hold the same example twice.
    """
    if not ledgers:
        raise ValueError("merged: needs at least one ledger, got none")
    first = ledgers[0]
    if len(ledgers) == 1:
        return first
    if all(torch.equal(one.prints, first.prints) for one in ledgers[1:]):
        return _stacked(ledgers)
    if any(one.words() != first.words() or not one.of_one_model(first) for one in ledgers):
        raise ValueError(
            "merged: ledgers of other examples must come from the same attacks, model and seed; "
            "evaluate every shard with the same settings"
        )
    examples, order = torch.cat([one.examples for one in ledgers]).sort()
    if bool((examples[1:] == examples[:-1]).any()):
        raise ValueError("merged: an example is in two ledgers; give every shard once")
    wide: dict[str, Any] = {
        name: torch.cat([one.tensors()[name] for one in ledgers], -1)[..., order]
        for name in first.tensors()
        if name != "images"
    }
    return replace(first, **wide, images=torch.stack([one.images for one in ledgers]).sum(0))


def _stacked(ledgers: Sequence[Ledger]) -> Ledger:
    first, sets = ledgers[0], list(dict.fromkeys(name for one in ledgers for name in one.sets))
    for one in ledgers[1:]:
        alike = one.labels.equal(first.labels) and one.broken[0].equal(first.broken[0])
        if not (alike and one.of_one_model(first)):
            raise ValueError(
                "merged: the ledgers disagree on labels or on clean images; they must come from "
                "the same model and data"
            )
    within = [first.within[:1]]
    for one in ledgers:
        places = torch.tensor([*(sets.index(name) for name in one.sets), -1], dtype=torch.int8)
        within.append(places[one.within[1:].long()])
    joined: dict[str, Any] = {
        name: torch.cat([getattr(first, name)[:1], *(getattr(one, name)[1:] for one in ledgers)])
        for name in ("broken", "tried", "margin", "steps", "images")
    }
    return replace(
        first,
        names=(CLEAN, *distinct(name for one in ledgers for name in one.names[1:])),
        sets=tuple(sets),
        facts={"merged": [one.facts for one in ledgers]},
        **joined,
        within=torch.cat(within),
        unfit=torch.stack([one.unfit for one in ledgers]).any(0),
    )


def distinct(names: Iterable[str]) -> list[str]:
    """Names with a number after those that were there before: pgd, pgd (2)."""
    seen: dict[str, int] = {}
    given = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        given.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return given
