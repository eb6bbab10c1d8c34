"""Classifiers to try against the theorems: simple linear ones, and trained networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mpbook.theory.adversaries import Adversary
from mpbook.theory.gaussians import GaussianModel
from mpbook.theory.linear import Linear, OnSome, Reach, spread


def simple_classifiers(model: GaussianModel) -> dict[str, Linear]:
    """The classifiers that need no training, by name."""
    return {
        "strong feature": model.strong_only(),
        "mean": model.mean_only(),
        "Bayes": model.bayes(),
        "constant": spread(model.d, 0.0, 0.0, bias=1.0),
    }


class Network(nn.Module):
    """A fully connected ReLU network from points (N, d + 1) to scores (N,), in float64.

    Args:
        d: number of weak features.
        widths: hidden layers; none gives logistic regression.
        rng: draws the weights.
    """

    def __init__(self, d: int, widths: Sequence[int], rng: torch.Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise([d + 1, *widths, 1]):
            layer = nn.Linear(before, after, dtype=torch.float64)
            nn.init.normal_(layer.weight, std=before**-0.5, generator=rng)
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """Scores (N,) of points (N, d + 1)."""
        scores: Tensor = self.layers(x)
        return scores[:, 0]


def train(
    f: Network,
    model: GaussianModel,
    adversaries: Sequence[Adversary],
    steps: int,
    rng: torch.Generator,
    batch: int = 256,
    lr: float = 0.003,
) -> Network:
    """Adversarial training on fresh samples: the logistic loss, averaged over the adversaries.

    Several adversaries give the paper's avg strategy; ``(WorstOf((a, b)),)`` gives max. With the
    maps of a proof this is training on the attacked distribution itself.

    Args:
        f: the network, trained in place and returned.
        model: where the points come from.
        adversaries: at least one.
        steps: Adam steps, the rate falling from ``lr`` to 0 along a cosine.
        rng: source of all randomness.
        batch: fresh points per step.
        lr: Adam's first rate.
    """
    adam = torch.optim.Adam(f.parameters(), lr=lr, fused=True)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(steps):
        x, y = model.sample(batch, rng)
        losses = [softplus(-y * f(adversary(f, x, y, rng))).mean() for adversary in adversaries]
        adam.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        adam.step()
        rate.step()
    return f


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
        first, second, third = map(Linear, torch.eye(3, dtype=torch.float64))
        return first, second, third

    def adversaries(self) -> dict[str, Reach]:
        """The two adversaries, by the feature that they touch."""
        return {"first": OnSome((0,), self.eps), "second": OnSome((1,), self.eps)}
