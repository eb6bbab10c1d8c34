"""Augmentation: random crops, flips and bends of a batch, on the device where the batch is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, pad


class Augmentation(ABC):
    """A random change that leaves an image's class alone."""

    @abstractmethod
    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Change every image of x (B, C, H, W) on its own, without waiting for the device."""


@dataclass(frozen=True)
class Crop(Augmentation):
    """A window of the image's own size, at a random place of the image with a black border.

    Args:
        border: pixels on each side, at least 1; 4 is usual for CIFAR-10.

    Raises: ValueError: a border of no pixels.
    """

    border: int = 4

    def __post_init__(self) -> None:
        if self.border < 1:
            raise ValueError(f"Crop: border must be at least 1 pixel, got {self.border}")

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """All (2 border + 1) squared places are equally likely."""
        count, channels, height, width = x.shape
        wide = pad(x, (self.border,) * 4)
        places = (2, count, 1)
        top, left = torch.randint(2 * self.border + 1, places, generator=rng, device=x.device)
        rows = (top + torch.arange(height, device=x.device)).view(count, 1, height, 1)
        columns = (left + torch.arange(width, device=x.device)).view(count, 1, 1, width)
        image = torch.arange(count, device=x.device).view(-1, 1, 1, 1)
        channel = torch.arange(channels, device=x.device).view(1, -1, 1, 1)
        return wide[image, channel, rows, columns]


@dataclass(frozen=True)
class Flip(Augmentation):
    """The mirror image, left for right, of every second image on average."""

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Each image is turned round with probability 1/2."""
        coin = torch.randint(2, (len(x), 1, 1, 1), generator=rng, device=x.device)
        return torch.where(coin == 1, x.flip(-1), x)


@dataclass(frozen=True)
class Elastic(Augmentation):
    """Images as if drawn on rubber: turned, sheared, stretched and bent a little, by chance.

    Args:
        bend: standard deviation of the shifts of 5 x 5 points, in pixels; between them the shifts
            are interpolated.
        turn: largest angle of rotation and shear, in degrees, and largest stretch, in percent.

    Raises: ValueError: one of them is negative.

    Source: after Simard, Steinkraus and Platt 2003.
    """

    bend: float = 0.5
    turn: float = 5.0

    def __post_init__(self) -> None:
        if min(self.bend, self.turn) < 0:
            raise ValueError(f"Elastic: bend and turn must not be negative, got {self}; try 0.5, 5")

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Bend every image on its own."""
        new: dict[str, Any] = {"generator": rng, "device": x.device, "dtype": x.dtype}
        drawn = 2 * torch.rand(4, len(x), **new) - 1
        angle, shear = drawn[:2] * self.turn * torch.pi / 180
        wide, high = 1 + drawn[2:] * self.turn / 100
        rows = (angle.cos() * wide, shear.tan() - angle.sin(), angle.sin(), angle.cos() * high)
        matrix = torch.stack(rows, 1).view(-1, 2, 2)
        grid = affine_grid(torch.cat([matrix, x.new_zeros(len(x), 2, 1)], 2), [*x.shape], False)
        points = torch.randn(len(x), 2, 5, 5, **new) * self.bend
        shifts = interpolate(points, x.shape[2:], mode="bicubic", align_corners=True)
        size = x.new_tensor([x.shape[3], x.shape[2]])
        return grid_sample(x, grid + 2 * shifts.movedim(1, 3) / size, align_corners=False)
