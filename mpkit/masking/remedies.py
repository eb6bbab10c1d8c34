"""What competes with gradients: detours and what goes with them, searches that need none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpkit.attacks import (
    APGD,
    FMN,
    PGD,
    Attack,
    Boundary,
    BoundaryStart,
    Clean,
    CrossEntropy,
    Falling,
    GreedyPixels,
    HopSkipJump,
    Margin,
    Pointwise,
    Square,
    Uniform,
    WorstOfK,
)
from mpkit.attacks.gradients import Model, evaluating
from mpkit.core import trees
from mpkit.core.statistics import proportion
from mpkit.masking.adaptive import NES, TransferPGD
from mpkit.masking.case import Case, Contest, Result, worst
from mpkit.masking.detours import Detour
from mpkit.masking.evidence import Evidence, Weight
from mpkit.masking.probes import share
from mpkit.masking.wrappers import (
    EOT,
    Assessed,
    Contenders,
    LogScores,
    Sanitized,
    TemperatureScaled,
)
from mpkit.models import QueryCounter
from mpkit.sets import L1, L2, Ball, Linf

FIRST_ORDER = "the first-order attack"


class Search(NamedTuple):
    """An attack and what it runs on; None for the model itself, made safe."""

    attack: Attack
    model: nn.Module | None = None


class Remedy(NamedTuple):
    """A way to attack that does not rely on the model's own gradient; succeeds where any run does.

    Args:
        name: what it is.
        kind: a key of the causes that its success speaks for.
        runs: attacks, each on the model or on another in its stead.
    """

    name: str
    kind: str
    runs: tuple[Search, ...]

    def apply(self, case: Case) -> Result:
        """What all runs reach; a surrogate that imitates learns from its attempts and repeats."""
        results = [case.reach(*run) for run in self.runs]
        if self.kind == "transfer" and case.lesson is not None:
            assert case.surrogate is not None
            for _ in range(2):
                case.lesson.add(torch.cat([image for image, _ in results]))
                case.lesson.teach(case.surrogate, 4)
                results += [case.reach(*run) for run in self.runs]
        return worst(results)

    def scaled(self, factor: float) -> Remedy:
        """The same in a ball of so many times the radius."""
        runs = (Search(_scaled(a, factor), model) for a, model in self.runs)
        return self._replace(runs=tuple(runs))

    def longer(self, factor: int) -> Remedy:
        """The same with so many times the steps, where an attack has a number of them."""
        runs = (Search(_longer(a, factor), model) for a, model in self.runs)
        return self._replace(runs=tuple(runs))


def _scaled(attack: Attack, factor: float) -> Attack:
    """An attack in a smaller or larger ball."""
    assert isinstance(attack.set, Ball)
    return replace(attack, set=attack.set.scaled(factor))  # type: ignore[type-var]


def _longer(attack: Attack, factor: int) -> Attack:
    """An attack that searches so many times as long."""
    names = {field.name for field in fields(attack)}  # type: ignore[arg-type]
    size = next((name for name in ("steps", "tries") if name in names), None)
    if size is None:
        return attack
    return replace(attack, **{size: factor * getattr(attack, size)})  # type: ignore[type-var]


def plain(case: Case, ball: Ball) -> Remedy:
    """What gradients give: Auto-PGD on two losses and plain PGD, each from a fresh start."""
    steps = case.effort.steps
    return Remedy(
        FIRST_ORDER, "first", (Search(APGD(ball, steps, CrossEntropy())), *_climbs(ball, steps))
    )


def remedies(case: Case, ball: Ball) -> Iterator[Remedy]:
    """All that apply to a model, the cheap ones first."""
    effort, steps = case.effort, case.effort.steps
    if case.draws > 1:
        mean = EOT(case.sanitized, effort.draws, 0.0, case.rng)
        name = "averaging over the model's randomness (EOT)"
        yield Remedy(name, "chance", _climbs(ball, steps // 2 + 1, mean))
    yield Remedy("random noise", "noise", (Search(WorstOfK(ball, steps, Margin())),))
    if case.alive is not None:
        yield Remedy("the margin over classes that win", "dead", _climbs(ball, steps, _in(case)))
    if case.positive:
        logs = _in(case, LogScores(case.model))  # type: ignore[arg-type]
        yield Remedy("the logarithm of the outputs", "outputs", _climbs(ball, steps, logs))
    kinds = dict.fromkeys(detour.kind for detour in case.detours)
    for kind in kinds:
        alike = [detour for detour in case.detours if detour.kind == kind]
        runs = tuple(run for detour in alike for run in _around(case, ball, detour))
        yield Remedy(alike[0].name, kind, runs)
    spread = EOT(_in(case), effort.draws, 0.1, case.rng)
    name = "gradients averaged over noise on the image"
    yield Remedy(name, "shattered", _climbs(ball, steps // 2 + 1, spread))
    yield from _without_gradients(case, ball)


def _without_gradients(case: Case, ball: Ball) -> Iterator[Remedy]:
    """Attacks that only look at outputs, of a random model at averaged ones, and far starts."""
    effort, share = case.effort, 4 if case.draws > 1 else 1
    asked = _in(case)
    if case.surrogate is not None:
        guided = tuple(Search(one, asked) for one in _guided(ball, effort.steps, case.surrogate))
        yield Remedy("transfer from a surrogate network", "transfer", guided)
    nes = NES(ball, -(-effort.estimates // share), directions=effort.directions)
    yield Remedy("averaged finite differences", "differences", (Search(nes, asked),))
    square = Square(ball, -(-effort.queries // share))
    yield Remedy("a gradient-free search (Square)", "blind", (Search(square, asked),))
    near = tuple(Search(FMN(ball, effort.steps, start=BoundaryStart(n)), asked) for n in (0, 2, 8))
    yield Remedy("a search from the border to near images", "border", near)
    if isinstance(ball, L1 | L2):
        tries, most = 2 * (effort.steps // 2 + 1), 24 if isinstance(ball, L1) else 16
        pixels = GreedyPixels(ball, most, tries, swaps=4)
        yield Remedy("whole pixels, greedily", "pixels", (Search(pixels, asked),))


def _in(case: Case, model: nn.Module | None = None) -> nn.Module:
    """A model as a search needs it: safe, without dead classes, averaged over its draws."""
    safe: nn.Module = case.sanitized if model is None else Sanitized(model)
    safe = safe if case.alive is None else Contenders(safe, case.alive)
    return EOT(safe, case.effort.draws, 0.0, case.rng) if case.draws > 1 else safe


def _around(case: Case, ball: Ball, detour: Detour) -> Iterator[Search]:
    """Attacks by a detour: through it where its values are the model's own, else guided by it."""
    guide, steps = _in(case, detour.guide), case.effort.steps
    steps = steps // 2 + 1 if case.draws > 1 else steps
    if not detour.exact:
        yield from (Search(attack, _in(case)) for attack in _guided(ball, steps, guide))
    yield from _climbs(ball, steps, guide)
    if case.flat:
        lead = float(-case.assess(case.x).margin.median()) / 4
        yield Search(APGD(ball, steps, CrossEntropy()), TemperatureScaled(guide, lead))


def _climbs(ball: Ball, steps: int, model: nn.Module | None = None) -> tuple[Search, ...]:
    """Two first-order attacks on the margin."""
    falling = PGD(ball, steps, loss=Margin(), schedule=Falling(0.05))
    return Search(APGD(ball, steps, Margin()), model), Search(falling, model)


def _guided(ball: Ball, steps: int, guide: nn.Module) -> Iterator[Attack]:
    """Follow another network's gradient, from the image itself and from a random start."""
    for start in (Clean(), Uniform()):
        yield TransferPGD(ball, steps, guide=Sanitized(guide), start=start)


def contenders(
    model: Model, x: Tensor, y: Tensor, called: Tensor, rng: torch.Generator
) -> tuple[Tensor | None, Evidence]:
    """Which classes occur or ever win, (K,) bool None for all; and whether others are in the way.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: images that it gets right.
        y: (B,) their labels.
        called: (N,) classes that it names for other images.
        rng: draws starting points.
    """
    name = "classes that never win"
    far = PGD(Linf(0.3), 10, loss=Margin())(Sanitized(model), x, y, rng).image
    with evaluating(model), torch.no_grad():
        logits = model(x).to(x.dtype)
        tried = torch.cat([model(image).argmax(1) for image in (far, 1 - x, x.roll(1, 0))])
    alive = logits.new_zeros(logits.shape[1]).bool()
    alive[torch.cat([y, tried, called])] = True
    if bool(alive.all()):
        return None, Evidence(name, "all classes win somewhere")
    second = logits.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1)
    blocked = ~alive[second]
    words, weight = share(blocked)
    finding = f"{int((~alive).sum())} of {len(alive)} classes never win, and one of these is "
    finding += f"second for {words} of the images"
    return alive, Evidence(name, finding, weight, "", proportion(blocked))


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
