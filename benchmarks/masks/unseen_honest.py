"""Honest networks that the doctor was not made with, by somebody who had not read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import inner
from benchmarks.masks.later_honest import hardened
from benchmarks.masks.unusual import dense, trained
from mpkit.attacks import PGD
from mpkit.attacks.gradients import Model
from mpkit.data import Images
from mpkit.sets import Linf
from mpkit.training import Natural, Scheme


class Tropical(nn.Module):
    """Hidden units are maxima of sums and minima of differences; nothing is multiplied there."""

    def __init__(self, wide: int = 80) -> None:
        super().__init__()
        self.high, self.low = (nn.Parameter(0.3 * torch.randn(wide, 64) - 0.5) for _ in "ab")
        self.last = dense(2 * wide, 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        flat = x.flatten(1)[:, None]
        hidden = torch.cat([(flat + self.high).amax(2), (flat - self.low).amin(2)], 1)
        logits: Tensor = self.last(4 * hidden)
        return logits


class Synthesis(nn.Module):
    """Each class draws the image as well as it can, in ten strokes; what it misses is the score.

    How strong the strokes are is sought without a gradient. At the best strokes the distance does
    not depend on them to first order, so that its gradient in the image is right all the same.
    """

    def __init__(self, learn: Images, strokes: int = 10) -> None:
        super().__init__()
        of_class = [learn.x[learn.y == k].flatten(1) for k in range(10)]
        self.means = torch.stack([some.mean(0) for some in of_class])
        away = [some - mean for some, mean in zip(of_class, self.means, strict=True)]
        self.strokes = torch.stack([torch.linalg.svd(rows)[2][:strokes] for rows in away])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        away = x.flatten(1)[:, None] - self.means.to(x)
        strokes = self.strokes.to(x)
        with torch.no_grad():
            strong = torch.zeros(len(x), *strokes.shape[:2]).to(x)
            for _ in range(12):
                rest = away - torch.einsum("bks,ksp->bkp", strong, strokes)
                strong = strong + 0.8 * torch.einsum("bkp,ksp->bks", rest, strokes)
        rest = away - torch.einsum("bks,ksp->bkp", strong, strokes)
        return -4 * rest.square().sum(2)


class Scattering(nn.Module):
    """Lengths of short waves in six directions, and of waves of these lengths; none is learned."""

    def __init__(self) -> None:
        super().__init__()
        at = torch.arange(5.0) - 2
        turns = torch.arange(6) * torch.pi / 6
        along = turns.cos()[:, None, None] * at + turns.sin()[:, None, None] * at[:, None]
        bump = torch.exp(-(at.square() + at[:, None].square()) / 3)
        waves = torch.cat([(1.6 * along).cos(), (1.6 * along).sin()]) * bump
        waves = waves - bump * waves.sum((1, 2), keepdim=True) / bump.sum()
        self.register_buffer("waves", waves[:, None])
        self.last = dense(16 * 43, 64, 10)

    def lengths(self, x: Tensor) -> Tensor:
        """Of waves in every channel, (B, C, H, W) to (B, 6 C, H, W)."""
        waves: Tensor = self.waves.to(x)  # type: ignore[operator,assignment]
        seen = functional.conv2d(x.flatten(0, 1)[:, None], waves, padding=2)
        long = (seen[:, :6].square() + seen[:, 6:].square() + 1e-3).sqrt()
        return long.view(len(x), -1, *x.shape[2:])

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        once = self.lengths(x)
        every = torch.cat([x, once, self.lengths(once)], 1)
        logits: Tensor = self.last(functional.avg_pool2d(every, 2))
        return logits


class Flow(nn.Module):
    """A differential equation carries the image along for a while, in five exact steps."""

    def __init__(self, wide: int = 64) -> None:
        super().__init__()
        self.enters, self.last = dense(64, wide), nn.Linear(wide, 10)
        self.turns = nn.Sequential(nn.Linear(wide + 1, wide), nn.Tanh(), nn.Linear(wide, wide))

    def speed(self, state: Tensor, time: float) -> Tensor:
        """How the state changes at a time."""
        speed: Tensor = self.turns(torch.cat([state, torch.full_like(state[:, :1], time)], 1))
        return speed

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        state, step = self.enters(x), 0.2
        for i in range(5):
            a = self.speed(state, i * step)
            b = self.speed(state + step / 2 * a, (i + 0.5) * step)
            c = self.speed(state + step / 2 * b, (i + 0.5) * step)
            d = self.speed(state + step * c, (i + 1) * step)
            state = state + step / 6 * (a + 2 * b + 2 * c + d)
        logits: Tensor = self.last(state)
        return logits


class GaussianProcess(nn.Module):
    """The mean of a Gaussian process that has seen the training images; nothing is trained."""

    def __init__(self, learn: Images) -> None:
        super().__init__()
        self.known = learn.x.flatten(1).double()
        wanted = functional.one_hot(learn.y, 10).double() - 0.1
        near = self.near(self.known) + 0.05 * torch.eye(len(self.known), dtype=torch.float64)
        self.weights = torch.linalg.solve(near, wanted)

    def near(self, x: Tensor) -> Tensor:
        """The covariance with the training images (B, N)."""
        return (1 + torch.cdist(x, self.known.to(x)).square() / 12) ** -2

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return 10 * self.near(x.flatten(1)) @ self.weights.to(x)


class Pairs(nn.Module):
    """Hidden units come in pairs, of which the greater goes first."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2 N) to the same shape."""
        return x.view(len(x), -1, 2).sort(2).values.flatten(1)


def lipschitz() -> nn.Sequential:
    """Sorted pairs between layers that stretch no vector: a network of slope one, times eight."""
    network = dense(64, 96, 96, 10, between=Pairs)
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.utils.parametrizations.orthogonal(layer)
    return nn.Sequential(network, Times(8))


class Times(nn.Module):
    """A multiple."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape to the same shape."""
        return self.factor * x


class _Rests(torch.autograd.Function):
    """Where a state comes to rest; backwards by the theorem of implicit functions."""

    @staticmethod
    def forward(ctx: Any, drive: Tensor, turns: Tensor) -> Tensor:
        state = torch.zeros_like(drive)
        for _ in range(40):
            state = torch.tanh(drive + state @ turns.T)
        ctx.save_for_backward(state, turns)
        return state

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        state, turns = ctx.saved_tensors
        slope, whole = 1 - state.square(), gradients[0]
        for _ in range(40):
            whole = gradients[0] + (whole * slope) @ turns
        return whole * slope, (whole * slope).T @ state


class Resting(nn.Module):
    """A hidden state that reproduces itself, with a backward pass that is right."""

    def __init__(self, wide: int = 80) -> None:
        super().__init__()
        self.enters, self.last = dense(64, wide), nn.Linear(wide, 10)
        self.turns = nn.Parameter(torch.randn(wide, wide) / wide**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        turns = (
            0.95 * self.turns / self.turns.abs().sum(1).max()
        )  # so that every state comes to rest
        logits: Tensor = self.last(_Rests.apply(self.enters(x), turns))
        return logits


class Weaver(nn.Module):
    """The image is answered by weights that another network weaves for it."""

    def __init__(self, wide: int = 24) -> None:
        super().__init__()
        self.wide, self.looks = wide, dense(64, wide, between=nn.Tanh)
        self.weaves = dense(64, 48, (wide + 1) * 10, between=nn.Softplus)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        woven = self.weaves(x).view(len(x), self.wide + 1, 10)
        looks = torch.cat([self.looks(x).tanh(), torch.ones_like(x[:, 0, 0, :1])], 1)
        return torch.einsum("bi,bik->bk", looks, woven)


TRAINED: Mapping[str, tuple[Callable[[], nn.Module], Scheme]] = {
    "tropical": (Tropical, Natural()),
    "scattering": (Scattering, hardened(PGD(Linf(0.1), 3))),
    "flow": (Flow, hardened(PGD(Linf(0.08), 5))),
    "sorted pairs": (lipschitz, hardened(inner("l2"))),
    "resting": (Resting, hardened(PGD(Linf(0.06), 5))),
    "weaver": (Weaver, hardened(inner("linf"))),
}
LONGER = {"tropical": 30}
"""Epochs of those that learn slowly."""


def unseen_honest(learn: Images) -> dict[str, Callable[[], Model]]:
    """All of them, trained on the images when they are first asked for."""
    made: dict[str, Callable[[], Model]] = {
        name: cache(partial(trained, 100 + i, build, scheme, learn, LONGER.get(name, 12)))
        for i, (name, (build, scheme)) in enumerate(TRAINED.items())
    }
    return made | {
        "synthesis": partial(Synthesis, learn),
        "Gaussian process": cache(partial(GaussianProcess, learn)),
    }
