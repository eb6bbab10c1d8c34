"""The audit of one attack: all checks in order, with what follows from another finding left out."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

from mpkit.audit.checks import exact
from mpkit.audit.effects import growth, side_effects
from mpkit.audit.findings import Finding
from mpkit.audit.measures import measured
from mpkit.audit.protocol import NORMS, Subject

FOLLOWS = {"no-op": ("gap", "weak", "flag", "slow"), "raises": ("gap", "weak", "slow")}
"""What a finding explains, so that it is not told again."""


@dataclass(frozen=True)
class Report:
    """What an audit found.

    Args:
        library: where the attack comes from.
        attack: its name.
        norm: of its ball.
        findings: violations first.
        measures: numbers by name.
        seconds: wall time of the audit.
    """

    library: str
    attack: str
    norm: str
    findings: tuple[Finding, ...]
    measures: dict[str, Any]
    seconds: float

    @property
    def violations(self) -> tuple[Finding, ...]:
        """The findings that no attack should show."""
        return tuple(one for one in self.findings if one.violation)

    def describe(self) -> dict[str, Any]:
        """The report as plain data."""
        return {
            "library": self.library,
            "attack": self.attack,
            "norm": self.norm,
            "findings": [one.describe() for one in self.findings],
            "measures": self.measures,
            "seconds": round(self.seconds, 1),
        }


def audit(subject: Subject, steps: int = 40, seeds: int = 2, measures: bool = True) -> Report:
    """Audit one attack.

    Args:
        subject: the attack, with the kind of ball that it searches in.
        steps: gradients for each image that it is asked to take, at least 10.
        seeds: networks, images and draws for each size of image in the exact checks.
        measures: False leaves out gap, strength and time, which take most of the while.

    Returns: its report.

    Raises:
        ValueError: steps or seeds are too few.
        MalformedAttack: it returns something else than images, or images and flags.
    """
    if steps < 10 or seeds < 1:
        raise ValueError(f"audit: needs steps ≥ 10 and seeds ≥ 1, got {steps} and {seeds}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _audited(subject, steps, seeds, measures)


def _audited(subject: Subject, steps: int, seeds: int, measures: bool) -> Report:
    begun = time.monotonic()
    norm = next(name for name, kind in NORMS.items() if issubclass(subject.kind, kind))
    findings = exact(subject, norm, steps, seeds)
    findings += side_effects(subject, norm)
    kept, said = growth(subject, norm)
    findings += said
    numbers: dict[str, Any] = {}
    if measures:
        numbers, said = measured(subject, norm, steps)
        findings += said
    numbers["bytes kept at every call"] = round(kept)
    named = {one.check for one in findings}
    explained = {name for cause in named & set(FOLLOWS) for name in FOLLOWS[cause]}
    told = [one for one in findings if one.check not in explained]
    told.sort(key=lambda one: not one.violation)
    return Report(
        subject.library, subject.name, norm, tuple(told), numbers, time.monotonic() - begun
    )
