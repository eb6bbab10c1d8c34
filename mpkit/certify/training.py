"""Training for certificates: the loss at the worst logits that interval arithmetic allows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mpkit.certify.bounds import BallRegion, margins
from mpkit.certify.network import Layer, ReluNetwork, through
from mpkit.models import Normalize
from mpkit.sets import Ball, Linf
from mpkit.sets.norms import per_row
from mpkit.training import Scheme


@dataclass(frozen=True)
class IntervalLoss(Scheme):
    """The clean cross-entropy and, at the worst of several balls, an upper bound of the robust one.

    In l_inf intervals start from the pixels, box included; in another ball from the first linear
    layer, whose outputs move by at most the radius times the dual norm of their weights. Let the
    radii grow slowly: wrap it in :class:`mpkit.training.RadiusWarmup`.

    Args:
        balls: at least one.
        clean: weight of the clean loss, in [0, 1); the rest goes to the bound.

    Raises: ValueError: no ball, a set that is none, or a weight outside of [0, 1).

    Source: Gowal et al. 2018, equation 12; other norms: Jiang and Singh 2024 train several at once.
    """

    balls: tuple[Ball, ...]
    clean: float = 0.5

    def __post_init__(self) -> None:
        if not self.balls or not all(isinstance(ball, Ball) for ball in self.balls):
            raise ValueError(
                f"IntervalLoss: balls must be a tuple of at least one ball, got {self.balls!r}; "
                "write (Linf(0.1), L2(0.5))"
            )
        if not 0 <= self.clean < 1:
            raise ValueError(f"IntervalLoss: clean must lie in [0, 1), got {self.clean}; try 0.5")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The weighted loss of every example."""
        network = ReluNetwork(model, x.shape[1:])
        plain = cross_entropy(network(x), y, reduction="none")
        bounds = [
            cross_entropy(worst_logits(network, ball, x, y), y, reduction="none")
            for ball in self.balls
        ]
        return self.clean * plain + (1 - self.clean) * torch.stack(bounds).amax(0)


def worst_logits(network: ReluNetwork, ball: Ball, x: Tensor, y: Tensor) -> Tensor:
    """Logits, the true one 0, that lead by no less than any image of the ball can: (B, K)."""
    middle, radius = _first(network.groups[0], ball, x)
    for number, group in enumerate(network.groups[1:], 1):
        low, high = (middle - radius).relu(), (middle + radius).relu()
        middle, radius = (low + high) / 2, (high - low) / 2
        if number < len(network.shapes):
            for layer in group:
                middle, radius = layer(middle), layer.spread(radius)
    spec = margins(y, network.classes).to(x.dtype)
    if network.shapes:
        a, constant = through(network.groups[-1], spec)
        a = a.flatten(2)
        reach = (a.abs() @ radius.flatten(1).unsqueeze(2)).squeeze(2)
        least = (a @ middle.flatten(1).unsqueeze(2)).squeeze(2) - reach + constant
    else:
        a, constant = through(network.groups[0], spec)
        least = BallRegion(ball, x).least(a) + constant
    others = torch.stack([(y + k) % network.classes for k in range(1, network.classes)], 1)
    return torch.zeros_like(middle.new_zeros(len(x), network.classes)).scatter(1, others, -least)


def _first(group: list[Layer], ball: Ball, x: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and radius of what the first group gives."""
    if isinstance(ball, Linf):
        region = BallRegion(ball, x)
        middle, radius = (region.low + region.high) / 2, (region.high - region.low) / 2
        for layer in group:
            middle, radius = layer(middle), layer.spread(radius)
        return middle, radius
    middle, scale, size = x, x.new_ones(1, x.shape[1], 1, 1), None
    for layer in group:
        middle = layer(middle)
        module = layer.module
        if isinstance(module, Normalize):
            scale = scale / module.std
        elif isinstance(module, nn.Linear | nn.Conv2d):
            if size is not None:
                raise ValueError(
                    "IntervalLoss: two linear layers before the first ReLU; join them in one"
                )
            if isinstance(module, nn.Conv2d) and module.groups > 1:
                raise ValueError("IntervalLoss: a grouped first convolution is not supported")
            kernel = module.weight
            if isinstance(module, nn.Linear):
                kernel = kernel.view(len(kernel), *x.shape[1:])
            size = ball.dual_norm(kernel * scale).view(1, -1, *[1] * (middle.dim() - 2))
    assert size is not None
    return middle, (per_row(ball.eps, middle) * size).expand_as(middle)
