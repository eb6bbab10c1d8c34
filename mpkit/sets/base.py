"""What every perturbation set can do."""

from abc import ABC, abstractmethod
from typing import Any, Self

import torch
from torch import Tensor

from mpkit.core.checks import Radius

Coordinate = Any
"""A tensor (B, ...) or a tuple of such tensors, whatever the set uses."""


class PerturbationSet(ABC):
    """What an adversary may do to an image, described by a coordinate z for each image."""

    @abstractmethod
    def apply(self, x: Tensor, z: Coordinate) -> Tensor:
        """Perturb images x (B, C, H, W) by z: (B, C, H, W), in [0, 1] when z is contained."""

    @abstractmethod
    def contains(self, x: Tensor, z: Coordinate) -> Tensor:
        """Whether each z is allowed for its image, up to rounding: (B,) bool."""

    @abstractmethod
    def sample(self, x: Tensor, rng: torch.Generator) -> Coordinate:
        """Draw one z for each image of x (B, C, H, W)."""

    @abstractmethod
    def nothing(self, x: Tensor) -> Coordinate:
        """The z that leaves each image as it is."""

    @abstractmethod
    def scaled(self, w: Radius) -> Self:
        """The same set with all budgets times w, a number > 0 or (B,) numbers ≥ 0."""

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Refuse budgets that are not finite, or not one for each image of x (B, C, H, W).

        Raises:
            ValueError: with what is wrong and what to do.
        """
