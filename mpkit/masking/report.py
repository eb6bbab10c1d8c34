"""What the doctor says: evidence, a verdict for each set, and advice."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from mpkit.intervals import Estimate
from mpkit.perturbation import PerturbationSet

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
        advice: what to do about it; empty where it is fine.
        rate: the main number with its interval, where there is one.
    """

    indicator: str
    finding: str
    weight: Weight = Weight.FINE
    advice: str = ""
    rate: Estimate | None = None

    def describe(self) -> dict[str, Any]:
        """Plain data for a record."""
        rate = None if self.rate is None else list(self.rate)
        return {
            "indicator": self.indicator,
            "finding": self.finding,
            "weight": self.weight.name.lower(),
            "advice": self.advice,
            "rate": rate,
        }


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
