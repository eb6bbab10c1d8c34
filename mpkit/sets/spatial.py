"""Rotations and shifts of an image within bounds."""

import re
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from mpkit.core.checks import Radius, require_radius
from mpkit.sets import norms
from mpkit.sets.base import NUMBER, PerturbationSet, in_words, unreadable


@dataclass(frozen=True)
class RotationTranslation(PerturbationSet, form="rt:Ppx,Ddeg"):
    """Shifts within ± pixels in each axis and rotations within ± degrees, bilinear, zeros outside.

    The coordinate z is (B, 3): shift to the right, shift downwards, and anticlockwise angle.

    Raises: ValueError: if a bound is negative or not finite.
    """

    pixels: Radius
    degrees: Radius

    def __post_init__(self) -> None:
        for argument in ("pixels", "degrees"):
            bound = getattr(self, argument)
            if not isinstance(bound, Tensor) and bound != 0:
                require_radius("RotationTranslation", bound, argument=argument)
        if not isinstance(self.degrees, Tensor) and self.degrees > 180:
            raise ValueError(
                f"RotationTranslation: degrees must be at most 180, all rotations, got "
                f"{self.degrees:g}"
            )

    def describe(self) -> str:
        """Such as rt:3px,30deg."""
        return f"rt:{in_words(self.pixels)}px,{in_words(self.degrees)}deg"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read such as rt:3px,30deg."""
        match = re.fullmatch(rf"\w+\s*:\s*({NUMBER})\s*px\s*,\s*({NUMBER})\s*deg", text)
        if not match:
            raise unreadable(text, "has no bounds of shift and rotation")
        return cls(float(match[1]), float(match[2]))

    def bounds(self, x: Tensor) -> Tensor:
        """Greatest absolute value of each entry of z: (B, 3)."""
        pixels, degrees = (
            norms.per_row(bound, x[:, 0, 0, 0]).expand(len(x))
            for bound in (self.pixels, self.degrees)
        )
        return torch.stack([pixels, pixels, degrees], 1)

    def apply(self, x: Tensor, z: Tensor) -> Tensor:
        """Rotate each image about its centre, then shift it: (B, C, H, W), in [0, 1]."""
        return warp(x, z)

    def contains(self, x: Tensor, z: Tensor) -> Tensor:
        """Whether every entry of z keeps its bound, up to 32 machine epsilons: (B,) bool."""
        return (z.abs() <= self.bounds(x) * (1 + norms.slack(x.dtype))).all(1)

    def fits(self, x: Tensor, z: Tensor) -> Tensor:
        """The same as contains: a warped image never leaves [0, 1]. (B,) bool."""
        return self.contains(x, z)

    def gauge(self, x: Tensor, z: Tensor) -> Tensor:
        """The greatest share of its bound that an entry of z takes: (B,) float64."""
        bounds = self.bounds(x.double())
        share = torch.where(
            bounds > 0, z.double().abs() / bounds, torch.where(z == 0, 0, torch.inf)
        )
        return share.amax(1)

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """Clip each entry of z to its bound: (B, 3)."""
        bounds = self.bounds(x)
        return torch.minimum(torch.maximum(z, -bounds), bounds)

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Draw shifts and angle uniformly and independently: (B, 3)."""
        share = torch.rand(len(x), 3, generator=rng, dtype=x.dtype, device=x.device)
        return share.mul_(2).sub_(1).mul_(self.bounds(x))

    def zero(self, x: Tensor) -> Tensor:
        """Zeros (B, 3)."""
        return x.new_zeros(len(x), 3)

    def scaled(self, w: Radius) -> Self:
        """Both bounds times w, a number > 0 or (B,) numbers ≥ 0."""
        return replace(self, pixels=self.pixels * w, degrees=self.degrees * w)

    def check(self, x: Tensor) -> None:
        """Refuse bounds that are not finite, or not one for each image."""
        for argument in ("pixels", "degrees"):
            bound = getattr(self, argument)
            if isinstance(bound, Tensor):
                require_radius("RotationTranslation", bound, len(x), argument)
        largest = max(x.shape[2:])
        if not isinstance(self.pixels, Tensor) and self.pixels > largest:
            raise ValueError(
                f"RotationTranslation: pixels must be at most {largest}, the image's side, got "
                f"{self.pixels:g}: such a shift leaves nothing to see"
            )


def warp(x: Tensor, pose: Tensor) -> Tensor:
    """Rotate each image about its centre, then shift it, with bilinear interpolation.

    Pixels that come from outside the image are zero and nothing wraps round. The identity pose
    and shifts by whole pixels are exact, and no pixel leaves the range of the four it is mixed
    from. Gradients flow to the images and to the pose.

    Args:
        x: (B, C, H, W), the shape of the result.
        pose: (B, 3): shift to the right and shift downwards in pixels, and the angle in degrees,
            positive anticlockwise as the image is looked at.

    Raises: ValueError: if the shapes do not fit.
    """
    if x.dim() != 4 or pose.shape != (len(x), 3):
        raise ValueError(
            f"warp: pose must be (B, 3) = (dx, dy, degrees) for images (B, C, H, W), got "
            f"{tuple(pose.shape)} for {tuple(x.shape)}; give one pose per image"
        )
    height, width = x.shape[-2:]
    wide = torch.promote_types(x.dtype, torch.float32)  # half numbers could not count the pixels
    across, down = _source(pose.to(wide), height, width)
    left, top = across.detach().floor(), down.detach().floor()
    rightwards = (across - left).to(x.dtype).unsqueeze(1)
    downwards = (down - top).to(x.dtype).unsqueeze(1)
    padded = torch.nn.functional.pad(x, (1, 2, 1, 2)).flatten(2)
    stride = width + 3
    corner = top.add_(1).mul_(stride).add_(left).add_(1).long().flatten(1).unsqueeze(1)
    corner = corner.expand(-1, x.shape[1], -1)

    def at(offset: int) -> Tensor:
        return padded[..., offset:].gather(2, corner).view_as(x)

    upper = at(0).lerp(at(1), rightwards)
    lower = at(stride).lerp(at(stride + 1), rightwards)
    return upper.lerp(lower, downwards)


def _source(pose: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Columns and rows (B, H, W) each pixel comes from, kept to [-1, W] and [-1, H]."""
    shift_x, shift_y, degrees = pose.unsqueeze(2).unbind(1)
    angle = torch.deg2rad(degrees)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    u = torch.arange(width, device=pose.device, dtype=pose.dtype) - middle_x - shift_x
    v = torch.arange(height, device=pose.device, dtype=pose.dtype) - middle_y - shift_y
    across = ((cosine * u).unsqueeze(1) - (sine * v).unsqueeze(2)).add_(middle_x)
    down = ((sine * u).unsqueeze(1) + (cosine * v).unsqueeze(2)).add_(middle_y)
    return across.clamp_(-1, width), down.clamp_(-1, height)
