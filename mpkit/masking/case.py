"""What all examinations of one model share: the model made safe, its images, fair contests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import comb
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpkit.attacks import Attack
from mpkit.attacks.gradients import Model
from mpkit.core.checks import require_positive
from mpkit.core.progress import Quiet
from mpkit.core.trees import pick
from mpkit.masking.adaptive import Lesson
from mpkit.masking.detours import Detour
from mpkit.masking.wrappers import Assessed, Sanitized, assess


class Result(NamedTuple):
    """The images that an attack found (B, C, H, W), and the model's own answers to them."""

    image: Tensor
    assessed: Assessed


@dataclass(frozen=True)
class Effort:
    """How long the doctor tries; cost grows in proportion.

    Args:
        steps: gradients of each first-order attack.
        queries: forward passes of the gradient-free search.
        estimates: steps of the search along averaged finite differences.
        directions: Gaussian directions of each of them.
        draws: calls that are averaged for a random model, or over noise on the image.
        decisions: images shown to the attacks that see labels alone, about a thousand questions
            each; 0 leaves them out.

    Raises: ValueError: if a number is not positive, or decisions negative.
    """

    steps: int = 40
    queries: int = 400
    estimates: int = 24
    directions: int = 48
    draws: int = 8
    decisions: int = 24

    def __post_init__(self) -> None:
        require_positive("Effort", **{**vars(self), "decisions": self.decisions or 1})


class Stages:
    """A part of the way, of a length fixed beforehand, however many stages it has in the end."""

    def __init__(self, progress: Quiet, length: int) -> None:
        self.progress, self.left = progress, length

    def begin(self, note: str) -> None:
        """A stage begins."""
        step = min(1, self.left)
        self.left -= step
        self.progress.advance(step, note)

    def close(self) -> None:
        """The end of the part is reached."""
        self.progress.advance(self.left, "")
        self.left = 0


@dataclass(frozen=True)
class Case:
    """A model on the sickbed.

    Args:
        model: the model as it was given.
        sanitized: the same, never without a finite gradient.
        x: (B, C, H, W), images that it gets right.
        y: (B,) their labels.
        rng: the only source of randomness.
        effort: how long to try.
        draws: how often the model is asked: 1, or more for a random model.
        detours: other ways for the gradient that were found.
        alive: (K,) bool, classes that occur in labels or win somewhere; None where all do.
        positive: whether no output is negative, as of probabilities or exponentials.
        flat: whether the gradient of cross-entropy vanishes where that of the margin does not.
        misled: whether the gradient was seen to mislead, before any set was looked at.
        donors: (M, C, H, W), images of all classes near which a search may begin.
        surrogate: a plain network to attack in its stead, if there is one.
        lesson: what the surrogate goes on learning from, if it imitates.
        stages: is told what begins.
    """

    model: Model
    sanitized: Sanitized
    x: Tensor
    y: Tensor
    rng: torch.Generator
    effort: Effort
    draws: int = 1
    detours: tuple[Detour, ...] = ()
    alive: Tensor | None = None
    positive: bool = False
    flat: bool = False
    misled: bool = False
    donors: Tensor | None = None
    surrogate: nn.Module | None = None
    lesson: Lesson | None = None
    stages: Stages = field(default_factory=lambda: Stages(Quiet(), 0))

    def take(self, rows: Tensor) -> Case:
        """The same model with some of the images."""
        return replace(self, x=self.x[rows], y=self.y[rows])

    def assess(self, image: Tensor) -> Assessed:
        """What the model as it was given makes of images, one for each of the case."""
        return assess(self.model, image, self.y, self.draws)

    def reach(self, attack: Attack, model: Model | None = None) -> Result:
        """Attack the sanitized model, or another in its stead; then ask the model."""
        image = attack(model or self.sanitized, self.x, self.y, self.rng, self.donors).image
        return Result(image, self.assess(image))


def worst(results: Sequence[Result]) -> Result:
    """Image by image the worst of several results: a wrong answer first, then the margin."""
    (image, (margin, wrong)), *others = results
    for other, (higher, broken) in others:
        better = (broken & ~wrong) | ((broken == wrong) & (higher > margin))
        image = pick(better.view(-1, 1, 1, 1), other, image)
        margin, wrong = torch.where(better, higher, margin), wrong | broken
    return Result(image, Assessed(margin, wrong))


LEVEL = 0.002
"""Chance of a false alarm that a single comparison may have; there are some ten for each set."""

LAST_LEVEL = 0.01
"""The same for the one comparison in which all challengers take part together."""

MATERIAL = 0.1
"""A margin counts as raised further if it was raised by this share more."""


def at_least(k: int, n: int) -> float:
    """The chance of k or more heads in n throws of a fair coin: the one-sided sign test."""
    return float(sum(comb(n, i) for i in range(k, n + 1)) / 2**n)


@dataclass(frozen=True)
class Contest:
    """A challenger against a control attack of a comparable cost, both named, on the same examples.

    Args:
        total: examples that the model gets right without an attack.
        entered: examples that took part.
        gained: broken by the challenger and not by the control.
        lost: broken by the control and not by the challenger.
        higher: the challenger raised the margin further, by a material amount.
        lower: the control did.
    """

    challenger: str
    control: str
    total: int
    entered: int
    gained: int
    lost: int
    higher: int
    lower: int

    @classmethod
    def between(
        cls, names: tuple[str, str], total: int, clean: Assessed, first: Assessed, second: Assessed
    ) -> Contest:
        """Compare what a control (first) and a challenger (second) reached from the clean images.

        Args:
            names: of the challenger and of the control.
            total: examples that the model gets right without an attack.
            clean: the examples without an attack, as many rows as the others.
        """
        way, further = first.margin - clean.margin, second.margin - clean.margin
        more = MATERIAL * (way.abs() + further.abs()) / 2 + 1e-6 * clean.margin.abs()
        counts = (
            second.wrong & ~first.wrong,
            first.wrong & ~second.wrong,
            further > way + more,
            way > further + more,
        )
        return cls(*names, total, len(way), *(int(count.sum()) for count in counts))

    @property
    def breaks(self) -> bool:
        """Whether the challenger breaks more: sign test, and at least one example in 25."""
        return self.leads(LEVEL)

    def leads(self, level: float) -> bool:
        """Whether the challenger breaks more, at a level of its own."""
        enough = self.gained - self.lost >= max(3, 0.04 * self.total)
        return enough and at_least(self.gained, self.gained + self.lost) < level

    @property
    def climbs(self) -> bool:
        """Whether it raises more margins: sign test, and a lead of a third of the examples."""
        enough = self.higher - self.lower >= self.entered / 3
        return enough and at_least(self.higher, self.higher + self.lower) < LEVEL

    @property
    def won(self) -> bool:
        """Whether the challenger is better in one of the two ways."""
        return self.breaks or self.climbs

    def words(self) -> str:
        """The counts in one sentence."""
        return (
            f"{self.challenger} breaks {self.gained} of {self.entered} that {self.control} does "
            f"not (the other way {self.lost}), and raises the margin further on {self.higher} "
            f"(less far on {self.lower})"
        )
