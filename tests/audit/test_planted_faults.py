"""The auditor finds every planted fault of a toy library, names it, and says nothing else."""

from __future__ import annotations

import time
from functools import cache

import pytest
from torch import nn

from mpbook.teaching.faulty import LEAK, attack, closed_form
from mpkit.audit import OBSERVATIONS, VIOLATIONS, Report, Subject, audit
from mpkit.audit.checks import lengths
from mpkit.audit.problems import Case
from mpkit.audit.protocol import NORMS

STEPS = 20
PLANTED = {
    "threshold": ("l1", "ball"),  # one entry too many in the projection
    "ball": ("linf", "ball"),  # the radius exceeded by 1e-4 of it
    "box": ("l2", "box"),
    "numbers": ("linf", "numbers"),
    "flag": ("l2", "flag"),
    "clean errors": ("linf", "clean errors"),
    "no-op": ("l1", "no-op"),
    "forgets": ("l1", "forgets"),  # the last iterate in place of the best
    "seed": ("l2", "seed"),
    "gradients": ("linf", "gradients"),
    "mode": ("linf", "mode"),
    "inputs": ("linf", "inputs"),
    "memory": ("linf", "memory"),
    "graph": ("linf", "graph"),
    "reseeds": ("linf", "reseeds"),
    "training mode": ("linf", "training mode"),
    "raises": ("linf", "raises"),
    "size": ("linf", "size"),
}


@cache
def audited(norm: str, *faults: str, measures: bool = False, seeds: int = 2) -> Report:
    toy = Subject("toy", NORMS[norm], attack(*faults))
    LEAK.clear()
    return audit(toy, STEPS, seeds, measures)


def checks(report: Report) -> list[str]:
    return [finding.check for finding in report.findings]


@pytest.mark.parametrize("fault", PLANTED)
def test_each_fault_is_found_and_nothing_else(fault: str) -> None:
    norm, check = PLANTED[fault]
    report = audited(norm, fault)
    assert checks(report) == [check]
    finding = report.findings[0]
    assert finding.violation == (check in VIOLATIONS)
    assert finding.where.startswith("1 image 1x") or check in ("forgets", "memory")
    assert finding.shown >= 1


def test_faults_together_are_all_found() -> None:
    faults = "ball", "flag", "seed", "gradients", "inputs", "mode", "clean errors", "forgets"
    assert set(checks(audited("l1", *faults))) == set(faults)


def test_violations_come_first() -> None:
    found = audited("linf", "graph", "gradients").findings
    assert [one.violation for one in found] == [True, False]


def test_a_step_that_does_not_see_the_walls_is_weak() -> None:
    report = audited("l1", "gap", measures=True)
    assert set(checks(report)) == {"weak", "gap"}
    assert report.violations == ()


@pytest.mark.parametrize("norm", NORMS)
def test_the_right_toy_and_the_closed_form_are_clean(norm: str) -> None:
    assert checks(audited(norm, measures=True)) == []
    assert checks(audit(Subject("closed form", NORMS[norm], closed_form), STEPS)) == []


@pytest.mark.parametrize("norm", NORMS)
def test_no_false_alarm_across_seeds(norm: str) -> None:
    assert checks(audited(norm, seeds=8)) == []


def test_the_smallest_input_shows_the_fault_by_itself() -> None:
    """The images in the finding, given to the toy again, leave the ball by as much."""
    finding = audited("l1", "threshold").findings[0]
    case = Case(*(finding.case[key] for key in ("norm", "shape", "seed", "steps", "row")))
    made = case.made()
    assert made.x.flatten(1).tolist() == finding.case["x"]
    image, _ = attack("threshold")(made.model, made.x, made.y, made.task)
    assert float(lengths(made.task, made.x, image)[0]) == pytest.approx(finding.sign.value)


def test_every_check_has_a_meaning_and_a_planted_fault() -> None:
    planted = {check for _, check in PLANTED.values()} | {"gap", "weak"}
    untested = set(VIOLATIONS | OBSERVATIONS) - planted
    assert untested == {"frozen", "buffers", "slow", "unmoved"}  # those below
    assert not VIOLATIONS.keys() & OBSERVATIONS.keys()


def test_less_usual_faults() -> None:
    right = attack()

    def frozen(model, x, y, task):
        next(model.parameters()).requires_grad_(True)
        return right(model, x, y, task)

    def buffers(model, x, y, task):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += 1
        return right(model, x, y, task)

    def slow(model, x, y, task):
        end = time.process_time() + (0.4 if len(x) == 64 else 0)
        while time.process_time() < end:
            pass
        return closed_form(model, x, y, task)

    def unmoved(model, x, y, task):
        image = closed_form(model, x, y, task)
        image[1:2] = x[1:2]
        return image

    for call in (frozen, buffers, slow, unmoved):
        report = audit(Subject("toy", NORMS["linf"], call), STEPS, 1, measures=call is slow)
        assert checks(report) == [call.__name__]
