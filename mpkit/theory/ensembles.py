"""Why two robust models need not make a robust ensemble: an explicit example (ours)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpkit.theory.linear import Linear, OnSome, Reach


@dataclass(frozen=True)
class ThreeViews:
    """The points y · (1, 1, quiet): two loud views of the label, each open to one adversary.

    One adversary may move the first feature by up to eps, the other the second. The ensemble
    t x_0 + (1 - t) x_1 has the margin 1 - eps t against the first adversary and 1 - eps (1 - t)
    against the second. For eps ≥ 2 no share t makes both positive, although each member
    alone resists one adversary perfectly and the quiet third feature resists both.

    Args:
        quiet: size of the third feature, positive.
        eps: radius of both adversaries.
    """

    quiet: float = 0.1
    eps: float = 3.0

    def sample(self, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Points (n, 3) and labels (n,), float64; nothing but the label is random."""
        y = 2.0 * torch.randint(2, (n,), generator=rng).double() - 1
        return y[:, None] * torch.tensor([1.0, 1.0, self.quiet], dtype=torch.float64), y

    def views(self) -> tuple[Linear, Linear, Linear]:
        """The three classifiers that look at one feature each."""
        first, second, third = torch.eye(3, dtype=torch.float64)
        return Linear(first), Linear(second), Linear(third)

    def adversaries(self) -> dict[str, Reach]:
        """The two adversaries, by the feature that they touch."""
        return {"first": OnSome((0,), self.eps), "second": OnSome((1,), self.eps)}
