"""One model in one set: what a usual attack says, what who knows it finds, what the doctor says."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.masks.bases import SETS
from benchmarks.masks.others import autoattack_flags, binarization, indicated, indicators, score
from benchmarks.masks.patients import Patient
from mpkit import masking
from mpkit.attacks import (
    APGD,
    FMN,
    PGD,
    SLIDE,
    Attack,
    BoundaryStart,
    CrossEntropy,
    GreedyPixels,
    Grid,
    Margin,
    Square,
)
from mpkit.attacks.gradients import Model
from mpkit.evaluation import verified
from mpkit.masking.adaptive import TransferPGD
from mpkit.sets import L1, L2, Ball

STEPS = 60
"""Of every search of who knows the mask."""


def usual_attacks(key: str) -> list[Attack]:
    """What most papers run: PGD and Auto-PGD on the cross-entropy; in poses, a grid."""
    threat = SETS[key]
    if not isinstance(threat, Ball):
        return [Grid(threat, 5, 15)]
    return [PGD(threat, 40), APGD(threat, 40, CrossEntropy())]


def knowing_attacks(key: str, guides: Sequence[Model]) -> Iterator[tuple[Model | None, Attack]]:
    """Attacks, each with the model that it is run on in place of the one it is tried on."""
    threat = SETS[key]
    if not isinstance(threat, Ball):
        yield None, Grid(threat, 9, 31, loss=Margin())
        return
    for guide in (None, *guides):
        yield guide, APGD(threat, STEPS, Margin())
        if guide is not None:
            yield None, TransferPGD(threat, STEPS, guide=masking.Sanitized(guide))
        if isinstance(threat, L1):
            yield guide, SLIDE(threat, STEPS, loss=Margin())
    yield (guides[0] if guides else None), FMN(threat, STEPS, start=BoundaryStart(0))
    yield None, Square(threat, 500)
    if isinstance(threat, L1 | L2):
        yield None, GreedyPixels(threat, tries=24)


def left(
    patient: Patient, x: Tensor, y: Tensor, attacks: Iterator[tuple[Model | None, Attack]]
) -> Tensor:
    """Who is right (B,) on all images that attacks find and on the clean one, asked afresh."""
    right = ~masking.assess(patient.build(), x, y, patient.draws).wrong
    rng = torch.Generator().manual_seed(0)
    for guide, attack in attacks:
        rows = right.nonzero().squeeze(1)
        if not len(rows):
            break
        model = masking.Sanitized(guide or patient.build())
        found = attack(model, x[rows], y[rows], rng, x)
        image, counts = verified(type(attack).__name__, attack.set, x[rows], found)
        wrong = masking.assess(patient.build(), image, y[rows], patient.draws).wrong
        right[rows] = ~(wrong & counts)
    return right


def truth(patient: Patient, key: str, x: Tensor, y: Tensor) -> dict[str, Any]:
    """Images (as 0 and 1) that are right when clean, under usual attacks, and in truth.

    What a usual attack breaks, one that knows the mask breaks too.
    """
    begun = time.process_time()
    clean = left(patient, x, y, iter(()))
    seen = left(patient, x, y, ((None, attack) for attack in usual_attacks(key)))
    guides = list(patient.knowing(patient.build()))
    known = left(patient, x, y, knowing_attacks(key, guides)) & seen
    found = {"clean": clean, "usual": seen, "knowing": known}
    return {
        **{name: "".join(map(str, bits.long().tolist())) for name, bits in found.items()},
        "seconds": round(time.process_time() - begun, 1),
    }


def opinion(
    patient: Patient, key: str, x: Tensor, y: Tensor, effort: masking.Effort
) -> dict[str, Any]:
    """What the doctor says of a fresh model."""
    begun, rng = time.process_time(), torch.Generator().manual_seed(0)
    try:
        report = masking.diagnose(patient.build(), x, y, SETS[key], rng, effort)
    except Exception as error:  # a crash is a result
        return {"crash": repr(error)[:300], "seconds": round(time.process_time() - begun, 1)}
    (one,) = report.sets.values()
    first, final = (one.accuracy[name].value for name in ("first-order", "everything"))
    printed = [cause.key for cause in one.causes[:2]]
    return {
        "verdict": one.verdict.words,
        "first": round(first, 4),
        "final": round(final, 4),
        "right": report.right,
        "causes": printed,
        "because": [reason.indicator for reason in one.reasons],
        "settled": one.settled,
        "seconds": round(time.process_time() - begun, 1),
    }


def elsewhere(patient: Patient, key: str, x: Tensor, y: Tensor) -> dict[str, Any]:
    """What the published tests say of fresh models in a ball."""
    ball, found = SETS[key], dict[str, Any]()
    assert isinstance(ball, Ball)
    for name, test in {"flags": autoattack_flags, "binarization": binarization}.items():
        begun, rng = time.process_time(), torch.Generator().manual_seed(0)
        result = test(patient.build(), x, y, ball, rng)
        told = result if name == "flags" else result._asdict()  # type: ignore[union-attr]
        raised = any(result.values()) if name == "flags" else result.flagged  # type: ignore[union-attr]
        found[name] = {
            "told": plain(told),
            "raised": bool(raised),
            "score": round(score(result), 4),
        }
        found[name]["seconds"] = round(time.process_time() - begun, 1)
    begun, rng = time.process_time(), torch.Generator().manual_seed(0)
    told = indicators(patient.build(), x, y, ball, rng)  # nothing is transferred
    found["indicators"] = {
        "told": plain(told),
        "raised": indicated(told),
        "score": round(score(told), 4),
    }
    found["indicators"]["seconds"] = round(time.process_time() - begun, 1)
    return {**found, "seconds": round(sum(one["seconds"] for one in found.values()), 1)}


def plain(told: Mapping[str, Any]) -> dict[str, Any]:
    """For a record: short numbers, and null for what could not be run."""
    return {
        name: None if value != value else round(value, 4) if isinstance(value, float) else value
        for name, value in told.items()
    }
