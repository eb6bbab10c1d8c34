"""Distances between the attacked laws of theorem 2: bounds, and their exact values by simulation.

Write G for N(-η, 1), W for N(1, s²), H for N(-1, s²), and w = dW/dG, h = dH/dG. Attacked in l_inf,
label +1 has the law P = W × G^d. Attacked by ``Plant``, label -1 has a law Q whose density
over P is (1/N) Σ_J h(x_J) / w̄_J, where w̄_J averages w over the candidates before the swap.
The constants are ours; the paper states the order 1/√N.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mpbook.theory.adversaries import log_ratio
from mpbook.theory.gaussians import StrongPixel
from mpbook.theory.linear import normal_cdf
from mpkit.core.statistics import Estimate, mean_of


def overlap(a: float, b: float, sd: float, base: float) -> float:
    """The integral of N(a, sd²) N(b, sd²) / N(base, 1): densities, over the whole line.

    It is infinite unless sd < √2; with a = b it is 1 + χ².
    """
    return _half_line(a, b, sd, base) + _half_line(-a, -b, sd, -base)


def chi_square(mean: float, sd: float, base: float) -> float:
    """χ²(N(mean, sd²) ‖ N(base, 1)) = exp((mean - base)² / (2 - sd²)) / (sd √(2 - sd²)) - 1.

    Raises: ValueError: unless 0 < sd < √2.
    """
    if not 0 < sd < math.sqrt(2):
        raise ValueError(f"chi_square: sd must lie in (0, √2), got {sd}; χ² is infinite beyond")
    gap = 2 - sd**2
    return math.exp((mean - base) ** 2 / gap) / (sd * math.sqrt(gap)) - 1


def _half_line(a: float, b: float, sd: float, base: float) -> float:
    """The same integral as `overlap`, over v > 0: a Gaussian integral by completing the square."""
    curve = 2 / sd**2 - 1
    slope = (a + b) / sd**2 - base
    height = (slope**2 / curve - (a**2 + b**2) / sd**2 + base**2) / 2
    return math.exp(height) * normal_cdf(slope / math.sqrt(curve)) / (sd**2 * math.sqrt(curve))


@dataclass(frozen=True)
class SwapBound:
    """Theorem 2 with its constant: R_inf + R_RT ≥ 1 - τ for every classifier."""

    model: StrongPixel

    @property
    def selection(self) -> float:
        """At most this far is a selected candidate from a true strong pixel: ½ √(χ²(W‖G) / N)."""
        return math.sqrt(chi_square(1.0, self.model.s, -self.model.eta) / self.model.swaps) / 2

    @property
    def hiding(self) -> float:
        """At most this much shows the old x_0 among the candidates: ½ √(χ²(H‖G) / N)."""
        return math.sqrt(chi_square(-1.0, self.model.s, -self.model.eta) / self.model.swaps) / 2

    @property
    def tau(self) -> float:
        """The bound on the distance of the two attacked laws, in total variation."""
        return min(1.0, self.selection + self.hiding)

    @property
    def average_risk(self) -> float:
        """R_avg of every classifier is at least this, (1 - τ) / 2."""
        return (1 - self.tau) / 2

    @property
    def half_selection(self) -> float:
        """As ``selection``, for planting the law (W - H)⁺ / (2p - 1) in place of W."""
        s, eta, p = (self.model.s, self.model.eta, normal_cdf(1 / self.model.s))
        squares = (_half_line(a, b, s, -eta) * a * b for a in (-1.0, 1.0) for b in (-1.0, 1.0))
        chi = sum(squares) / (2 * p - 1) ** 2 - 1
        return math.sqrt(max(chi, 0.0) / self.model.swaps) / 2

    @property
    def limit(self) -> float:
        """What the true distance tends to when N is large: √(Var_G(h - w) / (2πN))."""
        s, eta = self.model.s, self.model.eta
        squares = (overlap(a, b, s, -eta) * a * b for a in (-1.0, 1.0) for b in (-1.0, 1.0))
        return math.sqrt(sum(squares) / (2 * math.pi * self.model.swaps))


def planted_over_shifted(model: StrongPixel, x: Tensor) -> Tensor:
    """The density dQ/dP (n,) of the two attacked laws at points x (n, d + 1), in closed form.

    For the mirror image (labels exchanged) pass -x.
    """
    crowd = x[:, 1 : model.swaps + 1]
    w = log_ratio(crowd, 1.0, model.s, -model.eta).exp()
    h = log_ratio(crowd, -1.0, model.s, -model.eta).exp()
    w_strong = log_ratio(x[:, :1], 1.0, model.s, -model.eta).exp()
    total = w_strong + w.sum(dim=1, keepdim=True) - w
    return (h / total).sum(dim=1)


@dataclass(frozen=True)
class NeymanPearson:
    """The classifier of least tilt · R_inf + (1 - tilt) · R_RT against the two maps of the proof.

    It knows both adversaries and weighs the exact densities of the four attacked laws. The tilt,
    in (0, 1), is the weight of R_inf.
    """

    model: StrongPixel
    tilt: float = 0.5

    def __call__(self, x: Tensor) -> Tensor:
        """The log-odds (n,) of the labels of attacked points (n, d + 1)."""
        here, mirror = (planted_over_shifted(self.model, z) for z in (x, -x))
        a, b = math.log(self.tilt), math.log(1 - self.tilt)
        shifted = 2 * x[:, 0] / self.model.s**2 - 2 * self.model.eta * x[:, 1:].sum(dim=1)
        plus = torch.logaddexp(shifted + a, mirror.log() + b)
        minus = torch.logaddexp(torch.full_like(shifted, a), shifted + here.log() + b)
        return plus - minus


def attacked_distance(model: StrongPixel, n: int, rng: torch.Generator) -> Estimate:
    """The exact distance of the two attacked laws, E_P[(1 - dQ/dP)⁺], by n samples, at 99.9 %."""
    x = torch.randn(n, model.swaps + 1, generator=rng, dtype=torch.float64)
    x[:, 0] = 1 + model.s * x[:, 0]
    x[:, 1:] -= model.eta
    return mean_of((1 - planted_over_shifted(model, x)).clamp(min=0), level=0.999)
