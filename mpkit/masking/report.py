"""What the doctor says: evidence, a verdict for each set, and advice."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from enum import IntEnum
from math import comb
from typing import Any

from mpkit.core.statistics import Estimate
from mpkit.masking.wrappers import Assessed
from mpkit.sets import PerturbationSet

WIDTH = 96
"""Columns of the report's text."""


class Weight(IntEnum):
    """How much a piece of evidence says; NOT_RUN is none."""

    NOT_RUN = -1
    FINE = 0
    SIGN = 1
    PROOF = 2


class Verdict(IntEnum):
    """What the evidence adds up to."""

    NO_SIGN = 0
    SUSPICIOUS = 1
    MASKED = 2

    @property
    def words(self) -> str:
        """The verdict for a table."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True)
class Evidence:
    """One indicator, what it found, and what that means.

    Args:
        indicator: its name in a few words.
        finding: what was measured, a sentence with numbers.
        weight: FINE, SIGN (unusual, proves nothing), PROOF (the consequence was shown), or
            NOT_RUN (there is nothing to go by; the finding says why).
        advice: what to do about it; left out where it is fine.
        rate: the main number with its interval, where there is one.
    """

    indicator: str
    finding: str
    weight: Weight = Weight.FINE
    advice: str = ""
    rate: Estimate | None = None

    def __post_init__(self) -> None:
        if self.weight == Weight.FINE:
            object.__setattr__(self, "advice", "")

    def describe(self) -> dict[str, Any]:
        """Plain data for a record."""
        rate = None if self.rate is None else list(self.rate)
        return {**vars(self), "weight": self.weight.name.lower(), "rate": rate}


@dataclass(frozen=True)
class SetReport:
    """The diagnosis for one perturbation set.

    Args:
        set: what the adversary may do.
        evidence: all indicators of this set.
        accuracy: robust accuracy by the first-order attacks, and by everything that was tried.
        general: the indicators that do not depend on the set.
    """

    set: PerturbationSet
    evidence: tuple[Evidence, ...]
    accuracy: dict[str, Estimate]
    general: tuple[Evidence, ...] = field(default=(), repr=False)

    @property
    def verdict(self) -> Verdict:
        """MASKED with any proof, SUSPICIOUS with any sign."""
        weights = (e.weight for e in (*self.general, *self.evidence))
        return Verdict(int(max((Weight.FINE, *weights))))

    @property
    def reasons(self) -> tuple[Evidence, ...]:
        """The evidence that carries the verdict."""
        weight = Weight(int(self.verdict))
        everything = (*self.general, *self.evidence)
        return tuple(e for e in everything if weight and e.weight == weight)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do, without repetitions."""
        return tuple(dict.fromkeys(e.advice for e in self.reasons if e.advice))


@dataclass(frozen=True)
class Report:
    """The diagnosis of a model.

    Args:
        points: images looked at.
        right: images that the model gets right without an attack; only these are attacked.
        general: the indicators that do not depend on the set.
        sets: a report for each perturbation set, by name.
    """

    points: int
    right: int
    general: tuple[Evidence, ...]
    sets: dict[str, SetReport]

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all sets."""
        return max((one.verdict for one in self.sets.values()), default=Verdict.NO_SIGN)

    @property
    def masked(self) -> bool:
        """Whether masking was proven for any set."""
        return self.verdict == Verdict.MASKED

    def text(self) -> str:
        """A table: a line for each set, then the reasons and the advice, indicator by indicator."""
        lines = [
            f"{self.right} of {self.points} images are right without an attack. "
            "How many of these stay right:",
            "",
            f"{'set':10}{'under first-order attacks':27}{'under all attacks':25}verdict",
        ]
        for name, one in self.sets.items():
            first, everything = (
                f"{rate.value:6.1%} [{rate.low:.1%}, {rate.high:.1%}]"
                for rate in one.accuracy.values()
            )
            lines.append(f"{name:10}{first:27}{everything:25}{one.verdict.words}")
        lines += self._reasons()
        told = (e for one in self.sets.values() for e in one.evidence)
        mendable = (e for e in told if e.weight == Weight.NOT_RUN and e.advice)
        for evidence in dict.fromkeys(mendable):
            why = f"{evidence.indicator}: {evidence.finding}. {evidence.advice}"
            lines += ["", *_wrapped(f"Not run: {why}", "")]
        if self.verdict == Verdict.NO_SIGN:
            lines += ["", "No sign of masking: stronger attacks may still exist."]
        return "\n".join(lines)

    def _reasons(self) -> list[str]:
        """What carries the verdicts: every indicator once, with what it found set by set."""
        found: dict[str, dict[str, Evidence]] = {}
        for name, one in self.sets.items():
            for evidence in one.reasons:
                where = "all sets" if evidence in self.general else name
                found.setdefault(evidence.indicator, {})[where] = evidence
        lines = []
        for indicator, places in found.items():
            lines += ["", indicator]
            for name, evidence in places.items():
                lines += _wrapped(f"{name}: {evidence.finding}.", "  ")
            for advice in dict.fromkeys(evidence.advice for evidence in places.values()):
                lines += _wrapped(f"Advice: {advice}", "  ")
        return lines

    def describe(self) -> dict[str, Any]:
        """Plain data for a record: everything, with all intervals."""
        return {
            "points": self.points,
            "right": self.right,
            "verdict": self.verdict.words,
            "general": [e.describe() for e in self.general],
            "sets": {
                name: {
                    "set": repr(one.set),
                    "verdict": one.verdict.words,
                    "accuracy": {key: list(value) for key, value in one.accuracy.items()},
                    "evidence": [e.describe() for e in one.evidence],
                    "advice": list(one.advice),
                }
                for name, one in self.sets.items()
            },
        }


def _wrapped(text: str, indent: str) -> list[str]:
    """Text in lines that fit a terminal."""
    return textwrap.wrap(
        text.rstrip(), WIDTH, initial_indent=indent, subsequent_indent=indent + "  "
    )


LEVEL = 0.002
"""Chance of a false alarm that a single comparison may have; there are some ten for each set."""

LAST_LEVEL = 0.01
"""The same for the one comparison in which all challengers take part together."""

MATERIAL = 0.1
"""A margin counts as raised further if it was raised by this share more."""


def at_least(k: int, n: int) -> float:
    """The chance of k or more heads in n throws of a fair coin: the one-sided sign test."""
    return float(sum(comb(n, i) for i in range(k, n + 1)) / 2**n)


@dataclass(frozen=True)
class Contest:
    """A challenger against a control attack of a comparable cost, both named, on the same examples.

    Args:
        total: examples that the model gets right without an attack.
        entered: examples that took part.
        gained: broken by the challenger and not by the control.
        lost: broken by the control and not by the challenger.
        higher: the challenger raised the margin further, by a material amount.
        lower: the control did.
    """

    challenger: str
    control: str
    total: int
    entered: int
    gained: int
    lost: int
    higher: int
    lower: int

    @classmethod
    def between(
        cls, names: tuple[str, str], total: int, clean: Assessed, first: Assessed, second: Assessed
    ) -> Contest:
        """Compare what a control (first) and a challenger (second) reached from the clean images.

        Args:
            names: of the challenger and of the control.
            total: examples that the model gets right without an attack.
            clean: the examples without an attack, as many rows as the others.
        """
        way, further = first.margin - clean.margin, second.margin - clean.margin
        more = MATERIAL * (way.abs() + further.abs()) / 2 + 1e-6 * clean.margin.abs()
        counts = (
            second.wrong & ~first.wrong,
            first.wrong & ~second.wrong,
            further > way + more,
            way > further + more,
        )
        return cls(*names, total, len(way), *(int(count.sum()) for count in counts))

    @property
    def breaks(self) -> bool:
        """Whether the challenger breaks more: sign test, and at least one example in 25."""
        return self.leads(LEVEL)

    def leads(self, level: float) -> bool:
        """Whether the challenger breaks more, at a level of its own."""
        enough = self.gained - self.lost >= max(3, 0.04 * self.total)
        return enough and at_least(self.gained, self.gained + self.lost) < level

    @property
    def climbs(self) -> bool:
        """Whether it raises more margins: sign test, and a lead of a third of the examples."""
        enough = self.higher - self.lower >= self.entered / 3
        return enough and at_least(self.higher, self.higher + self.lower) < LEVEL

    @property
    def won(self) -> bool:
        """Whether the challenger is better in one of the two ways."""
        return self.breaks or self.climbs

    def words(self) -> str:
        """The counts in one sentence."""
        return (
            f"{self.challenger} breaks {self.gained} of {self.entered} that {self.control} does "
            f"not (the other way {self.lost}), and raises the margin further on {self.higher} "
            f"(less far on {self.lower})"
        )
