"""Obfuscated networks, each with a known way of masking its gradient.

Every class wraps a network that was trained as usual, and none makes it any harder to fool: it
only becomes harder to see how. They are teaching material and fixtures for tests; use none of
them as a defence. Random ones draw from a generator of their own, on the device of the images.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.sets.norms import root
from mpkit.sets.spatial import warp


class Obfuscated(nn.Module):
    """A network, images (B, C, H, W) to logits (B, K), that is shown something else."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        logits: Tensor = self.network(self._shown(x))
        return logits

    def _shown(self, x: Tensor) -> Tensor:
        """What the network gets in place of the images: (B, C, H, W)."""
        return x


class Saturated(Obfuscated):
    """Logits times a large ``scale``: softmax becomes 0 or 1, and cross-entropy has no gradient.

    Predictions are those of the network. In float32 a lead of about 100 is enough.
    """

    def __init__(self, network: nn.Module, scale: float = 1e4) -> None:
        super().__init__(network)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K)."""
        return self.scale * super().forward(x)


class Probabilities(Saturated):
    """Probabilities in place of logits, rounded by the arithmetic to 0 and 1: flat for any loss.

    Predictions are those of the network. The logits are multiplied by ``scale`` first.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, K), each in [0, 1]."""
        return super().forward(x).softmax(dim=1)


class Quantised(Obfuscated):
    """Pixels rounded to a few grey levels, at least 2: a staircase, flat nearly everywhere.

    Predictions are those of the network on images that have only these levels.
    """

    def __init__(self, network: nn.Module, levels: int = 5) -> None:
        super().__init__(network)
        self.steps = levels - 1

    def _shown(self, x: Tensor) -> Tensor:
        return (x * self.steps).round() / self.steps


class Thresholded(Obfuscated):
    """Pixels made black, or white above a level, as first-order training on MNIST learns to do."""

    def __init__(self, network: nn.Module, level: float = 0.5) -> None:
        super().__init__(network)
        self.level = level

    def _shown(self, x: Tensor) -> Tensor:
        return (x > self.level).to(x.dtype)


class RoundedWaves(Obfuscated):
    """The heart of JPEG: coefficients of the cosine transform, rounded to multiples of a step."""

    def __init__(self, network: nn.Module, step: float = 0.4) -> None:
        super().__init__(network)
        self.step = step

    def _shown(self, x: Tensor) -> Tensor:
        across, down = cosines(x.shape[3]).to(x), cosines(x.shape[2]).to(x)
        waves = down @ x @ across.T
        image = down.T @ ((waves / self.step).round() * self.step) @ across
        return image.clamp(0, 1)


class Shaken(Obfuscated):
    """Each image is shifted and turned at random before it is looked at.

    Args:
        network: images to logits.
        rng: draws the poses.
        pixels: largest shift in each axis.
        degrees: largest angle.
    """

    def __init__(
        self, network: nn.Module, rng: torch.Generator, pixels: float = 1.0, degrees: float = 15.0
    ) -> None:
        super().__init__(network)
        self.rng, self.bounds = rng, (pixels, pixels, degrees)

    def _shown(self, x: Tensor) -> Tensor:
        share = torch.rand(len(x), 3, generator=self.rng, dtype=x.dtype, device=x.device)
        return warp(x, (2 * share - 1) * x.new_tensor(self.bounds))


class Noisy(Obfuscated):
    """Gaussian noise, of a deviation in pixel units, is added to each image that is looked at."""

    def __init__(self, network: nn.Module, rng: torch.Generator, deviation: float = 0.2) -> None:
        super().__init__(network)
        self.rng, self.deviation = rng, deviation

    def _shown(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=self.rng, dtype=x.dtype, device=x.device)
        return x + self.deviation * noise


class Detached(Obfuscated):
    """The image is cut off from the graph: no gradient comes back. Predictions are unchanged."""

    def _shown(self, x: Tensor) -> Tensor:
        return x.detach()


class Flipped(Obfuscated):
    """Gradients come back with the wrong sign. Predictions are unchanged."""

    def _shown(self, x: Tensor) -> Tensor:
        flipped: Tensor = _Flip.apply(x)
        return flipped


class Staircase(nn.Module):
    """An activation with steps in place of slopes: rounds to multiples of a step."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return (x / self.step).round() * self.step


def with_steps(network: nn.Sequential, step: float = 0.25) -> nn.Sequential:
    """The network, of layers in a row, with a `Staircase` behind its first ReLU; weights shared."""
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
