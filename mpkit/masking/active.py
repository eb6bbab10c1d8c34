"""The active test: plant an adversarial example in the set, and ask whether an attack finds one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.attacks import APGD, PGD, Attack, Falling, GreedyPixels, Grid, Loss, SpatialPGD, WorstOfK
from mpkit.attacks.gradients import Model, attacking
from mpkit.core import trees
from mpkit.core.statistics import Estimate, proportion
from mpkit.masking.case import Effort
from mpkit.masking.evidence import Evidence, Weight
from mpkit.masking.wrappers import EOT, Sanitized
from mpkit.sets import L0, Ball, PerturbationSet, RotationTranslation

LEAST = 10
"""With fewer planted examples there is nothing to be said."""

DRAWS = 64
"""Points of the set among which the plant is the one that goes furthest."""

FOUND = 0.9
"""An attack that surely finds a smaller share of the plants than this is not to be believed."""


@dataclass(frozen=True)
class Planted(Loss):
    """Where a linear read-out of the logits passes a level: an adversarial example by construction.

    Args:
        way: (B, K), a direction in the logits for each example.
        level: (B,), what has to be passed along it.
    """

    way: Tensor
    level: Tensor

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """How far the level is passed: (B,), positive exactly where the goal is reached."""
        return (logits * self.way.to(logits)).sum(1) - self.level.to(logits)

    def reached(self, logits: Tensor, y: Tensor) -> Tensor:
        """Where the level is passed: (B,) bool."""
        return self(logits, y) > 0

    def toward(self, target: Any) -> Planted:
        """There is one goal and no classes.

        Raises: ValueError: always.
        """
        raise ValueError("Planted: has no targets; attack it as it is")


class Plant(NamedTuple):
    """Planted examples: coordinates z of the set, and the loss that they alone of all draws pass.

    ``there`` is (B,) bool: false where no draw went further than the clean image.
    """

    z: Any
    loss: Planted
    there: Tensor


def plant(
    model: Model, x: Tensor, threat: PerturbationSet, rng: torch.Generator, draws: int = DRAWS
) -> Plant:
    """Draw points of a set and make the one that goes furthest in a random direction adversarial.

    The level lies half way between it and the next of the draws, the clean image among them, so
    that one point of the set surely passes it and the others do not.

    Args:
        model: images (B, C, H, W) to logits (B, K), in eval mode.
        x: (B, C, H, W) in [0, 1].
        threat: where to draw.
        rng: draws points and directions.
        draws: at least 2.

    Raises: ValueError: if there are too few draws.

    Source: Zimmermann et al. 2022, where a new last layer is trained to tell points inside of the
    set from one at its border; here the read-out is a random direction and nothing is trained.
    """
    if draws < 2:
        raise ValueError(f"plant: draws must be at least 2, got {draws}; try {DRAWS}")
    with torch.no_grad():
        clean = model(x)
        way = torch.randn(clean.shape, generator=rng, dtype=x.dtype, device=x.device).to(clean)
        spread = clean.std(0)
        way = torch.where(spread > 1e-6 * spread.amax(), way / spread, 0)  # no dead outputs
        best, top = threat.zero(x), (clean * way).sum(1)
        second, drawn = torch.full_like(top, -torch.inf), torch.zeros_like(top).bool()
        for _ in range(draws):
            z = threat.sample(x, rng)
            score = (model(threat.apply(x, z)) * way).sum(1)
            higher = score > top
            second = torch.where(higher, top, torch.maximum(second, score))
            best = trees.where(higher, z, best)
            top, drawn = torch.where(higher, score, top), drawn | higher
    level = (top + second) / 2
    return Plant(best, Planted(way, level), drawn & (top > level) & (level >= second))


def searches(threat: PerturbationSet, effort: Effort, loss: Loss) -> tuple[Attack, ...]:
    """What is put to the test in one set that is no union: the attacks an evaluation would run."""
    if isinstance(threat, Ball):
        falling = PGD(threat, effort.steps, loss=loss, schedule=Falling(0.05))
        return APGD(threat, effort.steps, loss), falling
    if isinstance(threat, RotationTranslation):
        return Grid(threat, 5, 15, loss=loss), SpatialPGD(threat, effort.steps, loss=loss)
    if isinstance(threat, L0):
        return (GreedyPixels(threat, loss=loss),)
    return (WorstOfK(threat, effort.queries, loss),)


def active(
    model: Model,
    x: Tensor,
    y: Tensor,
    threat: PerturbationSet,
    rng: torch.Generator,
    effort: Effort | None = None,
    draws: int = 1,
) -> dict[str, Evidence]:
    """For each member of a threat model: does its attack find what is known to be there?

    An attack fails the test if the interval of its success lies below 90 %: then it misses what is
    surely in the set, and its robust accuracies there mean nothing. That it passes says that it
    climbs this network's logits; a loss that hides its gradient behind them is not looked at.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W) in [0, 1]; fifty images do well.
        y: (B,) int64 labels.
        threat: a set, or a union, whose members are tested one by one.
        rng: draws plants and starts.
        effort: how long to try; None for the usual.
        draws: calls that are averaged for a random model.

    Returns: a piece of evidence for each member, by its words, with the rate of plants found.
    """
    effort = effort or Effort()
    safe: Any = Sanitized(model)
    safe = EOT(safe, draws, 0.0, rng) if draws > 1 else safe
    found = {}
    for part in threat.parts():
        with attacking(model):
            planted = plant(safe, x, part, rng)
        reached = torch.zeros_like(y, dtype=torch.bool)
        for attack in searches(part, effort, planted.loss):
            image = attack(safe, x, y, rng).image
            with attacking(model), torch.no_grad():
                reached |= planted.loss.reached(safe(image), y)
        found[part.describe()] = _told(reached[planted.there])
    return found


def _told(reached: Tensor) -> Evidence:
    """The share of plants that was found, in words."""
    if len(reached) < LEAST:
        return Evidence("planted examples", "logits hardly move in the set", Weight.NOT_RUN)
    rate: Estimate = proportion(reached)
    finding = f"of {len(reached)} planted examples the attack finds {int(reached.sum())}"
    weight = Weight.SIGN if rate.high < FOUND else Weight.FINE
    advice = "The attack misses what is surely there: do not believe its robust accuracy."
    return Evidence("planted examples", finding, weight, advice, rate)
