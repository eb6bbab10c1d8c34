"""At most so many pixels: what is called the l_0 ball."""

import re
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from mpkit.core.checks import Radius, require_radius
from mpkit.sets import norms, projections
from mpkit.sets.base import NUMBER, PerturbationSet, in_words, unreadable


@dataclass(frozen=True)
class L0(PerturbationSet, form="l0:R"):
    """All z that change at most eps pixels, in any of their channels, with x + z in [0, 1].

    It is no convex set: it has no dual norm, and blends of it are not defined.

    Args:
        eps: number of pixels, at least 1; half a pixel is none.

    Raises: ValueError: if eps is less than 1 or not finite.
    """

    eps: Radius

    def __post_init__(self) -> None:
        if not isinstance(self.eps, Tensor):
            require_radius("L0", self.eps)
            if self.eps < 1:
                raise ValueError(f"L0: eps counts pixels, at least 1, got {self.eps}; try 10")

    def norm(self, z: Tensor) -> Tensor:
        """How many pixels are changed: (B, C, H, W) to (B,)."""
        return (z != 0).any(1).flatten(1).sum(1).to(z.dtype)

    def describe(self) -> str:
        """Such as l0:20."""
        return f"l0:{in_words(self.eps)}"

    @classmethod
    def parse(cls, text: str) -> "L0":
        """Read such as l0:20."""
        match = re.fullmatch(rf"l0\s*:\s*({NUMBER})", text)
        if not match:
            raise unreadable(text, "has no number of pixels")
        return cls(float(match[1]))

    def apply(self, x: Tensor, z: Tensor) -> Tensor:
        """The image x + z: (B, C, H, W)."""
        return x + z

    def contains(self, x: Tensor, z: Tensor) -> Tensor:
        """Whether few enough pixels are changed and x + z lies in [0, 1]: (B,) bool."""
        boxed = ((z >= -x) & (z <= 1 - x)).flatten(1).all(1)
        return boxed & (self.norm(z) <= self.eps)

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """A nearest allowed point: the pixels that move most within the box, the others stay."""
        z = projections.clip_to_box(z, x)
        return z * self._first(-z.square().sum(1, keepdim=True))

    def gauge(self, x: Tensor, z: Tensor) -> Tensor:
        """Number of changed pixels over eps: (B,) float64."""
        norm = self.norm(z.double())
        return norm / norms.per_row(self.eps, norm)

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Pixels drawn alike, each of them with uniform values in all channels."""
        value = torch.rand(x.shape, generator=rng, dtype=x.dtype, device=x.device) - x
        order = torch.rand(x[:, :1].shape, generator=rng, dtype=x.dtype, device=x.device)
        return value * self._first(order)

    def _first(self, order: Tensor) -> Tensor:
        """As many pixels as are allowed, those with the least numbers (B, 1, H, W): 0 and 1."""
        flat = order.flatten(1)
        rank = torch.argsort(torch.argsort(flat, dim=1, stable=True), dim=1)
        kept: Tensor = torch.lt(rank, norms.per_row(self.eps, flat).floor())
        return kept.view_as(order).to(order.dtype)

    def zero(self, x: Tensor) -> Tensor:
        """Zeros of the shape of x."""
        return torch.zeros_like(x)

    def scaled(self, w: Radius) -> "L0":
        """The same with w eps pixels; w is a number or (B,) numbers ≥ 0."""
        made = copy(self)
        object.__setattr__(made, "eps", self.eps * w)
        return made

    def check(self, x: Tensor) -> None:
        """Refuse a number that is not finite, or not one for each image."""
        require_radius("L0", self.eps, len(x))
