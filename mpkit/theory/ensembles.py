"""Why two robust models need not make a robust ensemble: an explicit example (ours)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mpkit.theory.linear import Linear, OnSome, Reach


@dataclass(frozen=True)
class ThreeViews:
    """The points y · (1, 1, quiet): two loud views of the label, each open to one adversary.

    One adversary may move the first feature by up to eps, the other the second. With eps = 3 and
    any share t, the ensemble t x_0 + (1 - t) x_1 resists the first adversary only if t < 1/4 and
    the second only if t > 3/4: never both, although each member alone resists one of them
    perfectly and the quiet third feature resists both.

    Args:
        quiet: size of the third feature, positive.
        eps: radius of both adversaries; above 1 the attacked view turns round.
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
