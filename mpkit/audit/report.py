"""Reports as a table, as a list of findings, and as a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpkit.audit.audit import Report
from mpkit.audit.findings import OBSERVATIONS, VIOLATIONS
from mpkit.evaluation import columns

HEAD = (
    "attack",
    "norm",
    "violations",
    "observations",
    "reach",
    "broken",
    "Auto-PGD",
    "known",
    "gradients",
    "time",
)


def table(reports: Sequence[Report]) -> str:
    """One line for each attack.

    Reach is the share of the optimum of linear models; broken is how many of the known images,
    beside Auto-PGD with as many gradients; time is over that of the passes alone.
    """
    return columns(HEAD, [_row(one) for one in reports])


def _row(report: Report) -> tuple[str, ...]:
    seen = report.measures

    def number(name: str, form: str = "g") -> str:
        value = seen.get(name)
        return "-" if value is None else format(value, form)

    return (
        f"{report.library} {report.attack}",
        report.norm,
        _names(report, violation=True),
        _names(report, violation=False),
        number("reach", ".2f"),
        number("broken"),
        number("broken at equal gradients"),
        number("known to break"),
        number("gradients per image", ".0f"),
        number("time over the passes", ".1f"),
    )


def _names(report: Report, violation: bool) -> str:
    return ", ".join(f.check for f in report.findings if f.violation == violation) or "-"


def listing(reports: Sequence[Report], observations: bool = True) -> str:
    """Every finding in one line, with the smallest input that shows it."""
    return "\n".join(
        f"{one.library} {one.attack} ({one.norm}): {finding.line()}"
        for one in reports
        for finding in one.findings
        if observations or finding.violation
    )


def verdict(reports: Sequence[Report]) -> str:
    """How many attacks were audited and what was found, in one line."""
    violations = sum(len(one.violations) for one in reports)
    guilty = sum(bool(one.violations) for one in reports)
    others = sum(len(one.findings) for one in reports) - violations
    many = f"{len(reports)} attack{'s' * (len(reports) != 1)}"
    if not violations:
        return f"{many}: no violation, {others} observations"
    return f"{many}: {violations} violations in {guilty} of them, {others} observations"


def record(reports: Sequence[Report]) -> dict[str, Any]:
    """All reports as plain data, with what the names of the checks mean."""
    return {
        "checks": {"violations": VIOLATIONS, "observations": OBSERVATIONS},
        "attacks": [one.describe() for one in reports],
        "violations": sum(len(one.violations) for one in reports),
        "verdict": verdict(reports),
    }
