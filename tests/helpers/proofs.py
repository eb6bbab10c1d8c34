"""Parts of the proofs that the tests alone need: half steps, and classifiers of known risk."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpbook.theory.adversaries import Plant, log_ratio
from mpbook.theory.gaussians import StrongBit, StrongPixel
from mpbook.theory.linear import Linear, Reach, normal_cdf, spread
from mpkit.core.statistics import Estimate, mean_of


@dataclass(frozen=True)
class PlantLie(Plant):
    """As ``Plant``, but the new strong pixel always speaks for the other label (ours).

    It plants the law of density proportional to the positive part of N(-y, s²) less N(y, s²): half
    of the proof of R_inf + (2p - 1) R_RT ≥ p - (2p - 1) τ'. Where no candidate has the sign of -y,
    it chooses as ``Plant`` does.
    """

    def log_weights(self, x: Tensor, y: Tensor) -> Tensor:
        """Log density ratios (n, N) of that law to N(ηy, 1); -1000 in place of minus infinity."""
        against = -y[:, None] * x[:, 1 : self.model.swaps + 1]
        surplus = torch.log1p(-torch.exp(-2 * against.clamp(min=1e-300) / self.model.s**2))
        return super().log_weights(x, y) + torch.where(against > 0, surplus, -1000.0)


def shared_cost(weight: Tensor, first: Reach, second: Reach, beta: float) -> float:
    """Greatest fall of a linear score for β of the first budget and 1 - β of the second; no box.

    Args:
        weight: (d + 1,).
        first: the set whose budget is used to the fraction β.
        second: the set whose budget is used to the fraction 1 - β.
        beta: in [0, 1].

    Returns: β cost(first) + (1 - β) cost(second), linear in β.
    """
    return float(beta * first.cost(weight) + (1 - beta) * second.cost(weight))


def proof_map_ends(model: StrongBit) -> tuple[float, float]:
    """The least and the greatest R_inf against the two fixed maps of theorem 1's proof.

    Against "subtract 2ηy" and "flip x_0" alone, R_1 = 1 - R_inf for every classifier, and by
    Neyman and Pearson R_inf can be anything between ρ and 1 - ρ, ρ the clean Bayes risk (the
    attacked problem is the clean one with the weak features mirrored). The full sets do better:
    against them R_inf is at least 1 - p, since they can also shift by less.

    Args:
        model: theorem 1's data.

    Returns: (ρ, 1 - ρ).
    """
    return model.bayes_risk(), 1 - model.bayes_risk()


def selection_distance(model: StrongPixel, n: int, rng: torch.Generator) -> Estimate:
    """The exact distance of the selection step, ½ E|1 - w̄|, by simulation.

    Args:
        model: gives N, s and η.
        n: samples.
        rng: source of all randomness.

    Returns: the estimate with a 99.9 % interval.
    """
    return _crowd_distance(model, 1.0, n, rng)


def hiding_distance(model: StrongPixel, n: int, rng: torch.Generator) -> Estimate:
    """The exact distance of the hiding step, ½ E|1 - q̄|, by simulation.

    Args:
        model: gives N, s and η.
        n: samples.
        rng: source of all randomness.

    Returns: the estimate with a 99.9 % interval.
    """
    return _crowd_distance(model, -1.0, n, rng)


def _crowd_distance(model: StrongPixel, mean: float, n: int, rng: torch.Generator) -> Estimate:
    crowd = torch.randn(n, model.swaps, generator=rng, dtype=torch.float64) - model.eta
    average = log_ratio(crowd, mean, model.s, -model.eta).exp().mean(dim=1)
    return mean_of((1 - average).abs() / 2, level=0.999)


def fair_mean(model: StrongPixel) -> Linear:
    """The classifier sign(x_0 + x_1 + ... + x_d), which no swap can change."""
    return spread(model.d, 1.0, 1.0)


def strong_only_swap_risk(model: StrongPixel) -> float:
    """Risk of sign(x_0) when the worst swap is chosen: 1 - Φ(1/s) Φ(η)^N."""
    return 1 - normal_cdf(1 / model.s) * normal_cdf(model.eta) ** model.swaps
