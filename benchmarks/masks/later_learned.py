"""Networks of a later date that hide their gradient by how they compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import learn
from benchmarks.masks.learned import with_a_slope
from benchmarks.masks.unusual import dense, trained
from mpkit.attacks.gradients import Model
from mpkit.training import Natural


class Alone(nn.Module):
    """A network with a gradient for who knows it, that is trained by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.sloped = False

    @property
    def knowing(self) -> Model:
        """The same with a slope."""
        return with_a_slope(self)


class Pointers(Alone):
    """Templates point to where they fit best; only the places count."""

    def __init__(self) -> None:
        super().__init__()
        self.fits, self.last = nn.Conv2d(1, 40, 3), dense(40 * 36, 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        fit = 4 * self.fits(x).flatten(2)
        places = functional.one_hot(fit.argmax(2), fit.shape[2]).to(x.dtype)
        if self.training or self.sloped:
            soft = fit.softmax(2)
            places = places + soft - soft.detach()
        logits: Tensor = self.last(places)
        return logits


class Stiff(Alone):
    """Hidden units, most so far out that their slopes are rounded to zero, as when it learned."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 500), nn.Linear(500, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        drive = self.first(x.flatten(1))
        logits: Tensor = self.last(torch.tanh((4 if self.sloped else 600) * drive))
        return logits


class Octaves(Alone):
    """Pixels become waves of six pitches: the high are soft and their slopes drown the others."""

    def __init__(self) -> None:
        super().__init__()
        self.last = dense(64 * 12, 128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        pitch = torch.arange(6, dtype=x.dtype)[:, None]
        angles = x.flatten(1)[:, None] * 12**pitch
        if self.sloped:
            angles = torch.cat([angles[:, :1], angles[:, 1:].detach()], 1)
        waves = torch.cat([angles.sin(), angles.cos()], 1) * 0.3 ** pitch.repeat(2, 1)
        logits: Tensor = self.last(waves)
        return logits


ALONE: dict[str, Callable[[], Alone]] = {"pointers": Pointers, "stiff": Stiff, "octaves": Octaves}
"""Those that are trained by themselves."""


@cache
def alone(kind: str) -> nn.Module:
    """One of them; the same each time."""
    return trained(40 + list(ALONE).index(kind), ALONE[kind], Natural(), learn(), 12)
