"""Theorem 4: with a spatial set, the affine adversary can beat the union on a linear classifier.

The theorem is from Tramèr and Boneh 2019; the images and the classifier are ours. An image
shows one bright pixel, left of the middle for the label -1 and right of it for +1. The classifier's
template has weight 1 under the bright pixel's place, a small weight around it, and the opposite on
the other side. One pixel of shift already costs nearly all the score, a larger shift or a
rotation costs no more: the rest of the spatial budget can be spent on the l_inf ball.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpkit.sets.spatial import warp


@dataclass(frozen=True)
class BrightPixel:
    """Images of one bright pixel, and the linear classifier with R_max = 0 and R_affine = 1.

    The sets are the l_inf ball and all shifts and rotations within bounds. A template is so large
    that no allowed pose carries the bright pixel out of it.

    Args:
        eps: l_inf radius.
        pixels: bound of the shift along each axis, at least 2.
        degrees: bound of the angle, in [0, 90].
        around: weight b > 0 of the pixels around the bright one.
        size: side of the square image.
        dimmest: the brightness is uniform between this and 1.
    """

    eps: float = 0.3
    pixels: float = 3.0
    degrees: float = 30.0
    around: float = 0.002
    size: int = 28
    dimmest: float = 0.8

    def __post_init__(self) -> None:
        tall, wide = self.half_sizes
        if self.pixels < 2 or 2 * (2 * wide + 1) > self.size or 2 * tall + 1 > self.size - 1:
            raise ValueError(
                f"BrightPixel: poses of ±{self.pixels} px, ±{self.degrees}° need pixels ≥ 2 and "
                f"two templates of {2 * tall + 1} x {2 * wide + 1}, got size {self.size}"
            )
        if not 0 < self.eps * (1 + self.total) < self.dimmest <= 1:
            raise ValueError(
                f"BrightPixel: the ball alone would win: need eps (1 + {self.total:.3f}) < dimmest "
                f"≤ 1, got eps {self.eps}, dimmest {self.dimmest}; lower eps or around"
            )
        if not 0 < self.around < self.eps / 2 * self.total:
            raise ValueError(
                f"BrightPixel: half a budget each would not win: need 0 < around < eps / 2 · "
                f"{self.total:.3f}, got eps {self.eps}, around {self.around}"
            )

    @property
    def half_sizes(self) -> tuple[int, int]:
        """How many pixels a template reaches up and down, and to the sides.

        The pose moves the bright pixel by the shift and by a turn about the image's centre; some
        pixel no farther than √½ from where it comes to lie receives at least a quarter of it.
        """
        arm, turn = ((self.size - 1) / 2 - self.size // 4, math.radians(self.degrees))
        near = self.pixels + math.sqrt(0.5)
        up = near + arm * math.sin(turn) + 0.5 * (1 - math.cos(turn))
        aside = near + arm * (1 - math.cos(turn)) + 0.5 * math.sin(turn)
        return math.ceil(up), math.ceil(aside)

    @property
    def total(self) -> float:
        """The sum of the weights of one template, 1 + L b for L pixels around the bright one."""
        tall, wide = self.half_sizes
        return 1 + ((2 * tall + 1) * (2 * wide + 1) - 1) * self.around

    @property
    def template(self) -> Tensor:
        """The classifier's weights (size, size), float64: positive on the right."""
        (tall, wide), row = self.half_sizes, self.size // 2
        weight = torch.zeros(self.size, self.size, dtype=torch.float64)
        for sign, column in zip((-1.0, 1.0), self._columns, strict=True):
            rows = slice(max(0, row - tall), row + tall + 1)
            weight[rows, column - wide : column + wide + 1] = sign * self.around
            weight[row, column] = sign
        return weight

    @property
    def _columns(self) -> tuple[int, int]:
        return self.size // 4, self.size - 1 - self.size // 4

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n images (n, 1, size, size) in [0, 1] and labels (n,) of -1.0 or +1.0, float64."""
        side = torch.randint(2, (n,), generator=rng)
        share = torch.rand(n, generator=rng, dtype=torch.float64)
        x = torch.zeros(n, 1, self.size, self.size, dtype=torch.float64)
        columns = torch.tensor(self._columns)[side]
        x[torch.arange(n), 0, self.size // 2, columns] = 1 - (1 - self.dimmest) * share
        return x, 2.0 * side.double() - 1

    def score(self, x: Tensor) -> Tensor:
        """Scores (N,) of images (N, 1, size, size) by the linear classifier."""
        return (x * self.template.to(x)).sum(dim=(1, 2, 3))

    def network(self) -> nn.Module:
        """The same classifier as a network with logits (0, score), for ``mpkit``'s attacks."""
        layer = nn.Linear(self.size**2, 2, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(torch.stack([0 * self.template.flatten(), self.template.flatten()]))
            layer.bias.zero_()
        return nn.Sequential(nn.Flatten(), layer)

    def ball(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """The worst images of the l_inf ball and the pixel box around x, exactly."""
        worse = -y[:, None, None, None] * self.template.sign().to(x)
        return (x + eps * worse).clamp(0, 1)

    def poses(self, share: float, shifts: int = 7, angles: int = 3) -> Tensor:
        """A grid over a share of the spatial budget, its ends and the middle included.

        Args:
            share: of both bounds, in [0, 1].
            shifts: grid points along each axis, odd.
            angles: grid points of the angle, odd.

        Returns: (shifts² · angles, 3) poses (dx, dy, degrees).
        """
        along = torch.linspace(-1, 1, shifts, dtype=torch.float64) * share * self.pixels
        turn = torch.linspace(-1, 1, angles, dtype=torch.float64) * share * self.degrees
        return torch.cartesian_prod(along, along, turn)

    def margin(self, x: Tensor, y: Tensor, poses: Tensor, eps: float) -> Tensor:
        """The lowest y · score (N,) over poses (P, 3), each followed by the worst of the ball."""
        posed = (warp(x, pose.expand(len(x), 3)) for pose in poses)
        return torch.stack([y * self.score(self.ball(one, y, eps)) for one in posed]).amin(dim=0)

    def affine_margin(self, x: Tensor, y: Tensor, beta: float) -> Tensor:
        """The lowest y · score (N,) for β of the spatial budget and 1 - β of the l_inf budget."""
        return self.margin(x, y, self.poses(beta), (1 - beta) * self.eps)
