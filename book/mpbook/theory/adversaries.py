"""The adversaries of the proofs as maps that can be run on samples.

Every adversary is called ``adversary(f, x, y, rng)``, with points x (N, d + 1) and labels y (N,) of
-1.0 and +1.0, and returns the attacked points (N, d + 1). The maps of the proofs ignore the
classifier f: that is what makes the theorems hold for every one. Amounts are in the units of the
features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mpbook.theory.gaussians import StrongPixel
from mpbook.theory.linear import Classifier, Linear, Reach

Adversary = Callable[[Classifier, Tensor, Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class ShiftWeak:
    """Move every weak feature by ``amount`` against the label; the strong one stays.

    With amount 2η this is theorem 1's l_inf adversary: N(ηy, 1) becomes N(-ηy, 1).
    """

    amount: float

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points with amount · y taken from x_1..x_d."""
        return torch.cat([x[:, :1], x[:, 1:] - self.amount * y[:, None]], dim=1)


@dataclass(frozen=True)
class FlipStrong:
    """Send x_0 to -x_0: theorem 1's l_1 adversary, at a cost of 2 |x_0| = 2."""

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points with the sign of their first feature changed."""
        return torch.cat([-x[:, :1], x[:, 1:]], dim=1)


class ShiftIfTrue(ShiftWeak):
    """Shift as ``ShiftWeak``, but only the points whose strong feature has the sign of the label.

    Half of the proof (ours) that R_inf + (2p - 1) R_other ≥ p: the points that a lying strong
    feature already spoils stay where they are, and stand where the others would be recognised.
    """

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points with amount · y taken from x_1..x_d where x_0 y > 0."""
        return torch.where((x[:, 0] * y > 0)[:, None], super().__call__(f, x, y, rng), x)


@dataclass(frozen=True)
class Lie:
    """Set x_0 to -y: the other half of that proof for theorem 1, at an l_1 cost of 2 or 0."""

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points with -y as their first feature."""
        return torch.cat([-y[:, None], x[:, 1:]], dim=1)


class Erase(ShiftWeak):
    """Set x_0 to 0 and move every weak feature by ``amount`` against the label (ours).

    With amount 1/d this costs 1 + 1 = 2 in l_1. The bit is gone, and what the weak features
    still say is worth a risk of Φ(1/√d - α): the floor under R_1.
    """

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points with 0 first and amount · y taken from x_1..x_d."""
        moved = super().__call__(f, x, y, rng)
        moved[:, 0] = 0
        return moved


def swap(x: Tensor, j: Tensor) -> Tensor:
    """A copy of x (N, d + 1) with x_0 and x_j exchanged; j (N,) is int64 in 0..d, 0 for no swap."""
    rows = torch.arange(len(x))
    swapped = x.clone()
    swapped[rows, 0], swapped[rows, j] = x[rows, j], x[rows, 0]
    return swapped


@dataclass(frozen=True)
class WorstSwap:
    """The swap of x_0 with one of x_1..x_n, or none, that hurts the classifier most (exact).

    Args:
        n: how many places x_0 can go to; n + 1 evaluations of a classifier that is not Linear.
    """

    n: int

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points of lowest y · f among the n + 1 candidates."""
        if isinstance(f, Linear):
            weight = f.weight.to(x)
            change = (weight[0] - weight[: self.n + 1]) * (x[:, : self.n + 1] - x[:, :1])
            return swap(x, (y[:, None] * change).argmin(dim=1))
        places = torch.arange(self.n + 1)[:, None].expand(-1, len(x))
        return swap(x, torch.stack([y * f(swap(x, j)) for j in places]).argmin(dim=0))


@dataclass(frozen=True)
class Plant:
    """Theorem 2's spatial adversary: it plants a strong pixel that speaks for the other label.

    Of x_1..x_N it chooses x_J with probability proportional to w(x_J), where w is the density of
    N(-y, s²) over that of N(ηy, 1), and swaps it with x_0. With many candidates the new x_0 is
    nearly N(-y, s²), and the old one is lost in the crowd. (The explicit adversary is ours; the
    paper argues that a suitable one exists.) The model gives N, s and η.
    """

    model: StrongPixel

    def log_weights(self, x: Tensor, y: Tensor) -> Tensor:
        """Log w of the N candidates of every point: x (n, d + 1) and y (n,) to (n, N)."""
        candidates, label = x[:, 1 : self.model.swaps + 1], y[:, None]
        return log_ratio(candidates, -label, self.model.s, self.model.eta * label)

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points after the swap."""
        chances = self.log_weights(x, y).softmax(dim=1)
        return swap(x, torch.multinomial(chances, 1, generator=rng)[:, 0] + 1)


def log_ratio(v: Tensor, mean: Tensor | float, sd: float, base: Tensor | float) -> Tensor:
    """Log of the density of N(mean, sd²) over that of N(base, 1), at every entry of v."""
    return ((v - base) ** 2 - ((v - mean) / sd) ** 2) / 2 - math.log(sd)


@dataclass(frozen=True)
class FrankWolfe:
    """Search a ball for a point that hurts a differentiable classifier.

    Each step moves from δ towards the ball's steepest point for the gradient, by 2 / (step + 2);
    iterates are averages of points of the ball, so no projection is needed, and on a linear
    classifier the first step is exact. The best point seen is returned. Source: Jaggi 2013,
    algorithm 1.

    Args:
        ball: where to search.
        steps: gradients per point, at least 1.
    """

    ball: Reach
    steps: int = 20

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points of lowest y · f among those visited, x included."""
        best, lowest = x, (y * f(x)).detach()
        delta = torch.zeros_like(x)
        for k in range(self.steps):
            point = (x + delta).detach().requires_grad_()
            (g,) = torch.autograd.grad((-y * f(point)).sum(), point)
            delta = delta + 2 / (k + 2) * (self.ball.steepest(g) - delta)
            score = (y * f(x + delta)).detach()
            best = torch.where((score < lowest)[:, None], x + delta, best)
            lowest = torch.minimum(score, lowest)
        return best.detach()


@dataclass(frozen=True)
class WorstOf:
    """Per point, the adversary out of several, at least one, that hurts the classifier most."""

    adversaries: tuple[Adversary, ...]

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points of lowest y · f among the adversaries' answers."""
        answers = torch.stack([adversary(f, x, y, rng) for adversary in self.adversaries])
        scores = torch.stack([(y * f(answer)).detach() for answer in answers])
        return answers[scores.argmin(dim=0), torch.arange(len(x))]
