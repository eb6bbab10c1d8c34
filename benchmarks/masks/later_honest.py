"""Honest networks of a later date, written by somebody who had not read the doctor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import inner
from benchmarks.masks.tricks import Wrapped, generator
from benchmarks.masks.unusual import dense, trained
from mpkit.attacks import PGD, SLIDE, Attack
from mpkit.attacks.gradients import Model
from mpkit.data import Images
from mpkit.models import small_cnn
from mpkit.sets import L1, Linf
from mpkit.training import Natural, RadiusWarmup, Scheme, Single


class Splines(nn.Module):
    """Every pixel and every hidden unit passes eight bumps of its own, which are added up."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = dense(64 * 8, 32), nn.LayerNorm(32), dense(32 * 8, 10)

    def bumps(self, x: Tensor, low: float, high: float) -> Tensor:
        """Bumps (B, 8 N) that lie evenly between two ends."""
        centres = torch.linspace(low, high, 8, dtype=x.dtype)
        width = (high - low) / 7
        return torch.exp(-((x[:, :, None] - centres) / width).square()).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        hidden = self.norm(self.first(self.bumps(x.flatten(1), 0, 1)))
        logits: Tensor = self.last(self.bumps(hidden, -2, 2))
        return logits


class Squares(nn.Module):
    """An activation that is a polynomial."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return x + 0.5 * x.square()


class Cosines(nn.Module):
    """Fifteen times the cosine between features and the direction of each class."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.ways = dense(64, 128, 48), nn.Parameter(torch.randn(10, 48))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = (
            15 * functional.normalize(self.network(x)) @ functional.normalize(self.ways).T
        )
        return logits


class Reader(nn.Module):
    """Reads the rows of the image one after the other and keeps in mind what it read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.last = nn.GRU(8, 64, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.last(self.reads(x.flatten(1, 2))[0][:, -1])
        return logits


class Gates(nn.Module):
    """Every hidden unit is a product: a value, and a gate that is a soft switch."""

    def __init__(self) -> None:
        super().__init__()
        self.values, self.gates, self.last = dense(64, 128), dense(64, 128), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.last(self.values(x) * torch.sigmoid(self.gates(x)))
        return logits


class Loud(Wrapped):
    """Logits times three: very sure, and the cross-entropy still has a slope everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = 3 * self.network(x)
        return logits


class Mixer(nn.Module):
    """All rows pass one layer and all columns another, each with a way round."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.columns = nn.Linear(8, 8), nn.Linear(8, 8)
        self.last = dense(64, 64, 10, between=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x - 0.3
        seen = seen + functional.gelu(self.rows(seen))
        seen = seen + functional.gelu(self.columns(seen.transpose(2, 3))).transpose(2, 3)
        logits: Tensor = self.last(seen)
        return logits


def pooled() -> nn.Sequential:
    """Soft activations, weights of a learned length, and a root of a sum of squares as a pool."""
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1),
        nn.Softplus(5),
        nn.LPPool2d(2, 2),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(24, 32, 3, padding=1)),
        nn.Softplus(5),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )


def hardened(attack: Attack) -> Scheme:
    """Adversarial training in a ball that grows."""
    return RadiusWarmup(Single(attack), (0.2, 0.6))


TRAINED: Mapping[str, tuple[Callable[[], nn.Module], Scheme]] = {
    "splines": (Splines, hardened(inner("l2"))),
    "pooled": (pooled, hardened(inner("l2"))),
    "deep and narrow": (
        lambda: dense(64, *[28] * 9, 10, between=nn.SELU),
        hardened(PGD(Linf(0.08), 5)),
    ),
    "cosines": (Cosines, Natural()),
    "trained: wide l1": (
        lambda: small_cnn((1, 8, 8), 10, generator(12)),
        hardened(SLIDE(L1(3), 7)),
    ),
    "reader": (Reader, hardened(PGD(Linf(0.1), 5))),
    "squares": (lambda: dense(64, 80, 80, 10, between=Squares), Natural()),
    "gates": (Gates, hardened(inner("l2"))),
    "mixer": (Mixer, hardened(inner("linf"))),
}
LONGER = {"reader": 40, "deep and narrow": 30, "pooled": 25}
"""Epochs of those that learn slowly."""


def later_honest(robust: nn.Module, learn: Images) -> dict[str, Callable[[], Model]]:
    """All of them, around a network or trained on the images when they are first asked for."""
    made: dict[str, Callable[[], Model]] = {
        name: cache(partial(trained, 50 + i, build, scheme, learn, LONGER.get(name, 12)))
        for i, (name, (build, scheme)) in enumerate(TRAINED.items())
    }
    return made | {"loud": partial(Loud, robust)}
