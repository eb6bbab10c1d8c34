"""Evaluation: suites of attacks, a ledger of who survived, and the checks behind every number."""

from mpkit.evaluation.adversarial import AdversarialImages
from mpkit.evaluation.evaluate import evaluate
from mpkit.evaluation.gauge import Gauge, gauge
from mpkit.evaluation.goals import AfterPilot, Attacks, EachSet, Goal, UnionOnly, named
from mpkit.evaluation.ledger import Gain, Ledger, merged
from mpkit.evaluation.reports import (
    accuracies,
    columns,
    gauge_summary,
    gauge_table,
    hints,
    hints_on_outputs,
    hints_on_radii,
    summary,
    table,
)
from mpkit.evaluation.sharding import evaluate_in_shards
from mpkit.evaluation.suites import EDITION, Budget, quickest_first, standard
from mpkit.evaluation.targeted import TargetView, evaluate_toward, table_toward, targets_of
from mpkit.evaluation.verification import OutsideSet, verified
from mpkit.evaluation.witnesses import Verdict, Witnesses, verify

__all__ = [
    "EDITION",
    "AdversarialImages",
    "AfterPilot",
    "Attacks",
    "Budget",
    "EachSet",
    "Gain",
    "Gauge",
    "Goal",
    "Ledger",
    "OutsideSet",
    "TargetView",
    "UnionOnly",
    "Verdict",
    "Witnesses",
    "accuracies",
    "columns",
    "evaluate",
    "evaluate_in_shards",
    "evaluate_toward",
    "gauge",
    "gauge_summary",
    "gauge_table",
    "hints",
    "hints_on_outputs",
    "hints_on_radii",
    "merged",
    "named",
    "quickest_first",
    "standard",
    "summary",
    "table",
    "table_toward",
    "targets_of",
    "verified",
    "verify",
]
