"""A ward of patients: networks whose gradients are hidden on purpose, each in a known way.

Every class wraps a network that was trained as usual, and none makes it any harder to fool: it
only becomes harder to see how. They are teaching material and fixtures for tests; use none of
them as a defence. Random ones draw from a generator of their own.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.sets.norms import root
from mpkit.sets.spatial import warp


class Saturated(nn.Module):
    """Logits times a large number: softmax becomes 0 or 1, and cross-entropy has no gradient.

    Predictions are those of the network. In float32 a lead of about 100 is enough.

    Args:
        network: images to logits.
        scale: the factor.
    """

    def __init__(self, network: nn.Module, scale: float = 1e4) -> None:
        super().__init__()
        self.network, self.scale = network, scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        logits: Tensor = self.network(x)
        return self.scale * logits


class Probabilities(Saturated):
    """Probabilities in place of logits, rounded by the arithmetic to 0 and 1: flat for any loss.

    Predictions are those of the network.

    Args:
        network: images to logits.
        scale: factor on the logits before the softmax.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K), each in [0, 1]."""
        return super().forward(x).softmax(dim=1)


class Quantised(nn.Module):
    """Pixels rounded to a few levels: a staircase, flat nearly everywhere.

    Predictions are those of the network on images that have only these levels.

    Args:
        network: images to logits.
        levels: number of grey levels, at least 2.
    """

    def __init__(self, network: nn.Module, levels: int = 5) -> None:
        super().__init__()
        self.network, self.steps = network, levels - 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        logits: Tensor = self.network((x * self.steps).round() / self.steps)
        return logits


class Thresholded(nn.Module):
    """Pixels made black or white, as first-order training on MNIST learns to do by itself.

    Args:
        network: images to logits.
        level: pixels above it become white.
    """

    def __init__(self, network: nn.Module, level: float = 0.5) -> None:
        super().__init__()
        self.network, self.level = network, level

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        logits: Tensor = self.network((x > self.level).to(x.dtype))
        return logits


class RoundedWaves(nn.Module):
    """The heart of JPEG: coefficients of the cosine transform are rounded.

    Args:
        network: images to logits.
        step: distance of the values that a coefficient may take.
    """

    def __init__(self, network: nn.Module, step: float = 0.4) -> None:
        super().__init__()
        self.network, self.step = network, step

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        across, down = cosines(x.shape[3]).to(x), cosines(x.shape[2]).to(x)
        waves = down @ x @ across.T
        image = down.T @ ((waves / self.step).round() * self.step) @ across
        logits: Tensor = self.network(image.clamp(0, 1))
        return logits


class Shaken(nn.Module):
    """Each image is shifted and turned at random before it is looked at.

    Args:
        network: images to logits.
        rng: draws the poses, on the device of the images.
        pixels: largest shift in each axis.
        degrees: largest angle.
    """

    def __init__(
        self, network: nn.Module, rng: torch.Generator, pixels: float = 1.0, degrees: float = 15.0
    ) -> None:
        super().__init__()
        self.network, self.rng, self.bounds = (network, rng, (pixels, pixels, degrees))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        share = torch.rand(len(x), 3, generator=self.rng, dtype=x.dtype, device=x.device)
        logits: Tensor = self.network(warp(x, (2 * share - 1) * x.new_tensor(self.bounds)))
        return logits


class Noisy(nn.Module):
    """Gaussian noise is added to each image before it is looked at.

    Args:
        network: images to logits.
        rng: draws the noise, on the device of the images.
        deviation: of the noise, in pixel units.
    """

    def __init__(self, network: nn.Module, rng: torch.Generator, deviation: float = 0.2) -> None:
        super().__init__()
        self.network, self.rng, self.deviation = network, rng, deviation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        noise = torch.randn(x.shape, generator=self.rng, dtype=x.dtype, device=x.device)
        logits: Tensor = self.network(x + self.deviation * noise)
        return logits


class Detached(nn.Module):
    """The image is cut off from the graph: no gradient comes back. Predictions are unchanged.

    Args:
        network: images to logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        logits: Tensor = self.network(x.detach())
        return logits


class Flipped(nn.Module):
    """Gradients come back with the wrong sign. Predictions are unchanged.

    Args:
        network: images to logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        logits: Tensor = self.network(_Flip.apply(x))
        return logits


class Staircase(nn.Module):
    """An activation with steps in place of slopes: rounds to multiples of a step.

    Args:
        step: the height of the steps.
    """

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return (x / self.step).round() * self.step


def with_steps(network: nn.Sequential, step: float = 0.25) -> nn.Sequential:
    """The network with a staircase behind its first ReLU; weights are shared.

    Args:
        network: layers in a row, one of them a ReLU.
        step: the height of the steps.
    """
    layers = list(network)
    at = next(i for i, layer in enumerate(layers) if isinstance(layer, nn.ReLU))
    return nn.Sequential(*layers[: at + 1], Staircase(step), *layers[at + 1 :])


def with_batch_statistics(network: nn.Sequential, x: Tensor) -> nn.Sequential:
    """The network with a batch normalization before its last layer that never leaves train mode.

    On the images given, as one batch, predictions are unchanged; an image's logits depend on its
    batch-mates.

    Args:
        network: layers in a row, the last of them linear; weights are shared.
        x: (B, C, H, W), whose statistics the normalization puts back.
    """
    layers = list(network)
    with torch.no_grad():
        features = nn.Sequential(*layers[:-1])(x)
        norm = nn.BatchNorm1d(features.shape[1], track_running_stats=False).to(x)
        norm.bias.copy_(features.mean(0))
        norm.weight.copy_(root(features.var(0, correction=0) + norm.eps))
    return nn.Sequential(*layers[:-1], norm.requires_grad_(False), layers[-1])


def cosines(n: int) -> Tensor:
    """The orthogonal matrix (n, n) of the discrete cosine transform, in float64."""
    k, i = torch.meshgrid(*2 * [torch.arange(n, dtype=torch.float64)], indexing="ij")
    rows: Tensor = (math.pi * k * (2 * i + 1) / (2 * n)).cos() * (2 / n) ** 0.5
    rows[0] /= 2**0.5
    return rows


class _Flip(torch.autograd.Function):
    """The identity; backwards, minus the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return -gradients[0]
