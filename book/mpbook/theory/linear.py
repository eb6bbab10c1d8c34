"""Linear classifiers and the balls whose effect on them is known exactly.

A classifier of this package is a callable from points (N, d + 1) to scores (N,): the label is
the sign of the score, and **a score of exactly 0 counts as wrong for both labels**. Labels are
-1.0 and +1.0. A ball lowers the score of a linear classifier by at most its radius times the dual
norm of the weights, the same at every point: therefore linear risks have closed forms.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Classifier = Callable[[Tensor], Tensor]


def normal_cdf(z: float) -> float:
    """Φ(z), the probability that a standard normal variable is at most z; z may be infinite."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def chance_of_error(margin: Tensor, spread: Tensor) -> Tensor:
    """Pr[margin + spread · Z ≤ 0] for a standard normal Z, elementwise and with broadcasting.

    The spread is ≥ 0; where it is 0, the margin 0 counts as an error.
    """
    step = (margin <= 0).to(margin.dtype)
    smooth = torch.special.ndtr(-margin / spread.clamp(min=torch.finfo(margin.dtype).tiny))
    return torch.where(spread > 0, smooth, step)


@dataclass(frozen=True, eq=False)
class Linear:
    """The classifier sign(weight · x + bias).

    Args:
        weight: (d + 1,), the strong feature x_0 first.
        bias: added to the score.
    """

    weight: Tensor
    bias: float = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """Scores (N,) of points (N, d + 1)."""
        return x @ self.weight.to(x) + self.bias


def spread(d: int, strong: float, weak: float, bias: float = 0.0) -> Linear:
    """The float64 classifier with weight ``strong`` on x_0 and ``weak`` on each of x_1..x_d."""
    weight = torch.full((d + 1,), float(weak), dtype=torch.float64)
    weight[0] = strong
    return Linear(weight, bias)


def mix(f: Linear, g: Linear, share: float) -> Linear:
    """The ensemble with ``share`` in [0, 1] of f's score and the rest of g's, linear again."""
    return Linear(share * f.weight + (1 - share) * g.weight, share * f.bias + (1 - share) * g.bias)


class Reach(ABC):
    """A set of perturbations r, the same at every point, with 0 in it."""

    @abstractmethod
    def cost(self, weight: Tensor) -> Tensor:
        """max over r of weight · r: the greatest fall of a linear score; weight (d + 1,)."""

    @abstractmethod
    def steepest(self, g: Tensor) -> Tensor:
        """The r of the set that maximises g · r, row by row: (N, d + 1) to (N, d + 1)."""

    def __call__(self, f: Linear, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """As an adversary: the points of lowest y · f, exactly; for a ``Linear`` f only."""
        if not isinstance(f, Linear):
            raise ValueError(
                f"{type(self).__name__}: exact only for Linear, got {type(f).__name__}; "
                "search with FrankWolfe(ball, steps) instead"
            )
        return x + self.steepest(-y[:, None] * f.weight.to(x))


@dataclass(frozen=True)
class Nothing(Reach):
    """The adversary that may do nothing: the risk on clean data."""

    def cost(self, weight: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros((), dtype=weight.dtype)

    def steepest(self, g: Tensor) -> Tensor:
        """Zeros."""
        return torch.zeros_like(g)


class WithRadius(Reach):
    """A set with a radius eps ≥ 0, in the units of the features."""

    eps: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise ValueError(
                f"{type(self).__name__}: eps must be finite and at least 0, got {self.eps}; "
                "0 is no attack"
            )


@dataclass(frozen=True)
class LinfBall(WithRadius):
    """All r with max |r_i| ≤ eps; no pixel box."""

    eps: float

    def cost(self, weight: Tensor) -> Tensor:
        """Eps times the l_1 norm of the weights."""
        return self.eps * weight.abs().sum()

    def steepest(self, g: Tensor) -> Tensor:
        """Eps in the sign of every entry."""
        return self.eps * g.sign()


@dataclass(frozen=True)
class L1Ball(WithRadius):
    """All r with Σ |r_i| ≤ eps; no pixel box."""

    eps: float

    def cost(self, weight: Tensor) -> Tensor:
        """Eps times the largest weight in magnitude."""
        return self.eps * weight.abs().max()

    def steepest(self, g: Tensor) -> Tensor:
        """All of eps on one entry, the largest of each row in magnitude."""
        top = g.abs().argmax(dim=1, keepdim=True)
        return torch.zeros_like(g).scatter(1, top, self.eps * g.gather(1, top).sign())


@dataclass(frozen=True)
class OnSome(WithRadius):
    """All r with |r_i| ≤ eps on the features of the listed indices, and 0 elsewhere."""

    features: tuple[int, ...]
    eps: float

    def cost(self, weight: Tensor) -> Tensor:
        """Eps times the l_1 norm of the touched weights."""
        return self.eps * weight[list(self.features)].abs().sum()

    def steepest(self, g: Tensor) -> Tensor:
        """Eps in the signs of the touched entries."""
        touched = torch.zeros_like(g)
        touched[:, list(self.features)] = self.eps
        return touched * g.sign()
