"""What an adversary can do behind a dead zone: a ball in the output of a fixed first layer."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mpkit.core.checks import Radius
from mpkit.sets.balls import Ball
from mpkit.sets.base import NUMBER, PerturbationSet, in_words, read, unreadable

EDGE = 2**-20
"""How far black and white of the output stay from the ends of the ramp, where it has no slope."""


def require_width(who: str, a: float) -> None:
    """Refuse a width that is no part of half of the grey scale.

    Raises: ValueError: it is not in [0, 1/2).
    """
    if not 0 <= a < 0.5:
        raise ValueError(f"{who}: a must lie in [0, 0.5), got {a}; try 0.2")


def read_width(who: str, text: str) -> float:
    """The width that a name ends with, such as 0.3.

    Raises: ValueError: it is no number in [0, 1/2).
    """
    try:
        width = float(text)
    except ValueError:
        raise ValueError(f"{who}: {text!r} is no width of a dead zone; try 0.2") from None
    require_width(who, width)
    return width


def ramp(x: Tensor, a: Radius) -> Tensor:
    """The dead zone: clip((x - a) / (1 - 2a), 0, 1), pixel by pixel; a fits the shape of x."""
    return ((x - a) / (1 - 2 * a)).clamp(0, 1)


def back(u: Tensor, a: float) -> Tensor:
    """An image that the ramp turns into u, every pixel where the ramp has a slope."""
    return a + (1 - 2 * a) * (EDGE + (1 - 2 * EDGE) * u)


def nearest(x: Tensor, u: Tensor, a: float) -> Tensor:
    """Of all images that the ramp turns into u, the one nearest to x, pixel by pixel."""
    on_ramp = a + (1 - 2 * a) * u
    low, high = torch.where(u <= 0, 0, on_ramp), torch.where(u >= 1, 1, on_ramp)
    return torch.minimum(torch.maximum(x, low), high)


@dataclass(frozen=True)
class BehindDeadZone(PerturbationSet, form="zone(A & BALL)"):
    """All z with x + z in [0, 1] that move the output of a dead zone D by a point of a ball.

    For images of black and white pixels, the l_p ball of radius ε and the l_inf ball of radius a
    lie within this set of the l_p ball of radius ε / (1 - a): a network that is robust behind the
    dead zone there is robust against both (ours; the page *A threshold on purpose* has the proof).

    Args:
        ball: around D(x), with its box.
        a: the width of the dead zone, in [0, 1/2).

    Raises: ValueError: a width out of its range.
    """

    ball: Ball
    a: float

    def __post_init__(self) -> None:
        require_width("BehindDeadZone", self.a)

    def moved(self, x: Tensor, z: Tensor) -> Tensor:
        """By how much z moves the output of the dead zone: (B, C, H, W)."""
        return ramp(x + z, self.a) - ramp(x, self.a)

    def describe(self) -> str:
        """Such as zone(0.3 & l1:14)."""
        return f"zone({in_words(self.a)} & {self.ball.describe()})"

    @classmethod
    def parse(cls, text: str) -> BehindDeadZone:
        """Read such as zone(0.3 & l1:14)."""
        match = re.fullmatch(rf"zone\s*\(\s*({NUMBER})\s*&(.+)\)", text)
        ball = read(match[2]) if match else None
        if match is None or not isinstance(ball, Ball):
            raise unreadable(text, "has no width and ball")
        return cls(ball, float(match[1]))

    def apply(self, x: Tensor, z: Tensor) -> Tensor:
        """The image x + z: (B, C, H, W)."""
        return x + z

    def contains(self, x: Tensor, z: Tensor) -> Tensor:
        """Whether the output moves within the ball, and x + z lies in [0, 1]: (B,) bool."""
        boxed = ((z >= -x) & (z <= 1 - x)).flatten(1).all(1)
        return boxed & self.ball.contains(ramp(x, self.a), self.moved(x, z))

    def project(self, x: Tensor, z: Tensor) -> Tensor:
        """An allowed point: the output's move is projected, and the nearest image taken."""
        u, inside = ramp(x, self.a), (x + z).clamp(0, 1) - x
        there = u + self.ball.project(u, self.moved(x, inside))
        allowed = nearest(x + inside, there, self.a) - x
        return torch.where(self.contains(x, z).view(-1, 1, 1, 1), z, allowed)

    def sample(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """The nearest image to a point that is drawn from the ball of the output."""
        u = ramp(x, self.a)
        return nearest(x, u + self.ball.sample(u, rng), self.a) - x

    def zero(self, x: Tensor) -> Tensor:
        """Zeros of the shape of x."""
        return torch.zeros_like(x)

    def scaled(self, w: Radius) -> BehindDeadZone:
        """The same with w times the radius; w is a number or (B,) numbers ≥ 0."""
        return replace(self, ball=self.ball.scaled(w))

    def check(self, x: Tensor) -> None:
        """Refuse a radius that is not finite, or not one for each image."""
        self.ball.check(x)
