"""A start beyond the border: towards the nearest images that the network calls otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpkit.checks import require_positive
from mpkit.engine import Problem
from mpkit.pgd import Start
from mpkit.sets import Ball


@dataclass(frozen=True)
class Across(Start):
    """The first point on the way to a near image of another class at which the network errs.

    Where gradients are flat around an image, as in networks that threshold their input, they are
    not flat at a border between two classes: a search that begins there does not need the slope
    that the network hides. The point usually lies outside of the ball, so this is a start for
    minimum-norm attacks. An image without any such neighbour starts at itself.

    Args:
        nth: which neighbour, by distance in the ball's norm; 0 is the nearest, ≥ 0. Where there
            are fewer, the furthest.
        halvings: of the way, to find the border; > 0.

    Raises:
        ValueError: if nth is negative or halvings is not positive.

    Source: the start of boundary attacks (Brendel et al. 2018), here for a gradient search; ours.
    """

    nth: int = 0
    halvings: int = 10

    def __post_init__(self) -> None:
        require_positive("Across", halvings=self.halvings)
        if self.nth < 0:
            raise ValueError(f"Across: nth must be ≥ 0, got {self.nth}; 0 is the nearest neighbour")

    def __call__(self, ball: Ball, problem: Problem) -> Tensor:
        """Find neighbours among the problem's donors, then the border: z (B, C, H, W)."""
        x, y, model = problem.x, problem.y, problem.model
        donors = x if problem.donors is None else problem.donors
        called = model(donors).argmax(1)
        distance = torch.stack([ball.norm(donors - image) for image in x])
        same = called == y.unsqueeze(1)
        order = distance.masked_fill(same, torch.inf).argsort(dim=1, stable=True)
        last = (~same).sum(1) - 1
        place = last.clamp(min=0, max=self.nth).unsqueeze(1)
        way = donors[order.gather(1, place).squeeze(1)] - x
        way = torch.where((last >= 0).view(-1, 1, 1, 1), way, 0)
        low, high = x.new_zeros(len(x), 1, 1, 1), x.new_ones(len(x), 1, 1, 1)
        for _ in range(self.halvings):
            middle = (low + high) / 2
            wrong = (model(x + middle * way).argmax(1) != y).view(-1, 1, 1, 1)
            low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
        return (x + high * way).clamp_(0, 1) - x
