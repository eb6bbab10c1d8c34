"""The doctor: everything that can be asked of a model about its gradients, in one call."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpkit.attacks.gradients import Model, evaluating, guard
from mpkit.core.checks import (
    ordinary,
    require_device,
    require_fitting,
    require_images,
    require_labels,
)
from mpkit.core.devices import full_precision
from mpkit.core.progress import Quiet
from mpkit.masking import probes
from mpkit.masking.adaptive import imitate
from mpkit.masking.case import Case, Effort, Stages
from mpkit.masking.curves import FAILURES, failure, truth
from mpkit.masking.detours import chance_in, find_detours, positive
from mpkit.masking.evidence import Evidence, Weight, causes
from mpkit.masking.examine import examine
from mpkit.masking.remedies import contenders
from mpkit.masking.report import Report, SetReport, Verdict
from mpkit.masking.wrappers import Contenders, Forgetful, Sanitized
from mpkit.models import OwnInput
from mpkit.sets import Ball, PerturbationSet
from mpkit.sets.threat_model import kind

LEAST = 10
"""With fewer images that a model gets right, there is nothing to be said."""

WIDER, NARROWER = 3.0, (0.5, 0.25)
"""A suspicious model is examined once more at these multiples of the radius."""

LENGTH = 12
"""Steps of progress for every set, and as many for what comes before."""

MISLEADING = (*FAILURES, "wild gradient", "margin gradient", "gradients nearby")
MISLEADING += ("finite differences",)
"""Signs that gradients mislead, whatever the set."""

CROWD = 20
"""In a narrower ball only if fewer images than this are left for the contests."""


@torch.inference_mode(False)
@full_precision()
def diagnose(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: PerturbationSet,
    rng: torch.Generator,
    effort: Effort | None = None,
    surrogate: nn.Module | None = None,
    progress: Quiet | None = None,
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
        progress: is told what is being done; None tells nobody.

    Raises: ValueError: an argument is unfit, or the model is right on too few images.
    """
    x, y = ordinary(x), ordinary(y)
    require_images(x)
    require_labels(y, x)
    require_device("rng", rng.device, x.device)
    fresh = _copied(model)
    require_fitting(model, x)
    threat.check(x)
    members, progress = threat.parts(), progress or Quiet()
    progress.start(LENGTH * (len(members) + 1), 0)
    try:
        case = Case(model, Sanitized(model), x, y, rng, effort or Effort(), surrogate=surrogate)
        case, general = _admitted(replace(case, stages=Stages(progress, LENGTH)), fresh)
        sets = dict[str, SetReport]()
        for part in members:
            case = replace(case, stages=Stages(progress, LENGTH))
            name = part.describe()
            name = kind(name) if kind(name) not in sets else name
            sets[name] = _followed(examine(part, case), general, case)
            case.stages.close()
    finally:
        progress.close()
    return Report(len(x), len(case.x), general.answers + general.gradients, sets)


class General(NamedTuple):
    """What can be said before any set is looked at: about answers, and about gradients."""

    answers: tuple[Evidence, ...]
    gradients: tuple[Evidence, ...]
    chance: str = ""


def _admitted(case: Case, fresh: nn.Module | None) -> tuple[Case, General]:
    """The case ready for examination, and what can be said before any set is looked at.

    Args:
        fresh: a copy of the model, before it was asked anything; None where it cannot be copied.
    """
    case.stages.begin("the same questions again")
    with evaluating(case.model), torch.no_grad():
        asked = guard(case.model, 2, case.y)
        asked(case.x)
    if asked.writes:
        own = OwnInput(case.model)
        case = replace(case, model=own, sanitized=Sanitized(own))
    answers = probes.randomness(case.model, case.x)
    finite = probes.finite(case.model, case.x)
    case = _right(replace(case, draws=2 * case.effort.draws if answers.weight else 1), finite)
    case.stages.begin("gradients")
    general = General((answers, finite, *_answers(case, fresh)), ())
    if any(e.indicator == "memory" and e.weight for e in general.answers) and fresh is not None:
        model = Forgetful(fresh)
        case = _right(replace(case, model=model, sanitized=Sanitized(model), draws=1), finite)
    general = general._replace(gradients=_gradients(case))
    if case.draws > 1:
        general = general._replace(chance=chance_in(case.model, case.x))
    case.stages.begin("a network that imitates")
    case = _prepared(case)
    try:
        alive, rivals = contenders(case.model, case.x, case.y, _called(case), case.rng)
    except Exception as error:  # whatever a model raises under an attack
        why = f"not run: {(str(error) or repr(error)).splitlines()[0]}"
        alive, rivals = None, Evidence("classes that never win", why, Weight.NOT_RUN)
    if alive is not None and case.lesson is not None:  # the surrogate learns these classes alone
        taught = imitate(Contenders(case.sanitized, alive), case.x, case.rng)
        case = replace(case, surrogate=taught[0], lesson=taught[1]) if taught else case
    misled = any(e.indicator in MISLEADING and e.weight for e in general.gradients)
    case = replace(case, alive=alive, positive=positive(case.model, case.x), misled=misled)
    general = general._replace(gradients=(*general.gradients, rivals))
    case.stages.close()
    return case, general


def _followed(report: SetReport, general: General, case: Case) -> SetReport:
    """Where there is smoke and no fire, look again where more can be found.

    That is in a wider ball, and, where first-order attacks break nearly everything so that there
    is next to nothing to compete for, in a narrower one.
    """
    if not isinstance(report.set, Ball):  # searched without gradients
        return _explained(replace(report, general=general.answers), general, case)
    report = replace(report, general=general.answers + general.gradients)
    left = report.accuracy["first-order"].value * len(case.x)
    for factor in (WIDER, *NARROWER):
        if report.verdict != Verdict.SUSPICIOUS or (factor < 1 and left >= CROWD):
            break
        case.stages.begin(f"once more at {factor:g} times the radius")
        again = examine(report.set.scaled(factor), replace(case, misled=False))
        if factor < 1:
            left = again.accuracy["first-order"].value * len(case.x)
        proofs = [
            replace(one, indicator=f"at {factor:g} times the radius: {one.indicator}")
            for one in again.evidence
            if one.weight == Weight.PROOF
        ]
        report = replace(report, evidence=(*report.evidence, *proofs))
    return _explained(report, general, case)


def _explained(report: SetReport, general: General, case: Case) -> SetReport:
    """With the likely causes, where there is anything to explain."""
    if report.verdict == Verdict.NO_SIGN:
        return report
    evidence = (*report.general, *report.evidence)
    return replace(report, causes=causes(evidence, case.detours, general.chance))


def _right(case: Case, finite: Evidence) -> Case:
    """The case with the images that the model gets right."""
    rows = (~case.assess(case.x).wrong).nonzero().squeeze(1)
    if len(rows) < LEAST:
        also = f" ({finite.finding})" if finite.weight else ""
        raise ValueError(
            f"diagnose: the model is right on {len(rows)} of {len(case.x)} images{also}, at least "
            f"{LEAST} are needed; give more images, or check labels, pixel range and weights"
        )
    return case.take(rows)


def _copied(model: Model) -> nn.Module | None:
    """The model before anything was asked; None where it cannot be copied."""
    try:
        return copy.deepcopy(model) if isinstance(model, nn.Module) else None
    except (RuntimeError, TypeError):  # such as a generator, or a tensor with a history
        return None


def _answers(case: Case, fresh: nn.Module | None) -> list[Evidence]:
    """Whether answers are a function of the image, and logits."""
    model, x = case.model, case.x
    found = [probes.scores(model, x)]
    if case.draws == 1:
        found += [probes.batch_dependence(model, x), probes.watched(model, x, case.y)]
    if fresh is not None:
        same = case.draws == 1
        found.append(probes.memory(model, fresh, x, case.rng) if same else probes.drift(fresh, x))
    return found


def _gradients(case: Case) -> tuple[Evidence, ...]:
    """What does not depend on a set, at points close to the images."""
    x, y = case.x, case.y
    noise = torch.randn(x.shape, generator=case.rng, dtype=x.dtype, device=x.device)
    near = (x + 0.02 * noise).clamp(0, 1)
    found = probes.presence(case.model, near, y)
    found += truth(case.model, near, y, case.rng, case.draws > 1)
    return (*found, *([failure(case.model, near, y, case.rng)] if case.draws == 1 else []))


def _called(case: Case) -> Tensor:
    """Classes that the model names for the images that a surrogate learned from."""
    return case.y if case.lesson is None else case.lesson.answers.argmax(1)


def _prepared(case: Case) -> Case:
    """With a detour, if there is one, and where no surrogate was given with one that imitates."""
    detours = find_detours(case.model, case.x[:64], case.y[:64], case.rng)
    case = replace(case, detours=detours)
    if case.surrogate is not None:
        return case
    taught = imitate(case.sanitized, case.x, case.rng)
    return replace(case, surrogate=taught[0], lesson=taught[1]) if taught else case
