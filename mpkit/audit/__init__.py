"""Audit: is what an attack of any library returns allowed, told truly, and strong at its price?"""

from mpkit.audit.audit import Report, audit
from mpkit.audit.findings import OBSERVATIONS, VIOLATIONS, Finding, Sign
from mpkit.audit.protocol import MalformedAttack, Outcome, Subject, Task, own

__all__ = [
    "OBSERVATIONS",
    "VIOLATIONS",
    "Finding",
    "MalformedAttack",
    "Outcome",
    "Report",
    "Sign",
    "Subject",
    "Task",
    "audit",
    "own",
]
