"""The adversaries of the proofs as maps that can be run on samples.

Every adversary is called ``adversary(f, x, y, rng)`` and returns the attacked points (N, d + 1).
The maps of the proofs ignore the classifier: that is what makes the theorems hold for every one.
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

    Args:
        amount: how far, in the units of the features; it costs as much in l_inf.
    """

    amount: float

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points (N, d + 1) with amount · y taken from x_1..x_d."""
        moved = x.clone()
        moved[:, 1:] -= self.amount * y[:, None]
        return moved


@dataclass(frozen=True)
class FlipStrong:
    """Send x_0 to -x_0: theorem 1's l_1 adversary, at a cost of 2 |x_0| = 2."""

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points (N, d + 1) with the sign of their first feature changed."""
        moved = x.clone()
        moved[:, 0] = -moved[:, 0]
        return moved


@dataclass(frozen=True)
class ShiftIfTrue:
    """Shift as ``ShiftWeak``, but only the points whose strong feature has the sign of the label.

    Half of the proof (ours) that R_inf + (2p - 1) R_other ≥ p: the points that a lying strong
    feature already spoils stay where they are, and stand where the others would be recognised.

    Args:
        amount: how far, in the units of the features.
    """

    amount: float

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points (N, d + 1) with amount · y taken from x_1..x_d where x_0 y > 0."""
        return torch.where((x[:, 0] * y > 0)[:, None], ShiftWeak(self.amount)(f, x, y, rng), x)


@dataclass(frozen=True)
class Lie:
    """Set x_0 to -y: the other half of that proof for theorem 1, at an l_1 cost of 2 or 0."""

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points (N, d + 1) with -y as their first feature."""
        moved = x.clone()
        moved[:, 0] = -y
        return moved


@dataclass(frozen=True)
class Erase:
    """Set x_0 to 0 and move every weak feature by ``amount`` against the label (ours).

    With amount 1/d this costs 1 + 1 = 2 in l_1. The bit is gone, and what the weak features
    still say is worth a risk of Φ(1/√d - α): the floor under R_1.

    Args:
        amount: how far, in the units of the features.
    """

    amount: float

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points (N, d + 1) with 0 first and amount · y taken from x_1..x_d."""
        moved = ShiftWeak(self.amount)(f, x, y, rng)
        moved[:, 0] = 0
        return moved


def swap(x: Tensor, j: Tensor) -> Tensor:
    """Exchange x_0 with x_j in every row.

    Args:
        x: (N, d + 1).
        j: (N,) int64 in 0..d; 0 leaves the row as it is.

    Returns: (N, d + 1), a new tensor.
    """
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
        """The points (N, d + 1) of lowest y · f among the n + 1 candidates."""
        if isinstance(f, Linear):
            weight = f.weight.to(x)
            change = (weight[0] - weight[: self.n + 1]) * (x[:, : self.n + 1] - x[:, :1])
            return swap(x, (y[:, None] * change).argmin(dim=1))
        lowest, chosen = y * f(x), torch.zeros(len(x), dtype=torch.int64)
        for j in range(1, self.n + 1):
            score = y * f(swap(x, torch.full_like(chosen, j)))
            chosen = torch.where(score < lowest, j, chosen)
            lowest = torch.minimum(score, lowest)
        return swap(x, chosen)


@dataclass(frozen=True)
class Plant:
    """Theorem 2's spatial adversary: it plants a strong pixel that speaks for the other label.

    Of x_1..x_N it chooses x_J with probability proportional to w(x_J), where w is the density of
    N(-y, s²) over that of N(ηy, 1), and swaps it with x_0. With many candidates the new x_0 is
    nearly N(-y, s²), and the old one is lost in the crowd. (The explicit adversary is ours; the
    paper argues that a suitable one exists.)

    Args:
        model: gives N, s and η.
    """

    model: StrongPixel

    def log_weights(self, x: Tensor, y: Tensor) -> Tensor:
        """Log w of the N candidates of every point.

        Args:
            x: (n, d + 1).
            y: (n,), -1.0 or +1.0.

        Returns: (n, N).
        """
        candidates = x[:, 1 : self.model.swaps + 1]
        mean = self.model.eta * y[:, None]
        return log_ratio(candidates, -y[:, None], self.model.s, mean)

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points (n, d + 1) after the swap."""
        chances = self.log_weights(x, y).softmax(dim=1)
        return swap(x, torch.multinomial(chances, 1, generator=rng)[:, 0] + 1)


def log_ratio(v: Tensor, mean: Tensor | float, sd: float, base: Tensor | float) -> Tensor:
    """Log of the density of N(mean, sd²) over that of N(base, 1), at v.

    Args:
        v: any shape.
        mean: broadcasts with v.
        sd: positive.
        base: broadcasts with v.

    Returns: the shape of v.
    """
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
        """The points (N, d + 1) of lowest y · f among those visited, x included."""
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
    """Per point, the adversary out of several that hurts the classifier most.

    Args:
        adversaries: at least one.
    """

    adversaries: tuple[Adversary, ...]

    def __call__(self, f: Classifier, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The points (N, d + 1) of lowest y · f among the adversaries' answers."""
        answers = torch.stack([adversary(f, x, y, rng) for adversary in self.adversaries])
        scores = torch.stack([(y * f(answer)).detach() for answer in answers])
        return answers[scores.argmin(dim=0), torch.arange(len(x))]
