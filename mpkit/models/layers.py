"""The layers that networks are built of: weights come from a generator only."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from mpkit.sets.dead_zone import ramp, require_width

Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Normalize(nn.Module):
    """Shift and scale every channel: (x - mean) / std, as the first layer of a network.

    Both have one number per channel, or one for all; std is positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.5,)) -> None:
        super().__init__()
        if min(std) <= 0:
            raise ValueError(f"Normalize: std must be positive, got {std}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return (x - self.mean) / self.std


class DeadZone(nn.Module):
    """A first layer that takes what is nearly black or white for black or white.

    ``clip((x - a) / (1 - 2a), 0, 1)`` for every pixel. On images of black and white pixels no
    l_inf change up to a passes it at all, and any other change at most at the rate 1 / (1 - a);
    grey pixels pass at the rate 1 / (1 - 2a). It has no slope below a: evaluate networks behind it
    by attacks that know of it.

    Args:
        a: in [0, 1/2).

    Raises: ValueError: if a is out of its range.
    """

    def __init__(self, a: float = 0.3) -> None:
        super().__init__()
        require_width("DeadZone", a)
        self.a = a

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to the same."""
        return ramp(x, self.a)

    def extra_repr(self) -> str:
        """The width."""
        return f"{self.a}"


def check_shape(
    who: str, shape: tuple[int, int, int], classes: int, least: int
) -> tuple[int, int, int]:
    """The shape of a network's images; a ValueError for a side below ``least`` or a lone class."""
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < least:
        raise ValueError(
            f"{who}: shape must be (channels, height, width) with sides of at least {least} "
            f"pixels, got {tuple(shape)}; pass Images.shape"
        )
    if classes < 2:
        raise ValueError(f"{who}: classes must be at least 2, got {classes}")
    return shape


def conv(inputs: int, outputs: int, size: int, stride: int, rng: torch.Generator) -> nn.Conv2d:
    """A convolution with same padding, drawn by He's law."""
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, device="meta", dtype=torch.float32)
    return _draw(layer, inputs * size * size, rng)


def linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Linear:
    """A linear layer, drawn by He's law."""
    layer = nn.Linear(inputs, outputs, device="meta", dtype=torch.float32)
    return _draw(layer, inputs, rng)


@torch.no_grad()
def _draw(layer: Layer, fan_in: int, rng: torch.Generator) -> Layer:
    """He's uniform law: weights of variance 2 / fan_in, biases zero (He et al. 2015, eq. 10).

    The layer comes without storage ("meta"), so that its own draw from the global generator
    does not happen.
    """
    layer.to_empty(device="cpu")
    shape = layer.weight.shape
    uniform = torch.rand(shape, generator=rng, dtype=torch.float64, device=rng.device)
    layer.weight.copy_((2 * uniform - 1) * math.sqrt(6 / fan_in))
    if layer.bias is not None:
        layer.bias.zero_()
    return layer
