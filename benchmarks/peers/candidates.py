"""What an attack of a library is to the comparison: a name, a kind of ball, a plain function."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mpbook.teaching.conformance import Search
from mpkit.sets import L1, L2, Ball, Linf

Make = Callable[[Ball, int], Search]
P = {Linf: np.inf, L2: 2, L1: 1}


class Candidate(NamedTuple):
    """An attack of a library on one kind of ball.

    Attributes:
        name: with what distinguishes it from the library's others.
        kind: of ball.
        make: the plain function for a ball and a budget of gradients per image.
        keeps: it is given a radius and must keep it; otherwise it minimizes a norm.
    """

    name: str
    kind: type[Ball]
    make: Make
    keeps: bool = True


def neighbours(model: nn.Module, ball: Ball, x: Tensor, y: Tensor) -> Tensor | None:
    """For each image the nearest of the others that the model calls otherwise: (B, C, H, W).

    What our ``BoundaryStart`` starts from, for libraries whose attacks accept starting points; None
    where an image has no such neighbour.
    """
    with torch.no_grad():
        same = model(x).argmax(1) == y.unsqueeze(1)
    if bool(same.all(1).any()):
        return None
    distance = torch.stack([ball.norm(x - image) for image in x])
    return x[distance.masked_fill(same, torch.inf).argmin(1)]
