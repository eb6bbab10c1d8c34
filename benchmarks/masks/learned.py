"""Networks that hide their gradient by how they compute, kept aside like the other new masks."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.attacks.gradients import Model
from mpkit.data import Images


class _Step(torch.autograd.Function):
    """One where positive; backwards a narrow bump, or nothing."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, learning: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.learning = learning
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (x,) = ctx.saved_tensors
        return (gradients[0] / (1 + 4 * x.abs()).square() if ctx.learning else 0 * x), None


def with_a_slope(network: nn.Module) -> nn.Module:
    """A copy that keeps in eval mode the slope that it learned with."""
    twin = copy.deepcopy(network).eval()
    twin.sloped = True
    return twin


class Spiking(nn.Module):
    """Neurons that sum up what they get over twelve moments, and fire.

    It learns with a made-up slope, and has none in eval mode unless that is asked for.
    """

    def __init__(self, wide: int = 160) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, wide), nn.Linear(wide, 10)
        self.sloped = False

    def forward(self, x: Tensor) -> Tensor:
        """Mean firing of the last layer's input (B, K)."""
        drive, charge, fired = self.first(x.flatten(1)), 0.0, []
        for _ in range(12):
            charge = 0.8 * charge + 0.4 * drive
            spike = _Step.apply(charge - 1, self.training or self.sloped)
            charge = charge - spike
            fired.append(spike)
        return self.last(torch.stack(fired).mean(0))

    @property
    def knowing(self) -> Model:
        """The same with the slope."""
        return with_a_slope(self)


class Binary(Spiking):
    """Two layers of signs, learned with a made-up slope."""

    def __init__(self, wide: int = 256) -> None:
        super().__init__(wide)
        self.middle = nn.Linear(wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        sloped = self.training or self.sloped
        signs = 2 * _Step.apply(self.first(x.flatten(1)), sloped) - 1
        signs = 2 * _Step.apply(self.middle(signs) / 8, sloped) - 1
        return self.last(signs)


class Ferns(nn.Module):
    """A forest of 120 ferns: five comparisons of pixels name a leaf, the leaf names odds."""

    def __init__(self, learn: Images) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(3)
        pixels = learn.x[0].numel()
        self.pairs = torch.randint(pixels, (2, 120, 5), generator=rng)
        self.bits = 2 ** torch.arange(5)
        self.level = 0.3 * torch.rand(120, 5, generator=rng) - 0.15
        counts = torch.full((120, 32, 10), 0.5)
        leaves = ((self.apart(learn.x) > 0).long() * self.bits).sum(2)
        for fern in range(120):
            where = (leaves[:, fern], learn.y)
            counts[fern].index_put_(where, torch.ones(len(learn)), accumulate=True)
        self.odds = (counts / counts.sum(2, keepdim=True)).log()

    def apart(self, x: Tensor) -> Tensor:
        """Differences of pixels from their levels (B, 120, 5)."""
        flat = x.flatten(1)
        return flat[:, self.pairs[0]] - flat[:, self.pairs[1]] - self.level.to(x)

    def forward(self, x: Tensor) -> Tensor:
        """Sums of odds (B, K)."""
        leaves = ((self.apart(x) > 0).long() * self.bits).sum(2)
        return self.odds.to(x)[torch.arange(120), leaves].sum(1)

    @property
    def knowing(self) -> Model:
        """Comparisons that are soft: every leaf counts by its chance."""

        def soft(x: Tensor) -> Tensor:
            up = torch.sigmoid(8 * self.apart(x))[:, :, None]
            which = (torch.arange(32)[:, None] // self.bits % 2).to(x)
            chance = (which * up + (1 - which) * (1 - up)).prod(3)
            return torch.einsum("bfl,flk->bk", chance, self.odds.to(x))

        return soft


class Equilibrium(nn.Module):
    """A hidden state is sought that reproduces itself; the search passes no gradient."""

    def __init__(self, wide: int = 96) -> None:
        super().__init__()
        self.enters, self.turns = nn.Linear(64, wide), nn.Linear(wide, wide)
        self.leaves, self.sloped = nn.Linear(wide, 10), False

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.training or self.sloped)):
            drive = self.enters(x.flatten(1))
            state = torch.zeros_like(drive)
            for _ in range(8):
                state = torch.tanh(drive + 0.5 * self.turns(state))
        return self.leaves(state)

    @property
    def knowing(self) -> Model:
        """The same, followed step by step."""
        return with_a_slope(self)
