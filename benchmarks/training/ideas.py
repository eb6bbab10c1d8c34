"""A loss that gives images up which cannot be saved: an idea that *A threshold* tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpkit.training import Random, Scheme, Single


@dataclass(frozen=True)
class Limited(Single):
    """Training against one attack, by the loss (1 - p^q) / q of the probability p of the class.

    Cross-entropy cares most for the images that are lost. This one gives them up, and cares most
    for those on the edge.

    Args:
        q: in (0, 1]; towards 0 the loss becomes the cross-entropy.

    Source: Zhang and Sabuncu 2018, who made it for labels that are wrong.
    """

    q: float = 0.5

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The bounded loss at the image that the attack found."""
        return -torch.expm1(-self.q * super().__call__(model, x, y, rng)) / self.q


@dataclass(frozen=True)
class Bounded(Random):
    """One attack per batch with the loss of ``Limited``, once the first epochs are over.

    Args:
        q: of the loss.
        begin: epochs of cross-entropy before it.
    """

    q: float = 0.5
    begin: int = 0

    def at(self, epoch: int, robust: Mapping[str, float]) -> Scheme:
        """The cross-entropy in the first epochs."""
        return Random(self.attacks, self.weights) if epoch < self.begin else self

    def settled(self, rng: torch.Generator) -> Scheme:
        """Training against the attack that is drawn."""
        drawn = super().settled(rng)
        assert isinstance(drawn, Single)
        return Limited(drawn.attack, self.q)
