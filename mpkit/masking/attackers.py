"""The attacks the doctor compares: what everybody runs, and those that need no true gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from mpkit.attacks import APGD, PGD, Clean, Falling, Square, Uniform
from mpkit.engine import Attack
from mpkit.losses import CrossEntropy, Margin
from mpkit.masking.case import Case, Result, worst
from mpkit.masking.steered import Guided, Smoothed
from mpkit.masking.tame import Averaged, Tame
from mpkit.search import WorstOfK
from mpkit.sets import Ball

FIRST_ORDER = "the first-order attack"


class Remedy(NamedTuple):
    """An attack that does not rely on the model's own gradient, and what its success means.

    Args:
        name: what it is.
        advice: what to do if it does better than gradients.
        attacks: it succeeds where any of them does.
        model: what they run on; None for the model itself, made safe.
    """

    name: str
    advice: str
    attacks: tuple[Attack, ...]
    model: nn.Module | None = None


def first_order(case: Case, ball: Ball) -> Result:
    """What gradients give: Auto-PGD on two losses and plain PGD, each from a fresh start."""
    steps = case.effort.steps
    attacks = (
        APGD(ball, steps, CrossEntropy()),
        APGD(ball, steps, Margin()),
        PGD(ball, steps, loss=Margin(), schedule=Falling(0.05)),
    )
    return worst([case.reach(attack) for attack in attacks])


def remedies(case: Case, ball: Ball) -> Iterator[Remedy]:
    """All that apply to a model, the cheap ones first."""
    effort, steps = case.effort, case.effort.steps
    if case.draws > 1:
        yield Remedy(
            "averaging over the model's randomness (EOT)",
            "Average logits and gradients over many draws in every attack.",
            _climbs(ball, steps // 2 + 1),
            Averaged(case.tame, effort.draws, 0.0, case.rng),
        )
    yield Remedy(
        "random noise",
        "Gradients do worse than chance: find the layer that spoils them.",
        (WorstOfK(ball, steps, Margin()),),
    )
    if case.bypass is not None:
        yield Remedy(
            f"a detour for gradients (BPDA), {'; '.join(case.bypass.found)}",
            "Attack with that part passed as the identity.",
            tuple(_guided(ball, steps, case.bypass)),
        )
    yield Remedy(
        "gradients averaged over noise on the image",
        "The gradient is shattered: average it over noise on the image.",
        _climbs(ball, steps // 2 + 1),
        Averaged(case.tame, effort.draws, 0.1, case.rng),
    )
    yield from _without_gradients(case, ball)


def _without_gradients(case: Case, ball: Ball) -> Iterator[Remedy]:
    """Attacks that only look at outputs; of a random model, at averaged ones."""
    effort, asked = case.effort, None
    share = 1 if case.draws == 1 else 4
    if case.draws > 1:
        asked = Averaged(case.tame, effort.draws, 0.0, case.rng)
    if case.surrogate is not None:
        yield Remedy(
            "transfer from a surrogate network",
            "Attack a plain network in its stead and try the images on this one.",
            tuple(_guided(ball, effort.steps, case.surrogate)),
            asked,
        )
    yield Remedy(
        "averaged finite differences",
        "Estimate gradients from differences of the outputs.",
        (Smoothed(ball, -(-effort.estimates // share), directions=effort.directions),),
        asked,
    )
    yield Remedy(
        "a blind search (Square)",
        "Add gradient-free attacks to the evaluation.",
        (Square(ball, -(-effort.queries // share)),),
        asked,
    )


def _climbs(ball: Ball, steps: int) -> tuple[Attack, ...]:
    """Two first-order attacks on the margin."""
    return (
        APGD(ball, steps, Margin()),
        PGD(ball, steps, loss=Margin(), schedule=Falling(0.05)),
    )


def _guided(ball: Ball, steps: int, guide: nn.Module) -> Iterator[Attack]:
    """Follow another network's gradient, from the image itself and from a random start."""
    for start in (Clean(), Uniform()):
        yield Guided(ball, steps, guide=Tame(guide), start=start)
