"""Theorem 4: with a spatial set, the affine adversary can beat the union on a linear classifier.

The theorem is from Tramèr and Boneh 2019; the images and the classifier are ours. An image
shows one bright pixel, left of the middle for the label -1 and right of it for +1. The classifier's
template has weight 1 under the bright pixel's place, a small weight around it, and the opposite on
the other side. One pixel of shift already costs nearly all the score, more shift costs no more:
the rest of the shift budget can be spent on the l_inf ball.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpkit.warp import warp


@dataclass(frozen=True)
class BrightPixel:
    """Images of one bright pixel, and the linear classifier with R_max = 0 and R_affine = 1.

    Args:
        eps: l_inf radius.
        pixels: shift radius m ≥ 2, in whole pixels, along each axis.
        around: weight b > 0 of the pixels around the bright one.
        size: side of the square image, at least 4 (m + 1).
        dimmest: the brightness is uniform between this and 1.
    """

    eps: float = 0.3
    pixels: int = 3
    around: float = 0.01
    size: int = 28
    dimmest: float = 0.8

    def __post_init__(self) -> None:
        if self.pixels < 2 or self.size < 4 * (self.pixels + 1):
            raise ValueError(
                f"BrightPixel: need pixels ≥ 2 and size ≥ 4 (pixels + 1), got {self.pixels}, "
                f"{self.size}; a smaller image has no place for two templates"
            )
        neighbours = (2 * self.pixels + 1) ** 2 - 1
        template = 1 + neighbours * self.around
        if not 0 < self.eps * (1 + template) < self.dimmest <= 1:
            raise ValueError(
                f"BrightPixel: the ball alone would win: need eps (2 + {neighbours} around) < "
                f"dimmest ≤ 1, got eps {self.eps}, around {self.around}, dimmest {self.dimmest}"
            )
        if not 0 < self.around < self.eps / 2 * template:
            raise ValueError(
                f"BrightPixel: half a budget each would not win: need 0 < around < eps / 2 · "
                f"(1 + {neighbours} around), got eps {self.eps}, around {self.around}"
            )

    @property
    def template(self) -> Tensor:
        """The classifier's weights (size, size), float64: positive on the right."""
        m, row = self.pixels, self.size // 2
        weight = torch.zeros(self.size, self.size, dtype=torch.float64)
        for sign, column in zip((-1.0, 1.0), self._columns, strict=True):
            weight[row - m : row + m + 1, column - m : column + m + 1] = sign * self.around
            weight[row, column] = sign
        return weight

    @property
    def _columns(self) -> tuple[int, int]:
        return self.size // 4, self.size - 1 - self.size // 4

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n labelled images.

        Args:
            n: how many.
            rng: source of all randomness.

        Returns: images (n, 1, size, size) in [0, 1], float64, and labels (n,), -1.0 or +1.0.
        """
        side = torch.randint(2, (n,), generator=rng)
        bright = self.dimmest + (1 - self.dimmest) * torch.rand(n, generator=rng).double()
        x = torch.zeros(n, 1, self.size, self.size, dtype=torch.float64)
        x[torch.arange(n), 0, self.size // 2, torch.tensor(self._columns)[side]] = bright
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
        """The worst images of the l_inf ball and the pixel box around x, exactly.

        Args:
            x: (N, 1, size, size) in [0, 1].
            y: (N,), -1.0 or +1.0.
            eps: radius.

        Returns: (N, 1, size, size) in [0, 1].
        """
        worse = -y[:, None, None, None] * self.template.sign().to(x)
        return (x + eps * worse).clamp(0, 1)

    def margin(self, x: Tensor, y: Tensor, pixels: float, eps: float, step: float = 0.5) -> Tensor:
        """The lowest y · score over every shift of a grid, each followed by the worst ball.

        Args:
            x: (N, 1, size, size).
            y: (N,).
            pixels: the shift radius that may be used, along each axis.
            eps: the l_inf radius that may be used.
            step: distance of the grid's shifts; the ends ±pixels are always among them.

        Returns: (N,); at most 0 where the classifier errs.
        """
        count = math.ceil(round(pixels / step, 9))
        shifts = [max(-pixels, min(pixels, k * step)) for k in range(-count, count + 1)]
        lowest = torch.full_like(y, math.inf)
        for dx in shifts:
            for dy in shifts:
                pose = x.new_tensor([dx, dy, 0.0]).expand(len(x), 3)
                attacked = self.ball(warp(x, pose), y, eps)
                lowest = torch.minimum(lowest, y * self.score(attacked))
        return lowest

    def affine_margin(self, x: Tensor, y: Tensor, beta: float, step: float = 0.5) -> Tensor:
        """The lowest y · score (N,) for β of the shift budget and 1 - β of the l_inf budget."""
        return self.margin(x, y, beta * self.pixels, (1 - beta) * self.eps, step)
