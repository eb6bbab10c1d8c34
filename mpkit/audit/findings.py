"""What an audit says: violations, which end a run with code 1, and observations, which do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from mpkit.audit.problems import Case

VIOLATIONS = {
    "ball": "returns perturbations longer than the radius",
    "box": "returns pixels outside of [0, 1]",
    "numbers": "returns NaN or infinity",
    "flag": "tells a success, or a failure, that a second prediction contradicts",
    "no-op": "returns the clean images and has asked the network about no others",
    "seed": "gives other images at a second call with the same seed",
    "gradients": "leaves gradients in the weights",
    "mode": "leaves a module in another mode",
    "frozen": "changes which weights ask for gradients",
    "buffers": "moves the buffers of a network in eval mode",
    "inputs": "changes the caller's images or labels in place",
    "memory": "keeps memory at every call",
    "raises": "raises an error",
}
"""What no attack should do, by the name of the check."""

OBSERVATIONS = {
    "clean errors": "counts images as successes that the network gets wrong without an attack",
    "forgets": "returns an image that fails after it saw an allowed one that succeeds",
    "unmoved": "returns some clean images, where small steps in the right direction break them",
    "gap": "stays far from the optimum of linear models",
    "weak": "breaks less than half of what is known to break, at equal gradients",
    "slow": "takes a multiple of the time of its passes through the network",
    "training mode": "runs a network in the training mode in which it is handed over",
    "graph": "returns images that hold the graph of their gradients",
    "reseeds": "sets the global random generator to a state of its own",
    "size": "raises an error on small images only",
}
"""What a user should know, but may be meant so."""


class Sign(NamedTuple):
    """One check that failed in one run.

    Attributes:
        check: a key of VIOLATIONS or OBSERVATIONS.
        words: what was seen, in numbers.
        value: how much, in the check's own unit; None where there is no more or less.
        rows: the images that show it.
    """

    check: str
    words: str
    value: float | None = None
    rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A check that failed, on the smallest input tried that shows it.

    Args:
        sign: what was seen there.
        where: that input, in one line.
        case: the same as plain data.
        shown: in how many of the runs it was seen.
        runs: how many there were.
    """

    sign: Sign
    where: str
    case: dict[str, Any]
    shown: int = 1
    runs: int = 1

    @property
    def check(self) -> str:
        """The name of the check."""
        return self.sign.check

    @property
    def violation(self) -> bool:
        """Whether no attack should do this."""
        return self.check in VIOLATIONS

    @property
    def meaning(self) -> str:
        """What the check looks for."""
        return (VIOLATIONS | OBSERVATIONS)[self.check]

    def line(self) -> str:
        """The finding in one line, without the attack's name."""
        kind = "violation" if self.violation else "observation"
        return f"{kind} {self.check}: {self.sign.words}; on {self.where}"

    def describe(self) -> dict[str, Any]:
        """The finding as plain data."""
        return {
            "check": self.check,
            "kind": "violation" if self.violation else "observation",
            "meaning": self.meaning,
            "seen": self.sign.words,
            "value": self.sign.value,
            "smallest input": self.where,
            "input": self.case,
            "shown": self.shown,
            "runs": self.runs,
        }


def found(sign: Sign, case: Case, shown: int, runs: int) -> Finding:
    """A finding on one of the small problems."""
    return Finding(sign, case.words(), case.describe(), shown, runs)
