"""What all examinations of one model share: the model made safe, its images, what was prepared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpkit.attacks import Attack
from mpkit.attacks.gradients import Model
from mpkit.core.checks import require_positive
from mpkit.core.progress import Quiet
from mpkit.core.trees import pick
from mpkit.masking.bpda import BPDA
from mpkit.masking.surrogate import Lesson
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
        queries: forward passes of the blind search.
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
        bpda: the model with a detour for gradients, if one was found.
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
    bpda: BPDA | None = None
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
        image = attack(model or self.sanitized, self.x, self.y, self.rng).image
        return Result(image, self.assess(image))


def worst(results: Sequence[Result]) -> Result:
    """Image by image the worst of several results: a wrong answer first, then the margin."""
    (image, (margin, wrong)), *others = results
    for other, (higher, broken) in others:
        better = (broken & ~wrong) | ((broken == wrong) & (higher > margin))
        image = pick(better.view(-1, 1, 1, 1), other, image)
        margin, wrong = torch.where(better, higher, margin), wrong | broken
    return Result(image, Assessed(margin, wrong))
