"""Rotations and shifts of an image within bounds."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mpkit import geometry
from mpkit.checks import Radius, require_radius
from mpkit.perturbation import PerturbationSet
from mpkit.warp import warp


@dataclass(frozen=True)
class RotationTranslation(PerturbationSet):
    """Shifts within ± pixels in each axis and rotations within ± degrees, bilinear, zeros outside.

    The coordinate z is (B, 3): shift to the right, shift downwards, and anticlockwise angle.

    Raises:
        ValueError: if a bound is negative or not finite.
    """

    pixels: Radius
    degrees: Radius

    def __post_init__(self) -> None:
        for argument in ("pixels", "degrees"):
            bound = getattr(self, argument)
            if not isinstance(bound, Tensor) and bound != 0:
                require_radius("RotationTranslation", bound, argument=argument)

    def bounds(self, x: Tensor) -> Tensor:
        """Greatest absolute value of each entry of z: (B, 3)."""
        pixels, degrees = (
            geometry.per_row(bound, x[:, 0, 0, 0]).expand(len(x))
            for bound in (self.pixels, self.degrees)
        )
        return torch.stack([pixels, pixels, degrees], 1)

    def apply(self, x: Tensor, z: Tensor) -> Tensor:
        """Rotate each image about its centre, then shift it: (B, C, H, W), in [0, 1]."""
        return warp(x, z)

    def contains(self, x: Tensor, z: Tensor) -> Tensor:
        """Whether every entry of z keeps its bound, up to 32 machine epsilons: (B,) bool."""
        return (z.abs() <= self.bounds(x) * (1 + geometry.slack(x.dtype))).all(1)

    def fits(self, x: Tensor, z: Tensor) -> Tensor:
        """The same as contains: a warped image never leaves [0, 1]. (B,) bool."""
        return self.contains(x, z)

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """Clip each entry of z to its bound: (B, 3)."""
        bounds = self.bounds(x)
        return torch.minimum(torch.maximum(z, -bounds), bounds)

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Draw shifts and angle uniformly and independently: (B, 3)."""
        share = torch.rand(len(x), 3, generator=rng, dtype=x.dtype, device=x.device)
        return share.mul_(2).sub_(1).mul_(self.bounds(x))

    def nothing(self, x: Tensor) -> Tensor:
        """Zeros (B, 3)."""
        return x.new_zeros(len(x), 3)

    def scaled(self, w: Radius) -> Self:
        """Both bounds times w, a number > 0 or (B,) numbers ≥ 0."""
        return replace(self, pixels=self.pixels * w, degrees=self.degrees * w)

    def check(self, x: Tensor) -> None:
        """Refuse bounds that are not finite, or not one for each image.

        Raises:
            ValueError: with what is wrong and what to do.
        """
        for argument in ("pixels", "degrees"):
            bound = getattr(self, argument)
            if isinstance(bound, Tensor):
                require_radius("RotationTranslation", bound, len(x), argument)
