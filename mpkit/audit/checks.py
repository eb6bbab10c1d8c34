"""The exact checks: what an attack returns is held against the set, the network and a second call.

Nothing here is statistics. What rounding in single precision can do is allowed for, and nothing
else: see ``tolerance`` and ``certain``.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from mpkit.attacks import Margin
from mpkit.audit.conformance import TOLERANCE
from mpkit.audit.findings import Finding, Sign, found
from mpkit.audit.problems import Case, Made, Remembering, ladder
from mpkit.audit.protocol import MalformedAttack, Outcome, Subject, Task
from mpkit.evaluation.verification import excess

BOX = 1e-6
"""By how much a pixel may be outside of [0, 1]."""
CERTAIN = 1e-5
"""Margin, as a share of the largest logit, below which a prediction may be a matter of rounding."""
Check = Callable[[Subject, Case], list[Sign]]


def tolerance(task: Task, pixels: int) -> float:
    """The excess over a radius, as a share of it, that is forgiven.

    1e-5 for the arithmetic of the attack, and half a unit in the last place of a pixel below 1 for
    each pixel, since images are returned in place of perturbations.

    Args:
        task: with the ball.
        pixels: C · H · W.
    """
    return TOLERANCE + float(pixels ** (1 / task.p) * 2**-24 / task.eps)


def lengths(task: Task, x: Tensor, image: Tensor) -> Tensor:
    """By how much each perturbation passes the radius, as a share of it, in float64: (B,)."""
    size: Tensor = (image.double() - x.double()).flatten(1).norm(p=task.p, dim=1)
    return size / task.eps - 1


def outcome(subject: Subject, made: Made) -> tuple[Outcome, Remembering]:
    """Run an attack on copies of the images, and keep what it asked the network."""
    seen = Remembering(made.model).eval()
    return subject(seen, made.x.clone(), made.y.clone(), made.task), seen


def of_one_run(subject: Subject, case: Case) -> list[Sign]:
    """What can be said of a single run: set, flags, what was forgotten, what comes along."""
    made = case.made()
    one, seen = outcome(subject, made)
    signs = list(_allowed(subject, made, one.image))
    if not any(sign.check == "numbers" for sign in signs):
        signs += _flags(subject, made, one)
        signs += _forgotten(made, one.image, seen) if subject.keeps else []
    if one.graph:
        signs.append(Sign("graph", "the returned tensor asks for gradients"))
    return signs


def _rows(marked: Tensor) -> tuple[int, ...]:
    return tuple(marked.nonzero().flatten().tolist())


def _allowed(subject: Subject, made: Made, image: Tensor) -> Iterator[Sign]:
    """Ball and box in float64."""
    fine = torch.isfinite(image).flatten(1).all(1)
    if not bool(fine.all()):
        yield Sign("numbers", f"{int((~fine).sum())} images", rows=_rows(~fine))
        return
    rows = image.double().flatten(1)
    out = torch.maximum(-rows.amin(1), rows.amax(1) - 1)
    if bool((out > BOX).any()):
        yield Sign("box", f"a pixel is {float(out.max()):.3g} outside", float(out.max()), _by(out))
    if subject.keeps:
        over = lengths(made.task, made.x, image)
        if bool((over > tolerance(made.task, rows.shape[1])).any()):
            worst = float(over.max())
            length = (1 + worst) * made.task.eps
            words = f"{made.task.norm} length {length:.7g} for radius {made.task.eps:g}"
            yield Sign("ball", f"{words}, {worst:.2g} too much", worst, _by(over))


def _by(amount: Tensor) -> tuple[int, ...]:
    """The row with the greatest amount, and then the next ones."""
    return tuple(amount.argsort(descending=True)[:3].tolist())


def certain(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Which images are surely called something else than y, and which surely y: (B,) bool each."""
    margin = Margin()(logits, y)
    least = CERTAIN * logits.abs().amax(1)
    return margin > least, margin < -least


def _flags(subject: Subject, made: Made, one: Outcome) -> Iterator[Sign]:
    """Success flags against a second prediction on the same batch."""
    if one.success is None:
        return
    with torch.no_grad():
        wrong, right = certain(made.model(one.image), made.y)
        wrong_before, right_before = certain(made.model(made.x), made.y)
    over = lengths(made.task, made.x, one.image)
    inside = over <= 0 if subject.keeps else torch.ones_like(wrong)
    claimed, denied = one.success & right, ~one.success & wrong & right_before & inside
    if bool((claimed | denied).any()):
        words = f"{int(claimed.sum())} successes that fail, {int(denied.sum())} that are not told"
        yield Sign("flag", words, rows=_rows(claimed | denied))
    counted = one.success & wrong_before & wrong
    if bool(counted.any()):
        words = f"{int(counted.sum())} of {int(wrong_before.sum())} clean errors are successes"
        yield Sign("clean errors", words, rows=_rows(counted))


def _forgotten(made: Made, image: Tensor, seen: Remembering) -> Iterator[Sign]:
    """Successes that the attack saw inside of the set, and did not return.

    Attacks may ask about their images in any order and number. What they asked belongs to the clean
    image in whose ball it lies, so rows whose ball meets another one are left out.
    """
    if not seen.asked:
        return
    asked, answers, task = torch.cat(seen.asked), torch.cat(seen.answers), made.task
    with torch.no_grad():
        _, fails = certain(made.model(image), made.y)
    rows = made.x.double().flatten(1)
    apart = torch.cdist(rows, rows, p=task.p) + torch.diag(torch.full((len(rows),), torch.inf))
    lost = torch.zeros(len(image), dtype=torch.bool)
    for i in _rows(fails & (apart.amin(1) > 2.001 * task.eps)):
        x, y = made.x[i : i + 1].expand_as(asked), made.y[i].expand(len(asked))
        wrong, _ = certain(answers, y)
        if bool(wrong.any()):
            z = asked[wrong].double() - x[wrong].double()
            lost[i] = bool((excess(task.ball, x[wrong].double(), z) <= 0).any())
    if bool(lost.any()):
        yield Sign("forgets", f"{int(lost.sum())} successes seen and lost", rows=_rows(lost))


def of_two_runs(subject: Subject, case: Case) -> list[Sign]:
    """The same call twice, from two states of the global generators."""
    images, states = [], []
    for other in (11, 12):
        made = case.made()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(other)
            images.append(outcome(subject, made)[0].image)
            states.append(torch.get_rng_state())
    signs = []
    apart = (images[0].double() - images[1].double()).abs().flatten(1).amax(1)
    if bool((apart > 0).any()):
        words = f"pixels differ by up to {float(apart.max()):.3g}"
        signs.append(Sign("seed", words, float(apart.max()), _by(apart)))
    if subject.own_seed and torch.equal(*states):
        signs.append(Sign("reseeds", "after two calls its state is the same, unlike before"))
    return signs


def of_an_easy_problem(subject: Subject, case: Case) -> list[Sign]:
    """Whether images come back as they were where a fifth of what is possible is enough.

    It is a violation only where the attack has not asked the network about any other image: a
    search that finds nothing may return what it began with.
    """
    made = case.made()
    one, seen = outcome(subject, made)
    same = torch.eq(one.image, made.x).flatten(1).all(1)
    if not bool(same.any()):
        return []
    looked = any(bool((images != made.x[:1]).any()) for images in seen.asked)
    told = f"{int(same.sum())} of {len(same)} images unchanged"
    words = f"{told}, {len(seen.asked)} calls of the model"
    name = "unmoved" if looked or not bool(same.all()) else "no-op"
    return [Sign(name, words, rows=_rows(same))]


def exact(subject: Subject, norm: str, steps: int, seeds: int = 2) -> list[Finding]:
    """All exact checks on the ladder of problems; each finding on the smallest that shows it.

    Args:
        subject: the attack.
        norm: of its ball.
        steps: gradients for each image.
        seeds: networks, images and draws for each size of image.
    """
    nets = list(ladder(norm, steps, seeds))
    easy = list(ladder(norm, steps, seeds, linear=True))
    plan: list[tuple[Check, list[Case]]] = [
        (of_one_run, nets),
        (of_two_runs, nets),
        (of_an_easy_problem, easy),
    ]
    findings: dict[str, Finding] = {}
    for check, cases in plan:
        for finding in _on_all(check, subject, cases):
            findings.setdefault(finding.check, finding)
    return list(findings.values())


def _on_all(check: Check, subject: Subject, cases: list[Case]) -> list[Finding]:
    """A check on all problems; where it fails, the first problem, with one image if that is enough.

    An error is a finding too: a violation where the attack fails on the largest images as well.
    """
    first: dict[str, tuple[Case, Sign]] = {}
    shown: dict[str, int] = {}
    for case in cases:
        signs = _tried(check, subject, case)
        if case.shape != cases[-1].shape:
            signs = [sign._replace(check=sign.check.replace("raises", "size")) for sign in signs]
        for sign in signs:
            first.setdefault(sign.check, (case, sign))
            shown[sign.check] = shown.get(sign.check, 0) + 1
    if "raises" in first:
        case, sign = first.pop("size", first["raises"])
        first["raises"] = (case, sign._replace(check="raises"))
        shown["raises"] += shown.pop("size", 0)
    findings = []
    for name, (case, sign) in first.items():
        here, least = case, sign
        for row in sign.rows[:3] or (0,):
            same = "raises" if name == "size" else name
            again = _tried(check, subject, case.alone(row))
            alone = [s for s in again if s.check == same]
            if alone:
                here, least = case.alone(row), alone[0]._replace(check=name)
                break
        findings.append(found(least, here, shown.get(name, 1), len(cases)))
    return findings


def _tried(check: Check, subject: Subject, case: Case) -> list[Sign]:
    try:
        return check(subject, case)
    except MalformedAttack:
        raise
    except (Exception, SystemExit) as error:  # whatever a library raises is a finding
        return [Sign("raises", told_briefly(error))]


def told_briefly(error: BaseException) -> str:
    """Class, first line and place of an error, without the folders of this machine."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    words = str(error).splitlines()[0] if str(error) else "without a word"
    return f"{type(error).__name__}: {words}{place}"
