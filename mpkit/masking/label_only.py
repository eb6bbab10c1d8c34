"""Attacks that see the label alone: evidence where scores are flat, on a few images."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.attacks import Attack, Boundary, HopSkipJump, Pointwise
from mpkit.core import trees
from mpkit.masking.case import Case, worst
from mpkit.masking.report import Contest, Evidence, Weight
from mpkit.masking.wrappers import Assessed, Sanitized
from mpkit.models import QueryCounter
from mpkit.sets import Ball

NAME = "labels alone (decision-based attacks)"


class Labels(NamedTuple):
    """What decision-based attacks found: the evidence, and whom they broke of the case (B,)."""

    evidence: Evidence
    wrong: Tensor


def labels_alone(case: Case, ball: Ball, control: Assessed, total: int, rival: str) -> Labels:
    """Let attacks compete that see nothing of the model but which class it names.

    They are slow, so that only some images take part; which ones does not depend on any attack's
    success on them.

    Args:
        case: the images left by the first-order attacks.
        ball: what the adversary may do.
        control: what the first-order attacks reached on the case, run once more.
        total: images that the model gets right without an attack.
        rival: the name of the control, in words.
    """
    nobody = torch.zeros_like(control.wrong)
    few = min(case.effort.decisions, len(case.x))
    if reason := _obstacle(case):
        return Labels(Evidence(NAME, reason[0], Weight.NOT_RUN, reason[1]), nobody)
    rows = torch.arange(few, device=case.x.device)
    part, meter = case.take(rows), QueryCounter(Sanitized(case.model))
    try:
        tried = tuple(_attacks(ball))
        reached = worst([part.reach(attack, meter) for attack in tried]).assessed
    except ValueError as error:  # such as a label that changes with the batch of an image
        return Labels(Evidence(NAME, f"not run to the end: {error}", Weight.NOT_RUN), nobody)
    names = (", ".join(type(attack).__name__ for attack in tried), rival)
    clean = part.assess(part.x)
    contest = Contest.between(names, total, clean, trees.take(control, rows), reached)
    finding = f"{contest.words()}; they saw no score and no gradient, and asked about "
    finding += f"{meter.forwards // few} images for each"
    advice = "Scores are hidden too: add decision-based attacks to the evaluation."
    evidence = Evidence(NAME, finding, Weight.PROOF if contest.breaks else Weight.FINE, advice)
    return Labels(evidence, nobody.index_copy(0, rows, reached.wrong))


def _obstacle(case: Case) -> tuple[str, str] | None:
    """Why they cannot run, and what to do about it."""
    if not case.effort.decisions:
        return "not asked for", ""
    if case.draws > 1:
        return "the model's label changes from one call to the next", ""
    if not _installed("foolbox"):
        return "HopSkipJump, Pointwise and Boundary need foolbox", "pip install foolbox"
    return None


def _attacks(ball: Ball) -> Iterator[Attack]:
    """About a thousand questions for each image in all."""
    if ball.order == 1:
        yield Pointwise(ball)
        yield Boundary(ball, steps=200)
    else:
        yield HopSkipJump(ball, steps=12, evaluations=30)


def _installed(name: str) -> bool:
    """Whether a package can be imported; without importing it."""
    try:
        return find_spec(name) is not None
    except ValueError:  # it was switched off in sys.modules
        return False
