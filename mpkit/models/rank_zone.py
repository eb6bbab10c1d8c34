"""A dead zone as wide as an image is grey where drawings in black and white have no grey."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mpkit.sets.dead_zone import ramp, require_width


@dataclass(frozen=True)
class RankRule:
    """How wide a dead zone is: as the pixel of a rank is grey.

    Pixels are sorted by how far they are from black or white, whichever is nearer; the width is
    that of the pixel of the given rank.

    Args:
        rank: at least 1, and at most the number of values of an image.
        most: the greatest width, in [0, 1/2).
        exempt: whether pixels on the border of a drawing do not count; drawings that were scaled
            are grey there.

    Raises: ValueError: an argument is out of its range.
    """

    rank: int = 20
    most: float = 0.3
    exempt: bool = True

    def __post_init__(self) -> None:
        require_width("RankZone", self.most)
        if self.rank < 1:
            raise ValueError(f"RankZone: rank must be at least 1, got {self.rank}; try 20")

    def border(self, x: Tensor) -> Tensor:
        """Pixels that do not count: (B, C, H, W) to bool.

        Of such a pixel and the four beside it one is black, up to ``most``, and one white.
        """
        if not self.exempt:
            return torch.zeros_like(x, dtype=torch.bool)
        return _beside(x <= self.most) & _beside(x >= 1 - self.most)

    def width(self, x: Tensor) -> Tensor:
        """Of the dead zone of every image: (B, 1, 1, 1).

        Raises: ValueError: an image has fewer values than the rank.
        """
        grey = (torch.minimum(x, 1 - x) * ~self.border(x)).flatten(1)
        if grey.shape[1] < self.rank:
            raise ValueError(
                f"RankZone: rank {self.rank} is more than the {grey.shape[1]} values of an image"
            )
        return grey.topk(self.rank, dim=1).values[:, -1].clamp(max=self.most).view(-1, 1, 1, 1)


def _beside(mask: Tensor) -> Tensor:
    """Pixels of the mask, and those above, below and beside one."""
    down, up = pad(mask[..., :-1, :], (0, 0, 1, 0)), pad(mask[..., 1:, :], (0, 0, 0, 1))
    return mask | down | up | pad(mask[..., :-1], (1, 0)) | pad(mask[..., 1:], (0, 1))


class RankZone(nn.Module):
    """A first layer whose dead zone is as wide as the pixel of a rank is grey.

    Few large changes leave the width at zero, many small ones widen the zone until they are lost
    in it. Where all pixels count, an image is black and white and the rank is at least 2 ε, no
    change of l_1 norm ε moves the output by more than that, and none of l_inf norm up to ``most``
    by more than (rank - 1) times its norm (ours; the page *A threshold that counts* has the proof).
    Backwards the width is a constant and, where the zone is flat, the slope 1 / (1 - width).

    Args:
        rule: how wide.
    """

    def __init__(self, rule: RankRule | None = None) -> None:
        super().__init__()
        self.rule = rule or RankRule()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to the same."""
        seen = x.detach()
        a = self.rule.width(seen)
        out = ramp(seen, a)
        slope = torch.where((out > 0) & (out < 1), 1 / (1 - 2 * a), 1 / (1 - a))
        return out + (x - seen) * slope

    def extra_repr(self) -> str:
        """The rule."""
        return f"{self.rule}"


Front = float | RankRule
"""What is known of a first layer: the width of a dead zone, or how it follows from the image."""
