"""The examination of one perturbation set: contests and curves, and what they weigh."""

from __future__ import annotations

import torch
from torch import Tensor

from mpkit.attacks import APGD, CrossEntropy, Grid, Margin, WorstOfK
from mpkit.core.statistics import proportion
from mpkit.masking.adaptive import FIRST_ORDER, Remedy, first_order, remedies
from mpkit.masking.case import Case, Result, worst
from mpkit.masking.curves import curves
from mpkit.masking.label_only import labels_alone
from mpkit.masking.probes import raw_slope
from mpkit.masking.report import LAST_LEVEL, Contest, Evidence, SetReport, Weight
from mpkit.masking.surrogate import Lesson
from mpkit.masking.wrappers import Assessed, TemperatureScaled
from mpkit.sets import Ball, PerturbationSet, RotationTranslation

FEW = 5
"""With fewer examples than this there is no contest."""


def examine(threat: PerturbationSet, case: Case) -> SetReport:
    """Examine a model under one set; sets without gradients are searched blindly anyway.

    Args:
        threat: what the adversary may do.
        case: the model and the images it gets right, at least one.
    """
    if isinstance(threat, Ball):
        return _with_gradients(threat, case)
    if isinstance(threat, RotationTranslation):
        case.stages.begin("a grid of poses")
        return _searched(threat, case, case.reach(Grid(threat, 5, 15, loss=Margin())))
    case.stages.begin("a blind search")
    return _searched(threat, case, case.reach(WorstOfK(threat, case.effort.queries, Margin())))


def _with_gradients(threat: Ball, case: Case) -> SetReport:
    """Contests of attacks with and without gradients in a ball, and curves."""
    case.stages.begin("first-order attacks")
    first = first_order(case, threat)
    evidence = [*_randomness(case, first), *_company(case, first), _vanishing(case, threat)]
    standing = (~first.assessed.wrong).nonzero().squeeze(1)
    everything = first.assessed.wrong.clone()
    if len(standing) >= FEW:
        case.stages.begin("first-order attacks again")
        part = case.take(standing)
        control = first_order(part, threat).assessed
        clean = part.assess(part.x)
        everything[standing] |= control.wrong
        evidence.append(_restarts(control.wrong, len(case.x)))
        all_of_them, won = list[Result](), False
        for remedy in remedies(part, threat):
            case.stages.begin(remedy.name.split(",")[0])
            all_of_them.append(_apply(remedy, part))
            names, reached = (remedy.name, FIRST_ORDER), all_of_them[-1].assessed
            contest = Contest.between(names, len(case.x), clean, control, reached)
            evidence.append(_weigh(contest, remedy.advice))
            won |= contest.won
        case.stages.begin("labels alone")
        labels = labels_alone(part, threat, control, len(case.x), FIRST_ORDER)
        evidence.append(labels.evidence)
        together = worst(all_of_them).assessed
        if not won:
            evidence += _together(part, threat, len(case.x), control, together, len(all_of_them))
        everything[standing] |= together.wrong | labels.wrong
    case.stages.begin("curves")
    evidence += curves(case, threat)
    found = {
        "first-order": proportion(~first.assessed.wrong),
        "everything": proportion(~everything),
    }
    return SetReport(threat, tuple(evidence), found)


def _together(
    case: Case, ball: Ball, total: int, control: Assessed, together: Assessed, many: int
) -> list[Evidence]:
    """Where no challenger wins alone: all of them, against as many runs of the first-order attack.

    Costs nothing where even a single run of the control is not beaten.
    """
    clean = case.assess(case.x)
    names = (f"all {many} challengers together", f"{FIRST_ORDER} in {many} runs")
    if not Contest.between(names, total, clean, control, together).leads(LAST_LEVEL):
        return []
    wrong = control.wrong.clone()
    for _ in range(many - 1):
        wrong |= first_order(case, ball).assessed.wrong
    contest = Contest.between(names, total, clean, control._replace(wrong=wrong), together)
    proof = contest.leads(LAST_LEVEL)
    counts = f"{names[0]} break {contest.gained} of {contest.entered} that {names[1]} does not "
    counts += f"(the other way {contest.lost})"
    weight = Weight.PROOF if proof else Weight.FINE
    advice = "Gradients lose to attacks that need none: add all of these to the evaluation."
    return [Evidence("all challengers together", counts, weight, advice if proof else "")]


def _apply(remedy: Remedy, case: Case) -> Result:
    """Run a remedy; a surrogate that imitates learns from its own attempts and tries again."""
    results = [case.reach(attack, remedy.model) for attack in remedy.attacks]
    if remedy.name.startswith("transfer") and case.lesson is not None:
        for _ in range(2):
            _learn(case, case.lesson, [image for image, _ in results])
            results += [case.reach(attack, remedy.model) for attack in remedy.attacks]
    return worst(results)


def _learn(case: Case, lesson: Lesson, images: list[Tensor]) -> None:
    assert case.surrogate is not None
    lesson.add(torch.cat(images))
    lesson.teach(case.surrogate, 4)


def _restarts(broken: Tensor, total: int) -> Evidence:
    """What a fresh start of the same attacks adds: it should be next to nothing."""
    more = int(broken.sum())
    finding = f"started once more, gradient attacks break {more} of the {len(broken)} left"
    weight = Weight.SIGN if more >= max(4, 0.1 * total) else Weight.FINE
    return Evidence("restarts", finding, weight, "Take more restarts." if weight else "")


def _weigh(contest: Contest, advice: str) -> Evidence:
    """What a contest says: a challenger that wins proves that gradients mislead."""
    weight = Weight.PROOF if contest.won else Weight.FINE
    name = contest.challenger.split(",")[0]
    return Evidence(name, contest.words(), weight, advice if contest.won else "")


def _vanishing(case: Case, ball: Ball) -> Evidence:
    """Whether cross-entropy fails where the margin succeeds, and because its gradient is zero.

    If so cross-entropy is tried again at a temperature: if that too breaks more, flat softmax was
    all that stood in its way.
    """
    losses = (CrossEntropy(), Margin())
    reached = [case.reach(APGD(ball, case.effort.steps, loss)).assessed for loss in losses]
    clean, total = case.assess(case.x), len(case.x)
    contest = Contest.between(("the margin loss", "cross-entropy"), total, clean, *reached)
    zero = [
        (raw_slope(case.model, loss, case.x, case.y).gradient.flatten(1) == 0).all(1)
        for loss in losses
    ]
    blind = zero[0] & ~zero[1]
    finding = f"{contest.words()}; only the gradient of cross-entropy is zero for "
    finding += f"{float(blind.double().mean()):.0%}"
    proof = contest.won and float(blind.double().mean()) >= 0.1
    if proof:
        cooled = TemperatureScaled(case.sanitized, float(-clean.margin.median()) / 4)
        other = case.reach(APGD(ball, case.effort.steps, CrossEntropy()), cooled).assessed
        words = (f"cross-entropy at temperature {cooled.temperature:.3g}", "at 1")
        finding += f"; {Contest.between(words, total, clean, reached[0], other).words()}"
    sign = contest.gained - contest.lost >= 0.15 * total and contest.leads(LAST_LEVEL)
    weight = Weight.PROOF if proof else Weight.SIGN if sign else Weight.FINE
    advice = "Attack the margin or the logits ratio, or divide the logits by a temperature."
    return Evidence(
        "cross-entropy against margin", finding, weight, advice if weight else "", proportion(blind)
    )


def _randomness(case: Case, first: Result) -> list[Evidence]:
    """For a random model: whether an attack's success is still one when it is judged afresh."""
    if case.draws == 1:
        return []
    image, _ = first
    again = [(case.sanitized(image).argmax(1) != case.y) for _ in range(case.draws)]
    share = torch.stack(again).double().mean(0)
    torn = (share > 0) & (share < 1)
    proof = int(torn.sum()) >= max(3, 0.05 * len(torn))
    finding = f"asked again, the verdict on {float(torn.double().mean()):.0%} of the attacked "
    finding += "images is not always the same"
    advice = "Report the mean over fresh draws, and attack the mean logits (EOT)."
    weight = Weight.PROOF if proof else Weight.FINE
    return [
        Evidence("repeated judgement", finding, weight, advice if proof else "", proportion(torn))
    ]


@torch.no_grad()
def _company(case: Case, first: Result) -> list[Evidence]:
    """Whether an attacked image stays what it is when its batch-mates are clean images."""
    if case.draws > 1 or len(case.x) < FEW:
        return []
    image, assessed = first
    wrong = torch.empty_like(assessed.wrong)
    order = torch.arange(len(image), device=image.device)
    for rows in torch.split(order, max(1, len(image) // 8)):
        mixed = case.x.clone()
        mixed[rows] = image[rows]
        wrong[rows] = case.assess(mixed).wrong[rows]
    changed = wrong != assessed.wrong
    proof = int(changed.sum()) >= max(3, 0.05 * len(changed))
    finding = f"among clean images, {float(changed.double().mean()):.0%} of the attacked images "
    finding += "are judged otherwise"
    advice = "Fix the statistics of normalization layers (eval mode)."
    weight = Weight.PROOF if proof else Weight.FINE
    return [
        Evidence("attacked batch-mates", finding, weight, advice if proof else "",
                 proportion(changed))
    ]  # fmt: skip


def _searched(threat: PerturbationSet, case: Case, found: Result) -> SetReport:
    """A set that is searched without gradients: nothing to hide, but randomness still misleads."""
    again = case.reach(WorstOfK(threat, case.effort.queries // 2, Margin()))
    both = found.assessed.wrong | again.assessed.wrong
    evidence = [
        *_randomness(case, found),
        *_company(case, found),
        Evidence("blind by nature", "this set is searched without gradients, which hides nothing"),
    ]
    rates = {"first-order": proportion(~found.assessed.wrong), "everything": proportion(~both)}
    return SetReport(threat, tuple(evidence), rates)
