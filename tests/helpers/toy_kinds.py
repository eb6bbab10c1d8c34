"""A ball and an attack as a stranger adds them: this file, a line in each face, a row for each.

``pytest -p helpers.toy_kinds`` runs the laws with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from helpers import every
from mpkit import attacks, sets
from mpkit.attacks import Attack, AttackResult, CrossEntropy, Loss
from mpkit.attacks.base import Best, Problem
from mpkit.sets import Ball
from mpkit.sets.norms import per_row
from mpkit.sets.projections import clip_to_box


@dataclass(frozen=True)
class Fading(Ball, form="fading:R"):
    """An l_inf ball whose radius falls from eps in its first row to half of it in the last."""

    order = float("inf")

    def weight(self, z: Tensor) -> Tensor:
        return torch.linspace(1, 0.5, z.shape[2], dtype=z.dtype, device=z.device).view(-1, 1)

    def bound(self, z: Tensor) -> Tensor:
        return per_row(self.eps, z) * self.weight(z)

    def norm(self, z: Tensor) -> Tensor:
        return (z.abs() / self.weight(z)).flatten(1).amax(1)

    def dual_norm(self, g: Tensor) -> Tensor:
        return (g.abs() * self.weight(g)).flatten(1).sum(1)

    def direction(self, g: Tensor) -> Tensor:
        return g.sign() * self.weight(g)

    def shrink(self, z: Tensor) -> Tensor:
        return torch.clamp(z, -self.bound(z), self.bound(z))

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        return clip_to_box(self.shrink(z), x)

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        share = torch.rand(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        return self.project(x, (2 * share - 1) * self.bound(x))


@dataclass(frozen=True)
class OneStep(Attack):
    """A single step to the border of the ball along the gradient (Goodfellow et al. 2015)."""

    set: Ball
    loss: Loss = field(default_factory=CrossEntropy)

    def find(self, problem: Problem) -> AttackResult:
        x = problem.x
        best, gradient = Best.with_slope(problem, self.loss, self.set.zero(x), x)
        z = self.set.project(x, self.set.steepest(gradient))
        best = best.or_better(Best.at(problem, self.loss, z, self.set.apply(x, z)))
        return AttackResult(self.set.apply(x, best.z), best.z, best.score)


sets.Fading, attacks.OneStep = Fading, OneStep  # the lines in the faces
every.SETS["fading"] = Fading(0.2)
every.ATTACKS["one_step"] = every.Row(OneStep(Fading(0.2)))
