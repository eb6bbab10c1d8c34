"""The examination of one perturbation set: contests and curves, and what they weigh."""

from __future__ import annotations

import torch
from torch import Tensor

from mpkit.attacks import APGD, CrossEntropy, GreedyPixels, Grid, Margin, WorstOfK
from mpkit.core.statistics import Estimate, proportion
from mpkit.masking.adaptive import FIRST_ORDER, Remedy, first_order, remedies
from mpkit.masking.case import Case, Result, worst
from mpkit.masking.curves import curves
from mpkit.masking.label_only import labels_alone
from mpkit.masking.probes import raw_slope, share
from mpkit.masking.report import LAST_LEVEL, Contest, Evidence, SetReport, Weight
from mpkit.masking.wrappers import Assessed, TemperatureScaled
from mpkit.sets import L0, Ball, PerturbationSet, RotationTranslation

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
    if isinstance(threat, L0):
        case.stages.begin("whole pixels")
        return _searched(threat, case, case.reach(GreedyPixels(threat)))
    case.stages.begin("a blind search")
    return _searched(threat, case, case.reach(WorstOfK(threat, case.effort.queries, Margin())))


def _with_gradients(threat: Ball, case: Case) -> SetReport:
    """Contests of attacks with and without gradients in a ball, and curves."""
    case.stages.begin("first-order attacks")
    first = first_order(case, threat)
    evidence = [*_randomness(case, first), *_of_the_batch(case, first), _vanishing(case, threat)]
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
    return SetReport(threat, tuple(evidence), _rates(first.assessed.wrong, everything))


def _rates(first: Tensor, everything: Tensor) -> dict[str, Estimate]:
    """Accuracies where these (B,) bool were broken by first-order attacks, and by everything."""
    return {"first-order": proportion(~first), "everything": proportion(~everything)}


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
    counts = f"{names[0]} break {contest.gained} of {contest.entered} that {names[1]} does not "
    counts += f"(the other way {contest.lost})"
    weight = Weight.PROOF if contest.leads(LAST_LEVEL) else Weight.FINE
    advice = "Gradients lose to attacks that need none: add all of these to the evaluation."
    return [Evidence("all challengers together", counts, weight, advice)]


def _apply(remedy: Remedy, case: Case) -> Result:
    """Run a remedy; a surrogate that imitates learns from its own attempts and tries again."""
    results = [case.reach(attack, remedy.model) for attack in remedy.attacks]
    if remedy.name.startswith("transfer") and case.lesson is not None:
        assert case.surrogate is not None
        for _ in range(2):
            case.lesson.add(torch.cat([image for image, _ in results]))
            case.lesson.teach(case.surrogate, 4)
            results += [case.reach(attack, remedy.model) for attack in remedy.attacks]
    return worst(results)


def _restarts(broken: Tensor, total: int) -> Evidence:
    """What a fresh start of the same attacks adds: it should be next to nothing."""
    more = int(broken.sum())
    finding = f"started once more, gradient attacks break {more} of the {len(broken)} left"
    weight = Weight.SIGN if more >= max(4, 0.1 * total) else Weight.FINE
    return Evidence("restarts", finding, weight, "Take more restarts.")


def _weigh(contest: Contest, advice: str) -> Evidence:
    """What a contest says: a challenger that wins proves that gradients mislead."""
    weight = Weight.PROOF if contest.won else Weight.FINE
    return Evidence(contest.challenger.split(",")[0], contest.words(), weight, advice)


def _vanishing(case: Case, ball: Ball) -> Evidence:
    """Whether cross-entropy fails where the margin succeeds, and because its gradient is zero.

    If so cross-entropy is tried again at a temperature: if that too breaks more, flat softmax was
    all that stood in its way.
    """
    losses = (CrossEntropy(), Margin())
    reached = [case.reach(APGD(ball, case.effort.steps, loss)).assessed for loss in losses]
    clean, total = case.assess(case.x), len(case.x)
    contest = Contest.between(("the margin loss", "cross-entropy"), total, clean, *reached)
    slopes = [raw_slope(case.model, loss, case.x, case.y).gradient for loss in losses]
    zero, other_zero = ((slope.flatten(1) == 0).all(1) for slope in slopes)
    blind = zero & ~other_zero
    words, sign = share(blind)
    finding = f"{contest.words()}; only the gradient of cross-entropy is zero for {words}"
    weight = Weight.PROOF if contest.won and sign else Weight.FINE
    if weight:
        cooled = TemperatureScaled(case.sanitized, float(-clean.margin.median()) / 4)
        other = case.reach(APGD(ball, case.effort.steps, CrossEntropy()), cooled).assessed
        names = (f"cross-entropy at temperature {cooled.temperature:.3g}", "at 1")
        finding += f"; {Contest.between(names, total, clean, reached[0], other).words()}"
    elif contest.gained - contest.lost >= 0.15 * total and contest.leads(LAST_LEVEL):
        weight = Weight.SIGN
    advice = "Attack the margin or the logits ratio, or divide the logits by a temperature."
    return Evidence("cross-entropy against margin", finding, weight, advice, proportion(blind))


def _randomness(case: Case, first: Result) -> list[Evidence]:
    """For a random model: whether a success is still one if the model is asked afresh."""
    if case.draws == 1:
        return []
    wrong = [case.sanitized(first.image).argmax(1) != case.y for _ in range(case.draws)]
    torn = torch.stack(wrong).any(0) & ~torch.stack(wrong).all(0)
    finding = f"asked again, the verdict on {share(torn)[0]} of the attacked images is not always "
    finding += "the same"
    advice = "Report the mean over fresh draws, and attack the mean logits (EOT)."
    return [Evidence("repeated answers", finding, _several(torn), advice, proportion(torn))]


def _several(which: Tensor) -> Weight:
    """A proof, where it is so for one attacked image in twenty, and for three."""
    return Weight.PROOF if int(which.sum()) >= max(3, 0.05 * len(which)) else Weight.FINE


@torch.no_grad()
def _of_the_batch(case: Case, first: Result) -> list[Evidence]:
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
    finding = f"among clean images, {share(changed)[0]} of the attacked images change class"
    advice = "Fix the statistics of normalization layers (eval mode)."
    return [
        Evidence("attacked batch-mates", finding, _several(changed), advice, proportion(changed))
    ]


def _searched(threat: PerturbationSet, case: Case, found: Result) -> SetReport:
    """A set that is searched without gradients: nothing to hide, but randomness still misleads."""
    again = case.reach(WorstOfK(threat, case.effort.queries // 2, Margin()))
    both = found.assessed.wrong | again.assessed.wrong
    evidence = [
        *_randomness(case, found),
        *_of_the_batch(case, found),
        Evidence("blind by nature", "this set is searched without gradients, which hides nothing"),
    ]
    return SetReport(threat, tuple(evidence), _rates(found.assessed.wrong, both))
