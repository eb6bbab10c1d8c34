"""The two Gaussian models of the theorems, with their Bayes rules and exact linear risks.

Both have one strong feature x_0 and d weak ones, x_1..x_d independent N(ηy, 1) with
η = α / √d: a single weak feature says almost nothing, their mean says as much as N(αy, 1).
Source: Tramèr and Boneh 2019, section 2; the closed forms are derived on the book's pages.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from mpbook.theory.linear import Linear, Nothing, Reach, chance_of_error, normal_cdf, spread


@dataclass(frozen=True)
class GaussianModel(ABC):
    """A strong feature beside d weak ones; labels -1.0 and +1.0 with probability 1/2 each.

    Args:
        d: number of weak features, at least 1.
        alpha: strength α > 0 of all the weak features together.
    """

    d: int
    alpha: float

    def __post_init__(self) -> None:
        name = type(self).__name__
        if self.d < 1:
            raise ValueError(f"{name}: d must be at least 1, got {self.d}; try 100")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"{name}: alpha must be positive, got {self.alpha}; try 2.0")

    @property
    def eta(self) -> float:
        """η = α / √d, the mean of a weak feature under the label +1."""
        return self.alpha / math.sqrt(self.d)

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n points (n, d + 1) and their labels (n,), both float64."""
        y = 2.0 * torch.randint(2, (n,), generator=rng).double() - 1
        x = torch.randn(n, self.d + 1, generator=rng, dtype=torch.float64)
        x[:, 1:] += self.eta * y[:, None]
        x[:, 0] = self._strong(x[:, 0], y)
        return x, y

    @abstractmethod
    def _strong(self, noise: Tensor, y: Tensor) -> Tensor:
        """The strong feature (n,) of labels (n,), from standard normal noise (n,)."""

    @abstractmethod
    def bayes(self) -> Linear:
        """The classifier of least clean risk: its score is the log-odds of the labels."""

    @abstractmethod
    def linear_risk(self, f: Linear, reach: Reach | None = None) -> float:
        """The exact risk of a linear classifier under all of ``reach``; None for clean data."""

    def strong_only(self) -> Linear:
        """The classifier sign(x_0)."""
        return spread(self.d, 1.0, 0.0)

    def mean_only(self) -> Linear:
        """The classifier sign(x_1 + ... + x_d), scaled so that its noise is standard."""
        return spread(self.d, 0.0, 1 / math.sqrt(self.d))


def _both_labels(f: Linear, drift: Tensor, noise: Tensor) -> Tensor:
    """Mean over y of Pr[drift + y · bias + noise · Z ≤ 0]."""
    return (chance_of_error(drift + f.bias, noise) + chance_of_error(drift - f.bias, noise)) / 2


@dataclass(frozen=True)
class StrongBit(GaussianModel):
    """Theorem 1's data: x_0 = y with probability p in [1/2, 1], else -y."""

    p: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.5 <= self.p <= 1:
            raise ValueError(f"StrongBit: p must lie in [0.5, 1], got {self.p}; try 0.95")

    def _strong(self, noise: Tensor, y: Tensor) -> Tensor:
        return torch.where(torch.special.ndtr(noise) < self.p, y, -y)

    def bayes(self) -> Linear:
        """Score x_0 log(p / (1 - p)) + 2η Σ x_i; for p = 1 the bit alone."""
        if self.p == 1:
            return self.strong_only()
        return spread(self.d, math.log(self.p / (1 - self.p)), 2 * self.eta)

    def bayes_risk(self) -> float:
        """The risk of `bayes`: p Φ(-α - L/2α) + (1 - p) Φ(-α + L/2α), L = log(p / (1 - p))."""
        if self.p == 1:
            return 0.0
        lift = math.log(self.p / (1 - self.p)) / (2 * self.alpha)
        agree, differ = normal_cdf(-self.alpha - lift), normal_cdf(-self.alpha + lift)
        return self.p * agree + (1 - self.p) * differ

    def linear_risk(self, f: Linear, reach: Reach | None = None) -> float:
        """The mean over the bit being right (p) or wrong (1 - p) of a normal tail."""
        weight = f.weight.double()
        strong, weak = weight[0], weight[1:]
        drift, noise = (self.eta * weak.sum() - (reach or Nothing()).cost(weight), weak.norm())
        right, wrong = (_both_labels(f, drift + bit, noise) for bit in (strong, -strong))
        return float(self.p * right + (1 - self.p) * wrong)


@dataclass(frozen=True)
class StrongPixel(GaussianModel):
    """Theorem 2's data: x_0 is N(y, s²), and a spatial adversary may swap it with x_1..x_N.

    Args:
        s: noise of the strong pixel, in (0, 1]; the paper has s = 1/α.
        swaps: N, how many weak pixels can take its place, between 1 and d.
    """

    s: float
    swaps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.s <= 1:
            raise ValueError(f"StrongPixel: s must lie in (0, 1], got {self.s}; try 1 / alpha")
        if not 1 <= self.swaps <= self.d:
            raise ValueError(
                f"StrongPixel: swaps must lie in 1..d, got {self.swaps} for d = {self.d}"
            )

    def _strong(self, noise: Tensor, y: Tensor) -> Tensor:
        return y + self.s * noise

    def bayes(self) -> Linear:
        """Score 2 x_0 / s² + 2η Σ x_i."""
        return spread(self.d, 2 / self.s**2, 2 * self.eta)

    def bayes_risk(self) -> float:
        """The risk of `bayes`: Φ(-√(1/s² + α²))."""
        return normal_cdf(-math.hypot(1 / self.s, self.alpha))

    def linear_risk(self, f: Linear, reach: Reach | None = None) -> float:
        """One normal tail: the score is Gaussian given the label."""
        weight = f.weight.double()
        strong, weak = weight[0], weight[1:]
        drift = strong + self.eta * weak.sum() - (reach or Nothing()).cost(weight)
        return float(_both_labels(f, drift, torch.hypot(self.s * strong, weak.norm())))
