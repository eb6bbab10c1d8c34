"""Augmentation: random crops and flips of a batch, on the device where the batch is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


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
