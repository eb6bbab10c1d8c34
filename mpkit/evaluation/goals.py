"""What an evaluation runs and on which examples: entries of a suite, and goals."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from mpkit.attacks import Attack
from mpkit.core.checks import require_positive
from mpkit.evaluation.ledger import distinct


class Entry(NamedTuple):
    """One attack of a suite.

    Attributes:
        name: unique in its suite.
        attack: what is run.
        after: the name of an earlier entry; this one is run on a batch only where that one broke
            an example of it. None for always.
    """

    name: str
    attack: Attack
    after: str | None = None


class Goal(ABC):
    """Which examples an attack is still worth running on."""

    @abstractmethod
    def open(self, broken: Tensor, spent: Tensor) -> Tensor:
        """The examples to attack: (B,) bool.

        Args:
            broken: (S, B) bool, which examples are broken in which of all sets.
            spent: (P, B) bool, the same for the sets that the attack searches.
        """


@dataclass(frozen=True)
class EachSet(Goal):
    """Accuracy in each set: an example leaves the attacks of a set when it is broken in it."""

    def open(self, broken: Tensor, spent: Tensor) -> Tensor:
        """Examples that stand in a set of the attack."""
        return ~spent.all(0)


@dataclass(frozen=True)
class UnionOnly(Goal):
    """Only the union counts: an example leaves all attacks when it is broken in any set.

    The accuracies of single sets are then upper bounds.
    """

    def open(self, broken: Tensor, spent: Tensor) -> Tensor:
        """Examples that stand in every set."""
        return ~broken.any(0)


@dataclass(frozen=True)
class AfterPilot(Goal):
    """A goal, for which attacks that broke none of the first images are not run on the others.

    What is left out may have broken some of these: about that share of images which attacks that
    broke a single one are of the pilot's.

    Args:
        goal: which examples go on.
        images: of the pilot, from the first on, > 0.

    Raises: ValueError: no images.

    Source: Good 1953, the chance that the next one is of a kind not seen before.
    """

    goal: Goal
    images: int

    def __post_init__(self) -> None:
        require_positive("AfterPilot", images=self.images)

    def open(self, broken: Tensor, spent: Tensor) -> Tensor:
        """The examples of the goal."""
        return self.goal.open(broken, spent)


Attacks = Sequence[Attack] | Sequence[Entry] | Mapping[str, Attack]
"""What can be evaluated: attacks with names, or without."""


def named(attacks: Attacks) -> tuple[Entry, ...]:
    """Give every attack a name of its own: the given one, else its type and its set.

    Raises:
        ValueError: if there is no attack, something is none, a name comes twice, or an entry
            waits for one that does not come before it.
    """
    pairs = list(attacks.items()) if isinstance(attacks, Mapping) else [(None, a) for a in attacks]
    entries: list[Entry] = []
    for name, one in pairs:
        entry = one if isinstance(one, Entry) else Entry(name or "", one)
        if not isinstance(entry.attack, Attack):
            raise ValueError(
                f"evaluate: attacks must be attacks such as PGD(Linf(0.3)), got {entry.attack!r}"
            )
        entries.append(entry)
    if not entries:
        raise ValueError("evaluate: needs at least one attack, got none; see standard(threat)")
    unnamed = [entry.attack for entry in entries if not entry.name]
    short = iter(distinct(f"{type(one).__name__} {one.set.describe()}" for one in unnamed))
    entries = [entry if entry.name else entry._replace(name=next(short)) for entry in entries]
    names = [entry.name for entry in entries]
    for place, entry in enumerate(entries):
        if names.count(entry.name) > 1 or entry.name == "clean":
            raise ValueError(f"evaluate: two rows named {entry.name!r}; give each its own name")
        if entry.after is not None and entry.after not in names[:place]:
            raise ValueError(f"evaluate: {entry.name} waits for {entry.after}, not before it")
    return tuple(entries)
