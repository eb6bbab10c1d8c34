"""The examination of one perturbation set: contests and curves, and what they weigh."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mpkit.attacks import APGD, PGD, CrossEntropy, GreedyPixels, Grid, Margin, WorstOfK
from mpkit.core.statistics import Estimate, proportion
from mpkit.masking.active import active
from mpkit.masking.case import LAST_LEVEL, LEVEL, Case, Contest, Result, at_least, worst
from mpkit.masking.curves import curves
from mpkit.masking.evidence import Evidence, Weight
from mpkit.masking.probes import FEW, among_clean, raw_slope, redrawn, share
from mpkit.masking.remedies import FIRST_ORDER, Remedy, labels_alone, plain, remedies
from mpkit.masking.report import SetReport
from mpkit.masking.wrappers import Assessed, TemperatureScaled
from mpkit.sets import L0, Ball, PerturbationSet, RotationTranslation


def examine(threat: PerturbationSet, case: Case) -> SetReport:
    """Examine a model under one set, by gradients and without; some sets know no gradient.

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
    case.stages.begin("a gradient-free search")
    return _searched(threat, case, case.reach(WorstOfK(threat, case.effort.queries, Margin())))


def _with_gradients(threat: Ball, case: Case) -> SetReport:
    """Contests of attacks with and without gradients in a ball, a last push, and curves."""
    case.stages.begin("first-order attacks")
    first = plain(case, threat).apply(case)
    vanishing = _vanishing(case, threat)
    assert vanishing.rate is not None
    case = replace(case, flat=vanishing.rate.value >= 0.1, donors=case.x)
    evidence = [*redrawn(case, first), *among_clean(case, first), vanishing]
    evidence += _planted(case, threat)
    standing = (~first.assessed.wrong).nonzero().squeeze(1)
    everything, left, settled = first.assessed.wrong.clone(), "", None
    if len(standing) >= FEW:
        found, wrong, tried = _contests(threat, case.take(standing), len(case.x))
        evidence += found
        everything[standing] |= wrong
        case.stages.begin("a last push")
        everything, left, settled = _push(case, everything, tried)
    if case.misled:
        evidence.append(_usual(case, threat, everything))
    case.stages.begin("curves")
    try:
        evidence += curves(case, threat)
    except Exception as error:  # whatever a model raises
        evidence.append(Evidence("curves", _failed(error), Weight.NOT_RUN))
    rates = _rates(first.assessed.wrong, everything)
    return SetReport(threat, tuple(evidence), rates, left=left, settled=settled)


Tried = list[tuple[Remedy, Result]]  # ways to attack, and what each reached on the same images


def _contests(threat: Ball, part: Case, total: int) -> tuple[list[Evidence], Tensor, Tried]:
    """Everything that competes with a second run of the first-order attacks, on what these left."""
    part.stages.begin("first-order attacks again")
    usual = plain(part, threat)
    again = usual.apply(part)
    control, clean = again.assessed, part.assess(part.x)
    evidence, won, tried = [_restarts(control.wrong, total)], False, [(usual, again)]
    for remedy in remedies(part, threat):
        part.stages.begin(remedy.name.split(",")[0])
        try:
            result = remedy.apply(part)
        except Exception as error:  # whatever a model raises under an attack it was not made for
            name, why = remedy.name.split(",")[0], _failed(error)
            evidence.append(Evidence(name, why, Weight.NOT_RUN, kind=remedy.kind))
            continue
        tried.append((remedy, result))
        names = (remedy.name, FIRST_ORDER)
        contest = Contest.between(names, total, clean, control, result.assessed)
        evidence.append(_weigh(contest, remedy.kind))
        won |= contest.won
    part.stages.begin("labels alone")
    labels = labels_alone(part, threat, control, total, FIRST_ORDER)
    evidence.append(labels.evidence)
    others = [result for _, result in tried[1:]]
    together = worst(others).assessed
    if not won:
        evidence += _together(part, threat, total, control, together, len(others))
    return evidence, control.wrong | together.wrong | labels.wrong, tried


def _usual(case: Case, ball: Ball, broken: Tensor) -> Evidence:
    """Where gradients are seen to mislead: what everything breaks beyond what is usually run.

    Args:
        case: all images.
        broken: (B,) bool, those that anything has broken.
    """
    attacks = PGD(ball, case.effort.steps), APGD(ball, case.effort.steps, CrossEntropy())
    usual = worst([case.reach(attack) for attack in attacks]).assessed.wrong
    gained, lost = int((broken & ~usual).sum()), int((usual & ~broken).sum())
    names = "PGD and Auto-PGD on the cross-entropy do"
    finding = f"everything breaks {gained} of {len(broken)} that {names} not (the other way {lost})"
    won = gained - lost >= max(3, 0.04 * len(broken)) and at_least(gained, gained + lost) < LEVEL
    advice = "Gradients mislead here: the usual attacks overestimate robust accuracy."
    return Evidence("usual attacks", finding, Weight.PROOF if won else Weight.FINE, advice)


def _push(case: Case, broken: Tensor, tried: Tried) -> tuple[Tensor, str, bool]:
    """The best ways found, run longer and longer on what is left, until that breaks no more.

    The best is what broke most; beside it runs what adds most to it.

    Args:
        case: all images.
        broken: (B,) bool, those that anything has broken yet.
        tried: the ways that were found and what they reached.

    Returns: who is broken in the end, what happened in words, and whether it has settled: the
    last and longest run, from a fresh start, broke at most one image in a hundred, and so did a
    run in a ball that is a little smaller, where a search that is complete finds none.
    """
    best = max(tried, key=lambda one: int(one[1].assessed.wrong.sum()))
    second = max(
        tried, key=lambda one: int((one[1].assessed.wrong & ~best[1].assessed.wrong).sum())
    )
    ways = [best[0], *([second[0]] if second is not best else [])]
    broken, more, inside = broken.clone(), list[int](), 0
    try:
        for factor in PUSHES:
            if bool(broken.all()) or (more and not more[-1]):
                break
            more.append(_more(case, broken, [way.longer(factor) for way in ways]))
        if more:
            inside = _more(case, broken, [way.scaled(INSIDE) for way in ways])
    except Exception as error:  # whatever a model raises
        return broken, f"may fall further: the last push was {_failed(error)}", False
    name = " and ".join(way.name.split(",")[0] for way in ways)
    counts = (f"{n} more at {factor} times" for factor, n in zip(PUSHES, more, strict=False))
    what = f"{name} breaks {', '.join(counts)} the steps, {inside} at {INSIDE:g} times the radius"
    if not more:
        return broken, "nothing is left", True
    settled = max(more[-1], inside) <= 0.01 * len(case.x)
    words = "looks final" if settled else "may fall further"
    return broken, f"{words}: {what}", settled


def _more(case: Case, broken: Tensor, ways: list[Remedy]) -> int:
    """How many more some ways break of what is left; these are added to the broken (B,)."""
    rows = (~broken).nonzero().squeeze(1)
    if not len(rows):
        return 0
    part = case.take(rows)
    wrong = worst([way.apply(part) for way in ways]).assessed.wrong
    broken[rows] = wrong
    return int(wrong.sum())


PUSHES, INSIDE = (2, 4, 8), 0.9
"""How many times as long the best attack runs; it stops where that breaks nothing more."""


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
        wrong |= plain(case, ball).apply(case).assessed.wrong
    contest = Contest.between(names, total, clean, control._replace(wrong=wrong), together)
    counts = f"{names[0]} break {contest.gained} of {contest.entered} that {names[1]} does not "
    counts += f"(the other way {contest.lost})"
    weight = Weight.PROOF if contest.leads(LAST_LEVEL) else Weight.FINE
    advice = "Gradients lose to attacks that need none: add all of these to the evaluation."
    return [Evidence("all challengers together", counts, weight, advice)]


def _restarts(broken: Tensor, total: int) -> Evidence:
    """What a fresh start of the same attacks adds: it should be next to nothing."""
    more = int(broken.sum())
    finding = f"started once more, gradient attacks break {more} of the {len(broken)} left"
    weight = Weight.SIGN if more >= max(4, 0.1 * total) else Weight.FINE
    return Evidence("restarts", finding, weight, "Take more restarts.")


def _weigh(contest: Contest, kind: str) -> Evidence:
    """What a contest says: a challenger that wins proves that gradients mislead."""
    weight = Weight.PROOF if contest.won else Weight.FINE
    name, gained = contest.challenger.split(",")[0], contest.gained
    return Evidence(name, contest.words(), weight, kind=kind, gained=gained)


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
        weight = Weight.SIGN if sign else Weight.TIP
    advice = "Attack the margin or the logits ratio, or divide the logits by a temperature."
    return Evidence("cross-entropy against margin", finding, weight, advice, proportion(blind))


def _planted(case: Case, threat: PerturbationSet) -> list[Evidence]:
    """The active test where answers repeat; a proof where the gradient is seen to fail as well."""
    if case.draws > 1:
        return []
    try:
        found = active(case.sanitized, case.x, case.y, threat, case.rng, case.effort)
    except Exception as error:  # whatever a model raises
        return [Evidence("planted examples", _failed(error), Weight.NOT_RUN)]
    if not case.misled:
        return list(found.values())
    seen = "the attack misses what is there, and its gradient was seen to fail"
    return [
        replace(e, weight=Weight.PROOF, finding=f"{e.finding}: {seen}")
        if e.weight == Weight.SIGN
        else e
        for e in found.values()
    ]


def _failed(error: Exception) -> str:
    """Why something was not run to the end, in one line."""
    return f"not run to the end: {(str(error) or repr(error)).splitlines()[0]}"


def _searched(threat: PerturbationSet, case: Case, found: Result) -> SetReport:
    """A set that is searched without gradients: nothing to hide, but randomness still misleads."""
    again = case.reach(WorstOfK(threat, case.effort.queries // 2, Margin()))
    both = found.assessed.wrong | again.assessed.wrong
    evidence = [
        *redrawn(case, found),
        *among_clean(case, found),
        *_planted(case, threat),
        Evidence("no gradient to hide", "this set is searched without gradients"),
    ]
    return SetReport(threat, tuple(evidence), _rates(found.assessed.wrong, both))
