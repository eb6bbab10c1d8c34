"""A dead zone as wide as an image is grey where pictures of black and white have no grey."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mpkit.sets.dead_zone import ramp, require_width


def border(x: Tensor) -> Tensor:
    """Pixels with a neighbour above, below or beside on the other side of 1/2: (B, C, H, W) bool.

    Drawings of black and white that were scaled have their greys here.
    """
    white = x >= 0.5
    down, along = white[..., 1:, :] != white[..., :-1, :], white[..., 1:] != white[..., :-1]
    found = pad(down, (0, 0, 0, 1)) | pad(down, (0, 0, 1, 0))
    return found | pad(along, (0, 1)) | pad(along, (1, 0))


class RankZone(nn.Module):
    """A first layer whose dead zone is as wide as the pixel of a rank is grey.

    Pixels are sorted by how far they are from black or white, whichever is nearer; that of the
    given rank is the width of a dead zone for the whole image. Few large changes leave it at zero,
    many small ones widen it until they are lost. Where all pixels count, an image is black and
    white and the rank is at least 2 ε, no change of l_1 norm ε moves the output by more than that,
    and none of l_inf norm up to ``most`` by more than (rank - 1) times its norm (ours; the page *A
    threshold on purpose* has the proof).

    Args:
        rank: at least 1, and at most the number of values of an image.
        most: the greatest width, in [0, 1/2).
        exempt: whether pixels on the border between black and white do not count; drawings that
            were scaled are grey there.

    Raises: ValueError: an argument is out of its range, or an image has fewer values.
    """

    def __init__(self, rank: int = 20, most: float = 0.3, exempt: bool = True) -> None:
        super().__init__()
        require_width("RankZone", most)
        if rank < 1:
            raise ValueError(f"RankZone: rank must be at least 1, got {rank}; try 20")
        self.rank, self.most, self.exempt = rank, most, exempt

    def width(self, x: Tensor) -> Tensor:
        """Of the dead zone of every image: (B, 1, 1, 1)."""
        grey = torch.minimum(x, 1 - x)
        grey = (grey * ~border(x) if self.exempt else grey).flatten(1)
        if grey.shape[1] < self.rank:
            raise ValueError(
                f"RankZone: rank {self.rank} is more than the {grey.shape[1]} values of an image"
            )
        return grey.topk(self.rank, dim=1).values[:, -1].clamp(max=self.most).view(-1, 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to the same."""
        return ramp(x, self.width(x))

    def extra_repr(self) -> str:
        """The rank and the greatest width."""
        return f"{self.rank}, most={self.most}"


Front = float | RankZone
"""What is known of a first layer: the width of a dead zone, or a zone whose width follows."""
