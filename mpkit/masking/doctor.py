"""The doctor: everything that can be asked of a model about its gradients, in one call."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from mpkit.checks import require_device, require_fitting, require_images, require_labels
from mpkit.gradients import Model, evaluating, guard
from mpkit.masking import probes
from mpkit.masking.bypass import find_bypass
from mpkit.masking.case import Case, Effort
from mpkit.masking.examine import examine
from mpkit.masking.report import Evidence, Report, SetReport, Verdict, Weight
from mpkit.masking.surrogate import imitate
from mpkit.masking.tame import Tame, judge
from mpkit.perturbation import PerturbationSet
from mpkit.sets import Ball
from mpkit.threats import describe, kind, parts

LEAST = 10
"""With fewer images that a model gets right, there is nothing to be said."""

WIDER, NARROWER = 3.0, 0.5
"""A suspicious model is examined once more at these multiples of the radius."""

CROWD = 15
"""In the narrower ball only if fewer images than this are left for the contests."""


def diagnose(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: PerturbationSet,
    rng: torch.Generator,
    effort: Effort | None = None,
    surrogate: nn.Module | None = None,
) -> Report:
    """Look for gradient masking: robustness that gradient attacks see and others do not.

    The verdict rests on contests on the same images: attacks that need no true gradient, and
    remedies made for one way of hiding it, against the first-order attacks run once more. A model
    is called masked if one of them breaks significantly more, or raises the margin further on
    most images, in the set itself or, where something else is unusual, in one three times as
    wide; if its answers depend on chance or on batch-mates; or if gradients fail where the
    set holds every image. Everything else that is unusual makes it suspicious, no more.

    Args:
        model: images (B, C, H, W) to logits (B, K); run in eval mode, and left as it was.
        x: (B, C, H, W), float32 or float64, in [0, 1]; 100 to 200 images do well.
        y: (B,) int64 labels.
        threat: a perturbation set, or a union of some.
        rng: a generator on the device of x.
        effort: how long to try; None for the usual.
        surrogate: a plain network for the same task, to transfer attacks from; without one a
            small network learns to imitate the model's answers.

    Raises:
        ValueError: an argument is unfit, or the model is right on too few images.
    """
    effort = effort or Effort()
    require_images(x)
    require_labels(y, x)
    require_device("rng", rng.device, x.device)
    require_fitting(model, x)
    threat.check(x)
    fresh = _copied(model)
    with evaluating(model), torch.no_grad():
        guard(model, 2, y)(x)
    points, answers = len(x), probes.randomness(model, x)
    draws = 2 * effort.draws if answers.weight else 1
    general: tuple[Evidence, ...] = (answers, probes.finite(model, x))
    x, y = _right(model, x, y, draws)
    case = Case(model, Tame(model), x, y, rng, effort, draws, surrogate=surrogate)
    general += _general(case, fresh)
    case, sets = _prepared(case), dict[str, SetReport]()
    for part in parts(threat):
        name = describe(part)
        name = kind(name) if kind(name) not in sets else name
        sets[name] = _followed(replace(examine(part, case), general=general), case)
    return Report(points, len(x), general, sets)


def _followed(report: SetReport, case: Case) -> SetReport:
    """Where there is smoke and no fire, look again where more can be found.

    That is in a wider ball, and, where first-order attacks break nearly everything so that there
    is next to nothing to compete for, in a narrower one.
    """
    left = report.accuracy["first-order"].value * len(case.x)
    for factor in (WIDER, NARROWER) if left < CROWD else (WIDER,):
        if report.verdict != Verdict.SUSPICIOUS or not isinstance(report.set, Ball):
            return report
        proofs = [
            replace(one, indicator=f"at {factor:g} times the radius: {one.indicator}")
            for one in examine(report.set.scaled(factor), case).evidence
            if one.weight == Weight.PROOF
        ]
        report = replace(report, evidence=(*report.evidence, *proofs))
    return report


def _right(model: Model, x: Tensor, y: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """The images that a model gets right, with their labels."""
    right = ~judge(model, x, y, draws).wrong
    if int(right.sum()) < LEAST:
        raise ValueError(
            f"diagnose: the model is right on {int(right.sum())} of {len(x)} images, at least "
            f"{LEAST} are needed; give more images, or check labels and pixel range"
        )
    return x[right], y[right]


def _copied(model: Model) -> nn.Module | None:
    """The model before anything was asked; None where it cannot be copied."""
    try:
        return copy.deepcopy(model) if isinstance(model, nn.Module) else None
    except (RuntimeError, TypeError):  # such as a generator, or a tensor with a history
        return None


def _general(case: Case, fresh: nn.Module | None) -> tuple[Evidence, ...]:
    """What does not depend on a set, at points close to the images."""
    x, y = case.x, case.y
    noise = torch.randn(x.shape, generator=case.rng, dtype=x.dtype, device=x.device)
    near = (x + 0.02 * noise).clamp(0, 1)
    found = [probes.scores(case.model, x)]
    if case.draws == 1:
        found += [probes.company(case.model, x), probes.watched(case.model, near, y)]
    if case.draws == 1 and fresh is not None:
        found.append(probes.memory(case.model, fresh, x, case.rng))
    found += probes.presence(case.model, near, y)
    return (*found, *probes.truth(case.model, near, y, case.rng))


def _prepared(case: Case) -> Case:
    """With a detour, if there is one, and where no surrogate was given with one that imitates."""
    case = replace(case, bypass=find_bypass(case.model, case.x[:64], case.rng))
    if case.surrogate is not None:
        return case
    taught = imitate(case.tame, case.x, case.rng)
    return replace(case, surrogate=taught[0], lesson=taught[1]) if taught else case
