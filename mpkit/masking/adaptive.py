"""The attacks the doctor compares: what everybody runs, and those that need no true gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpkit.attacks import (
    APGD,
    PGD,
    Attack,
    AttackResult,
    Clean,
    CrossEntropy,
    Falling,
    Loss,
    Margin,
    Square,
    Uniform,
    WorstOfK,
)
from mpkit.attacks.base import Best, Problem
from mpkit.attacks.gradients import Guarded, Model, climb, guard, look
from mpkit.attacks.pgd import StepSchedule, Walk
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.masking.case import Case, Result, worst
from mpkit.masking.wrappers import EOT, Sanitized
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
    attacks = (APGD(ball, steps, CrossEntropy()), *_climbs(ball, steps))
    return worst([case.reach(attack) for attack in attacks])


def remedies(case: Case, ball: Ball) -> Iterator[Remedy]:
    """All that apply to a model, the cheap ones first."""
    effort, steps = case.effort, case.effort.steps
    if case.draws > 1:
        yield Remedy(
            "averaging over the model's randomness (EOT)",
            "Average logits and gradients over many draws in every attack.",
            _climbs(ball, steps // 2 + 1),
            EOT(case.sanitized, effort.draws, 0.0, case.rng),
        )
    yield Remedy(
        "random noise",
        "Gradients do worse than chance: find the layer that spoils them.",
        (WorstOfK(ball, steps, Margin()),),
    )
    if case.bpda is not None:
        yield Remedy(
            f"a detour for gradients (BPDA), {'; '.join(case.bpda.found)}",
            "Attack with that part passed as the identity.",
            tuple(_guided(ball, steps, case.bpda)),
        )
    yield Remedy(
        "gradients averaged over noise on the image",
        "The gradient is shattered: average it over noise on the image.",
        _climbs(ball, steps // 2 + 1),
        EOT(case.sanitized, effort.draws, 0.1, case.rng),
    )
    yield from _without_gradients(case, ball)


def _without_gradients(case: Case, ball: Ball) -> Iterator[Remedy]:
    """Attacks that only look at outputs; of a random model, at averaged ones."""
    effort, random = case.effort, case.draws > 1
    share = 4 if random else 1
    asked = EOT(case.sanitized, effort.draws, 0.0, case.rng) if random else None
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
        (NES(ball, -(-effort.estimates // share), directions=effort.directions),),
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
    return (APGD(ball, steps, Margin()), PGD(ball, steps, loss=Margin(), schedule=Falling(0.05)))


def _guided(ball: Ball, steps: int, guide: nn.Module) -> Iterator[Attack]:
    """Follow another network's gradient, from the image itself and from a random start."""
    for start in (Clean(), Uniform()):
        yield TransferPGD(ball, steps, guide=Sanitized(guide), start=start)


@dataclass(frozen=True)
class Directed(PGD):
    """Projected ascent whose direction is an estimate; each point is scored by the model itself.

    Settings are those of PGD.

    Raises: ValueError: if steps or step is not positive.
    """

    loss: Loss = field(default_factory=Margin)
    schedule: StepSchedule = field(default_factory=lambda: Falling(0.05))

    @abstractmethod
    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """A direction in which the loss should grow, (B, C, H, W)."""

    def advance(self, problem: Problem, state: Walk, k: int) -> Walk:
        """Look at the current point, step along the estimate, project."""
        image = self.set.apply(problem.x, state.z)
        here = Best.at(problem, self.loss, state.z, image)
        (factor,) = problem.pace or self.pace(k)
        length = self.length(image) * factor
        z = state.z + self.stride(image, self.uphill(problem, image, k), length)
        return Walk(self.set.project(problem.x, z), state.best.or_better(here))


@dataclass(frozen=True)
class TransferPGD(Directed):
    """Ascent along the gradient of another network: a surrogate, or the model with a detour.

    Settings are those of PGD, and a guide.

    Args:
        guide: the network whose gradient is followed; in eval mode, on the device of the images.

    Raises: ValueError: if there is no guide, or a number is not positive.
    """

    guide: Model | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guide is None:
            raise ValueError(
                "TransferPGD: needs the network whose gradient it follows; give guide=..."
            )

    def find(self, problem: Problem) -> AttackResult:
        """Guard the guide once: to do it reads the labels, for which a GPU is waited for."""
        if self.guide is None or isinstance(self.guide, Guarded):
            return super().find(problem)
        guarded = guard(self.guide, self.loss.classes, problem.y)
        return replace(self, guide=guarded).find(problem)

    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """The guide's own gradient."""
        assert self.guide is not None
        return climb(self.guide, self.loss, image, problem.y).gradient


@dataclass(frozen=True)
class NES(Directed):
    """Ascent along finite differences averaged over Gaussian directions; needs no gradient.

    The estimate is the gradient of the loss smoothed over a neighbourhood, so that it sees slopes
    across flat steps and through wiggles. The width of the neighbourhood goes round through
    several scales, since the size of the steps is not known.

    Settings are those of PGD, where a step is an estimate, and two more.

    Args:
        directions: Gaussian directions of an estimate, each looked at from both sides, > 0.
        scales: standard deviations in pixel units, taken in turn.

    Raises: ValueError: if a number is not positive.

    Source: Ilyas et al. 2018 (natural evolution strategies), with widths of our own choice.
    """

    directions: int = 32
    scales: tuple[float, ...] = (0.03, 0.1, 0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("NES", directions=self.directions)

    def kind(self, k: int) -> Hashable:
        """Which of the scales is in turn."""
        return k % len(self.scales)

    def uphill(self, problem: Problem, image: Tensor, k: int) -> Tensor:
        """The averaged finite difference."""
        scale = self.scales[k % len(self.scales)]
        total = torch.zeros_like(image)
        pairs = max(1, min(self.directions, 2048 // len(image)))
        for done in range(0, self.directions, pairs):
            n = min(pairs, self.directions - done)
            shape = (n, *image.shape)
            way = torch.randn(shape, generator=problem.rng, dtype=image.dtype, device=image.device)
            total += (way * self._rise(problem, image, scale * way)).sum(0)
        return total

    def _rise(self, problem: Problem, image: Tensor, step: Tensor) -> Tensor:
        """Loss after each step (n, B, C, H, W) minus that after its opposite: (n, B, 1, 1, 1)."""
        n = len(step)
        rows = torch.arange(len(image), device=image.device).repeat(2 * n)
        asked = torch.cat([image + step, image - step]).clamp(0, 1).flatten(0, 1)
        loss = trees.take(self.loss, rows)
        score = look(problem.model, loss, asked, problem.y[rows])[1].view(2, n, -1)
        rise: Tensor = score[0] - score[1]
        return rise.view(n, -1, 1, 1, 1)
