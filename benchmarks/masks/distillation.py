"""Defensive distillation: the best known network that hid its gradients without meaning to.

A teacher learns at a high temperature, a student of the same shape learns the teacher's
probabilities at that temperature, and goes to work at temperature 1. Its logits are then so far
apart that softmax rounds to 0 and 1 and the cross-entropy has no gradient. Carlini and Wagner 2017
broke it by attacking the logits. It is teaching material and a patient for the masking doctor;
use it nowhere as a defence.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mpkit.attacks.gradients import evaluating
from mpkit.core.checks import require_positive
from mpkit.data import Images
from mpkit.training import Recipe, Scheme, fit

RECIPE = Recipe(epochs=20, batch=128)


@dataclass(frozen=True)
class Tempered(Scheme):
    """The cross-entropy of logits divided by a temperature, with labels or a teacher's answers.

    Args:
        temperature: > 0.
        teacher: its probabilities at that temperature are learned; None for the labels.

    Raises:
        ValueError: if the temperature is not positive.

    Source: Papernot et al. 2016, section IV.
    """

    temperature: float
    teacher: nn.Module | None = None

    def __post_init__(self) -> None:
        require_positive("Tempered", temperature=self.temperature)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The cross-entropy of every example at the temperature."""
        target = y
        if self.teacher is not None:
            with torch.no_grad(), evaluating(self.teacher):
                target = (self.teacher(x) / self.temperature).softmax(1)
        return cross_entropy(model(x) / self.temperature, target, reduction="none")


def distil(
    teacher: nn.Module,
    student: nn.Module,
    learn: Images,
    rng: torch.Generator,
    temperature: float = 100.0,
    recipe: Recipe = RECIPE,
) -> nn.Module:
    """Train a teacher on the labels and a student on the teacher, both at a temperature.

    Args:
        teacher: untrained, images to logits; trained here.
        student: untrained, of the same number of classes; trained here.
        learn: the training images, where the networks are.
        rng: drives both runs.
        temperature: of both runs, > 0.
        recipe: of both runs.

    Returns: the student in eval mode, its logits at temperature 1.

    Raises:
        ValueError: if the temperature is not positive.
    """
    fit(teacher, learn, Tempered(temperature), recipe, rng)
    fit(student, learn, Tempered(temperature, teacher.eval()), recipe, rng)
    return student.eval()
