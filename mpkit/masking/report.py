"""What the doctor says: likely causes, proof, what is left, advice; a verdict for each set."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from mpkit.core.statistics import Estimate
from mpkit.masking.evidence import Cause, Evidence, Weight, rounded
from mpkit.sets import PerturbationSet

SCHEMA = 2
"""Edition of ``Report.describe``; it is raised when a key changes its meaning or goes."""

WIDTH = 96
"""Columns of the report's text."""

LIMITS = (
    "a trigger that leaves no trace below its threshold cannot be seen, nor masking that hides "
    "from every attack tried here",
    "a gap of one or two images in a hundred is not significant",
)
"""What the doctor cannot see."""

EXPERIENCE = {"hiding": 37, "honest": 23}
"""Small networks of the tests, where all that hide must be found, and none that is honest."""

UNSEEN = {"hiding": 58, "found": 58, "named": 54, "honest": 32}
"""The same of kinds that were new to it, each in four sets, from the benchmark's record."""


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
class SetReport:
    """The diagnosis for one perturbation set.

    Args:
        set: what the adversary may do.
        evidence: all indicators of this set.
        accuracy: robust accuracy by the first-order attacks, and by everything that was tried.
        general: the indicators that do not depend on the set.
        causes: what most likely hides the gradient, the likeliest first.
        left: what the last push says of how final the accuracy by everything is.
        settled: whether the last push found nothing more; None where there was none.
    """

    set: PerturbationSet
    evidence: tuple[Evidence, ...]
    accuracy: dict[str, Estimate]
    general: tuple[Evidence, ...] = field(default=(), repr=False)
    causes: tuple[Cause, ...] = ()
    left: str = ""
    settled: bool | None = None

    @property
    def verdict(self) -> Verdict:
        """MASKED with any proof, SUSPICIOUS with any sign."""
        weights = (e.weight for e in (*self.general, *self.evidence))
        return Verdict(max(0, max((Weight.FINE, *weights)) - Weight.TIP))

    @property
    def reasons(self) -> tuple[Evidence, ...]:
        """The evidence that carries the verdict."""
        weight = self.verdict + Weight.TIP
        everything = (*self.general, *self.evidence)
        return tuple(e for e in everything if self.verdict and e.weight == weight)

    @property
    def advice(self) -> tuple[str, ...]:
        """What to do, without repetitions: for the causes, then for the evidence."""
        told = [*(c.advice for c in self.causes), *(e.advice for e in self.reasons)]
        return tuple(dict.fromkeys(words for words in told if words))

    def describe(self) -> dict[str, Any]:
        """Plain data for a record."""
        return {
            "set": repr(self.set),
            "verdict": self.verdict.words,
            "accuracy": {key: rounded(value) for key, value in self.accuracy.items()},
            "causes": [cause.describe() for cause in self.causes],
            "left": self.left,
            "settled": self.settled,
            "evidence": [e.describe() for e in self.evidence],
            "advice": list(self.advice),
        }


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

    def text(self, width: int = WIDTH) -> str:
        """Likely cause, proof, what is left, advice and limits, in lines of at most so many
        columns.
        """
        lines = [*self._causes(width), "", "What is left"]
        told = f"{self.right} of {self.points} images are right without an attack. "
        lines += _wrapped(told + "How many of these stay right:", "  ", width)
        for name, one in self.sets.items():
            first, everything = (
                f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]"
                for rate in one.accuracy.values()
            )
            words = f"{name}: {one.verdict.words}; {first} under first-order attacks, "
            words += f"{everything} under all attacks" + (f"; {one.left}" if one.left else "")
            lines += _wrapped(f"{words}.", "  ", width)
        lines += self._advice(width)
        lines += ["", *_wrapped(f"Limits: {'; '.join(LIMITS)}. {experience()}", "", width)]
        return "\n".join(lines)

    def _causes(self, width: int) -> Iterator[str]:
        """The likely causes, each once with its sets, and the proofs or signs."""
        if self.verdict == Verdict.NO_SIGN:
            yield from _wrapped("No sign of masking: stronger attacks may still exist.", "", width)
            return
        yield "Likely cause"
        named = dict[Cause, list[str]]()
        for name, one in self.sets.items():
            for cause in one.causes[:2]:
                known = next(
                    (c for c in named if (c.key, c.place) == (cause.key, cause.place)), cause
                )
                named.setdefault(known, []).append(name)
        if not named:
            yield from _wrapped("not found; these signs are unusual.", "  ", width)
        for cause, sets in named.items():
            place = f", in {cause.place}" if cause.place else ""
            told = f"{', '.join(sets)}: {cause.name}{place} (by {', '.join(cause.because)})."
            yield from _wrapped(told, "  ", width)
        yield ""
        yield "Proof" if self.masked else "Signs"
        yield from self._reasons(width)

    def _reasons(self, width: int) -> Iterator[str]:
        """What carries the verdicts: every indicator once, with what it found set by set."""
        found: dict[str, dict[str, Evidence]] = {}
        for name, one in self.sets.items():
            for evidence in one.reasons:
                where = "all sets" if evidence in self.general else name
                found.setdefault(evidence.indicator, {})[where] = evidence
        for indicator, places in found.items():
            yield from _wrapped(indicator, "  ", width)
            for name, evidence in places.items():
                yield from _wrapped(f"{name}: {evidence.finding}.", "    ", width)

    def _advice(self, width: int) -> Iterator[str]:
        """Advice for the causes, tips, and what would have to be installed."""
        every = [e for one in self.sets.values() for e in (*one.general, *one.evidence)]
        told = [f"Advice: {words}" for one in self.sets.values() for words in one.advice]
        told += [f"Tip: {e.finding}. {e.advice}" for e in every if e.weight == Weight.TIP]
        told += [
            f"Not run: {e.indicator}: {e.finding}. {e.advice}"
            for e in every
            if e.weight == Weight.NOT_RUN and (e.advice or e.kind)
        ]
        for words in dict.fromkeys(told):
            yield from ["", *_wrapped(words, "", width)]

    def describe(self) -> dict[str, Any]:
        """Plain data for a record: everything, with all intervals.

        Keys, which stay what they are within an edition of the ``schema``:

        - *schema:* the edition, a whole number;
        - *points, right:* images looked at, and right without an attack;
        - *verdict:* "no sign", "suspicious" or "masked", the worst of all sets;
        - *general:* evidence that does not depend on the set, each piece with *indicator*,
          *finding*, *weight* ("not_run", "fine", "tip", "sign", "proof"), *advice*, *rate* (value,
          low, high to four places, or null), *kind* (of a remedy, else "") and *gained* (images);
        - *sets:* by name, each with *set*, *verdict*, *accuracy* ("first-order" and "everything",
          each value, low, high), *causes* (each *key*, *name*, *place*, *because*, *advice*),
          *left* (a sentence), *settled* (true, false or null), *evidence* and *advice*.
        """
        return {
            "schema": SCHEMA,
            "points": self.points,
            "right": self.right,
            "verdict": self.verdict.words,
            "general": [e.describe() for e in self.general],
            "sets": {name: one.describe() for name, one in self.sets.items()},
        }


def experience() -> str:
    """How often the doctor was right where the truth is known."""
    n, new = EXPERIENCE, UNSEEN
    return (
        f"Of the small networks of its own tests it finds all {n['hiding']} that hide, and calls "
        f"none of {n['honest']} honest ones masked. In a benchmark of kinds that were new to it, "
        f"it found {new['found']} of {new['hiding']}, named the cause of {new['named']}, and "
        f"called none of {new['honest']} honest ones masked."
    )


def _wrapped(text: str, indent: str, width: int) -> list[str]:
    """Text in lines that fit."""
    return textwrap.wrap(
        text.rstrip(), width, initial_indent=indent, subsequent_indent=indent + "  "
    )
