"""How near an attack comes to the least perturbation that anybody found, at a price it must keep.

The measures of AttackBench: each image is followed through the whole attack, and what counts is the
smallest perturbation that the network was ever asked about and called otherwise, not the last one.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

import torch
from torch import Tensor, nn

Minimizer = Callable[[nn.Module, Tensor, Tensor], object]
"""An attack that makes perturbations small: model, images (B, C, H, W), labels (B,)."""


class Spent(Exception):
    """No image has a propagation left: the attack ends here."""


class Observed(nn.Module):
    """A network that keeps the least perturbation it was asked about, and what that cost.

    A row of a batch belongs to the image at its place, or, in batches of another size, to the
    nearest one in l_2; either way it is a perturbation of the image that it is counted for. An
    image is followed as long as it has propagations left at the start of a batch, and not after.
    Pixels outside of the box are brought to its walls.

    Args:
        model: in evaluation mode.
        x: (N, C, H, W) clean images.
        y: (N,) labels.
        order: of the norm: infinity, 2 or 1.
        budget: propagations for each image, forward and backward together, > 0.

    Attributes:
        least: (N,) float64, the least norm so far at which the network erred: 0 where it errs on
            the clean image, infinite where nothing was found.
        spent: (N,) propagations so far.

    Source: Cinà et al. 2025 (AttackBench), algorithm 1.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, order: float, budget: int) -> None:
        super().__init__()
        self.model, self.x, self.y, self.order, self.budget = model, x, y, order, budget
        with torch.no_grad():
            right = model(x).argmax(1) == y
        self.least = torch.where(right, torch.inf, torch.zeros(len(x), dtype=torch.float64))
        self.spent = torch.zeros(len(x), dtype=torch.int64)

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits.

        Raises: Spent: no image has a propagation left.
        """
        # not x.clamp(0, 1): its slope is 0 at a wall, where clean pixels often are
        x = torch.where((x < 0) | (x > 1), x.detach().clamp(0, 1), x)
        asked = x.detach()
        rows = self._rows(asked)
        open_ = self.spent[rows] < self.budget
        if not bool((self.spent < self.budget).any()):
            raise Spent
        self._count(rows)
        logits: Tensor = self.model(x)
        wrong = (logits.detach().argmax(1) != self.y[rows]) & open_
        if bool(wrong.any()):
            way = (asked[wrong].double() - self.x[rows[wrong]].double()).flatten(1)
            self.least.scatter_reduce_(0, rows[wrong], way.norm(p=self.order, dim=1), "amin")
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._count(rows))  # type: ignore[no-untyped-call]
        return logits

    def _rows(self, x: Tensor) -> Tensor:
        if len(x) == len(self.x):
            return torch.arange(len(x))
        return torch.cdist(x.flatten(1), self.x.flatten(1)).argmin(1)

    def _count(self, rows: Tensor) -> None:
        self.spent.index_add_(0, rows, torch.ones_like(rows))


class Followed(NamedTuple):
    """What came of an attack.

    Attributes:
        least: (N,) float64, see ``Observed``.
        spent: mean propagations of an image while it was followed.
    """

    least: Tensor
    spent: float


def followed(
    attack: Minimizer, model: nn.Module, x: Tensor, y: Tensor, order: float, budget: int
) -> Followed:
    """Run an attack within a budget and follow every image.

    Args:
        attack: what it returns is not looked at, only what it asked.
        model: in evaluation mode.
        x: (N, C, H, W) in [0, 1].
        y: (N,).
        order: of the norm: infinity, 2 or 1.
        budget: propagations for each image.
    """
    seen = Observed(model, x, y, order, budget).eval()
    with suppress(Spent):
        attack(seen, x.clone(), y.clone())
    return Followed(seen.least, float(seen.spent.clamp(max=budget).double().mean()))


def local_optimality(least: Tensor, reference: Tensor) -> float:
    """Of the area that the best of all attacks takes from under the accuracy curve, one's share.

    With eps the largest finite reference: Σ (eps - least)⁺ / Σ (eps - reference)⁺ over the images
    that are right when clean. This is (ρ eps - A) / (ρ eps - A*), with the clean accuracy ρ and the
    areas A and A* under accuracy against radius up to eps, since each image adds to A the radius at
    which it breaks.

    Args:
        least: (N,) least norms by one attack, 0 where the network errs on the clean image.
        reference: (N,) the least by any attack.

    Returns: a share in [0, 1]; 1 where every image breaks at its reference.

    Raises: ValueError: the shapes differ, a reference is above what the attack found, or all
        references are equal or infinite, so that there is no area.

    Source: Cinà et al. 2025 (AttackBench), equations 4 and 5.
    """
    if least.shape != reference.shape or bool((reference > least).any()):
        raise ValueError(
            "local_optimality: reference must have the shape of least and be nowhere above it; "
            "take the minimum over all attacks, this one included"
        )
    right = reference > 0
    finite = reference[right & reference.isfinite()]
    most = finite.max() if len(finite) else reference.new_zeros(())
    whole = (most - reference[right]).clamp(min=0).sum()
    if not bool(whole > 0):
        raise ValueError(
            "local_optimality: the references leave no area under the curve; take more images"
        )
    return float((most - least[right]).clamp(min=0).sum() / whole)
