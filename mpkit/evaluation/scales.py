"""The smallest scale at which one set breaks each example of a batch: searches and halvings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.attacks import FMN, BoundaryStart, Loss, Margin
from mpkit.attacks.gradients import Model, attacking, climb, guard
from mpkit.evaluation.adversarial import Found
from mpkit.evaluation.evaluate import FiniteGradients, answer, evaluate
from mpkit.evaluation.ledger import Ledger
from mpkit.evaluation.resume import Unit
from mpkit.evaluation.suites import Budget, standard
from mpkit.sets import Ball, PerturbationSet

NARROW = 1e-3
"""Halving ends where the scale is known to this share of itself."""
FLATTER = 8
"""Steps to nearer points of the border, by the network's slope, after each success in a ball."""
HALVINGS = 14
"""Of the way between a point that breaks and one that should, to the border."""
TARGETS = 9
"""Wrong classes, at most, towards which the network's slope is followed from the image."""


class Lead(NamedTuple):
    """Logit of a class for each example minus the logit of its label."""

    target: Tensor
    classes: int = 2

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K) against labels (B,): (B,), positive where the class leads."""
        pair = [logits.gather(1, one.unsqueeze(1)).squeeze(1) for one in (self.target, y)]
        return pair[0] - pair[1]


class Search:
    """One set on one batch: scales at which examples broke, and those at which they did not."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        part: PerturbationSet,
        budget: Budget | str,
        classes: int,
        rng: torch.Generator,
    ) -> None:
        self.model, self.x, self.y, self.part = FiniteGradients(model), x, y, part
        self.budget, self.classes, self.rng = budget, classes, rng
        self.broken = torch.full((len(x),), torch.inf, dtype=torch.float64)
        self.held = torch.zeros(len(x), dtype=torch.float64)
        self.z = torch.zeros_like(x)  # of the smallest break, in a ball
        self.asked = torch.zeros(len(x), dtype=torch.float64)

    def run(self, most: float, rounds: int) -> Tensor:
        """The smallest scales that were found: (B,) float64."""
        with attacking(self.model), torch.no_grad():
            self.broken[answer(self.model, self.x, self.y)[0]] = 0
        self.probe(torch.ones_like(self.broken), self.broken > 0)
        self.borders(most)
        for _ in range(rounds):
            low, high = self.held, self.broken.clamp(max=most)
            half = torch.where(self.broken.isinf(), high, (low + high) / 2)
            open_ = (high - low > NARROW * high) & (high > 0)
            if not bool(open_.any()):
                break
            self.probe(half, open_)
        return self.broken

    def probe(self, scale: Tensor, chosen: Tensor) -> None:
        """Run the suite on some examples with the budgets times (B,) scales."""
        rows = chosen.nonzero().squeeze(1)
        if not len(rows):
            return
        here, self.rows, self.asked = rows.to(self.x.device), rows, scale
        suite = standard(self.part.scaled(scale[rows].to(self.x)), self.budget, self.classes)
        evaluate(
            self.model, self.x[here], self.y[here], suite, self.rng, batch=len(rows), keep=self
        )
        still = rows[self.broken[rows] > scale[rows]]
        self.held[still] = torch.maximum(self.held[still], scale[still])
        self.flatten(rows[self.broken[rows] <= scale[rows]])

    def begin(self, ledger: Ledger) -> None:
        """An evaluation of the suite begins."""

    def __call__(self, unit: Unit, rows: Tensor, images: Tensor, found: Found) -> None:
        """Note what the suite broke; a scale is at most that which was asked for."""
        self.note(self.rows[rows], found.plain, self.asked[self.rows[rows]])

    def note(self, rows: Tensor, z: Tensor, most: Tensor | None = None) -> Tensor:
        """Keep successes (n,) that are smaller than those so far; which are, (n,) bool."""
        scale = self.part.gauge(self.x[rows.to(self.x.device)], z).cpu()
        scale = scale if most is None else torch.minimum(scale, most)
        less = scale < self.broken[rows]
        self.broken[rows[less]] = scale[less]
        if isinstance(self.part, Ball):
            self.z[rows[less]] = z[less.to(z.device)].to(self.z)
        return less

    def wrong(self, rows: Tensor, z: Tensor) -> Tensor:
        """Whether the network errs on some examples moved by z (n, C, H, W): (n,) bool."""
        here = rows.to(self.x.device)
        return answer(self.model, self.x[here] + z.to(self.x), self.y[here])[0]

    def borders(self, most: float) -> None:
        """Minimum-norm searches in a ball, from the image and from near images of other classes."""
        rows = (self.broken > 0).nonzero().squeeze(1)
        if not isinstance(self.part, Ball) or not len(rows):
            return
        here = rows.to(self.x.device)
        x, y = self.x[here], self.y[here]
        with attacking(self.model), torch.no_grad():
            for z in self.linear(x, y):
                self.offer(rows, z)
        for nth in (0, 1):
            start = BoundaryStart(nth)
            near = FMN(self.part.everything(x).scaled(most), 40, start=start)
            self.offer(rows, near(self.model, x, y, self.rng).z)
        self.flatten(rows)

    def offer(self, rows: Tensor, z: Tensor) -> None:
        """Note what breaks of the coordinates (n, C, H, W), brought into the box."""
        here = rows.to(self.x.device)
        z = (self.x[here] + z.to(self.x)).clamp(0, 1) - self.x[here]
        wrong = self.wrong(rows, z)
        self.note(rows[wrong], z[wrong.to(z.device)])

    def linear(self, x: Tensor, y: Tensor) -> Iterator[Tensor]:
        """Towards each likely class the least point that breaks the network's linear part."""
        assert isinstance(self.part, Ball)
        guarded = guard(self.model, 2, y)
        logits = guarded(x).scatter(1, y.unsqueeze(1), -torch.inf)
        for target in logits.topk(min(TARGETS, logits.shape[1] - 1), dim=1).indices.unbind(1):
            z = torch.zeros_like(x)
            for _ in range(3):
                z = self.step(guarded, Lead(target), x, y, z, beyond=1e-5)
                yield z

    def step(
        self, model: Model, loss: Loss | Lead, x: Tensor, y: Tensor, z: Tensor, beyond: float
    ) -> Tensor:
        """The least z in the box where the loss, were it linear from z on, is a little over 0."""
        assert isinstance(self.part, Ball)
        _, score, slope = climb(model, loss, x + z, y)  # type: ignore[arg-type]
        need = (slope.double() * z.double()).flatten(1).sum(1) - score.double()
        return self.part.least(x, slope, need + beyond * need.abs()).to(x)

    def flatten(self, rows: Tensor) -> None:
        """Go along the border to nearer points as long as that gains, from the smallest breaks."""
        if not isinstance(self.part, Ball):
            return
        with attacking(self.model), torch.no_grad():
            for _ in range(FLATTER):
                rows = rows[self.broken[rows].isfinite() & (self.broken[rows] > 0)]
                if not len(rows):
                    return
                here = rows.to(self.x.device)
                x, y, far = self.x[here], self.y[here], self.z[here]
                guarded = guard(self.model, 2, y)
                near = self.step(guarded, Margin(), x, y, far, beyond=1e-6)
                for _ in range(HALVINGS):
                    wrong = self.wrong(rows, near).to(x.device).view(-1, 1, 1, 1)
                    far, near = (
                        torch.where(wrong, near, far),
                        torch.where(wrong, near, near.lerp(far, 0.5)),
                    )
                    if bool(wrong.all()):
                        break
                before = self.broken[rows].clone()
                self.offer(rows, far)
                rows = rows[self.broken[rows] < before * (1 - 1e-6)]
