"""The newest honest networks, written by somebody else who had not read the doctor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import inner
from benchmarks.masks.later_honest import hardened
from benchmarks.masks.tricks import Wrapped
from benchmarks.masks.unusual import dense, trained
from mpkit.attacks import PGD
from mpkit.attacks.gradients import Model
from mpkit.data import Images
from mpkit.sets import Linf
from mpkit.training import Natural, Scheme


class Depthwise(nn.Module):
    """Every channel has a filter of its own; pixels mix channels, with a way round."""

    def __init__(self, wide: int = 24) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, wide, 2, stride=2)
        self.filters = nn.ModuleList(nn.Conv2d(wide, wide, 3, padding=1, groups=wide) for _ in "ab")
        self.mixes = nn.ModuleList(dense(wide, 64, wide, between=nn.GELU)[1:] for _ in "ab")
        self.norms = nn.ModuleList(nn.LayerNorm(wide) for _ in "ab")
        self.last = dense(16 * wide, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = self.first(x)
        for filters, norm, mix in zip(self.filters, self.norms, self.mixes, strict=True):
            seen = seen + mix(norm(filters(seen).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        logits: Tensor = self.last(seen)
        return logits


class Growing(nn.Module):
    """Every layer sees all that those before it saw and made; channels are normed one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.InstanceNorm2d(1 + 10 * i, affine=True),
                nn.Conv2d(1 + 10 * i, 10, 3, padding=1),
                nn.LeakyReLU(0.1),
            )
            for i in range(4)
        )
        self.last = nn.Linear(41 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x
        for layer in self.layers:
            seen = torch.cat([seen, layer(seen)], 1)
        logits: Tensor = self.last(functional.avg_pool2d(seen, 2).flatten(1))
        return logits


class Spectra(nn.Module):
    """Filters that are as large as the image, by Fourier transforms there and back."""

    def __init__(self, wide: int = 12) -> None:
        super().__init__()
        self.filters = nn.Parameter(0.3 * torch.randn(wide, 8, 5, 2))
        self.last = dense(64 * wide, 48, 10, between=nn.Mish)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        waves = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filters.to(x))
        logits: Tensor = self.last(functional.mish(torch.fft.irfft2(waves, s=(8, 8), norm="ortho")))
        return logits


class Capsules(nn.Module):
    """Groups of units agree in three rounds on what they vote for; lengths are the answer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU())
        self.second = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.ways = nn.Parameter(0.2 * torch.randn(64, 10, 8, 8))

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        """Vectors shorter than 1 in the same direction."""
        length = x.square().sum(-1, keepdim=True)
        return x * (length + 1e-6).sqrt() / (1 + length)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K): twelve times the lengths."""
        parts = self.squash(self.second(self.first(x)).view(len(x), 4, 8, 16).transpose(2, 3))
        votes = torch.einsum("bpi,pkio->bpko", parts.flatten(1, 2), self.ways)
        trust = torch.zeros_like(votes[..., 0])
        whole = self.squash((trust.softmax(2)[..., None] * votes).sum(1))
        for _ in range(2):
            trust = trust + (votes * whole[:, None]).sum(-1)
            whole = self.squash((trust.softmax(2)[..., None] * votes).sum(1))
        return 12 * (whole.square().sum(-1) + 1e-6).sqrt()


class Bag(nn.Module):
    """Pixels in no order, each with its place and brightness; sums weigh what each says."""

    def __init__(self) -> None:
        super().__init__()
        self.says, self.last = dense(7, 64, 96, between=nn.SiLU)[1:], dense(96, 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        row, column = torch.meshgrid(*2 * [torch.linspace(-1, 1, 8, dtype=x.dtype)], indexing="ij")
        place = torch.stack([f(3 * at) for at in (row, column) for f in (torch.sin, torch.cos)], -1)
        place = torch.cat([place, torch.stack([row, column], -1)], -1).view(1, 64, 6).to(x)
        ink = x.flatten(1)[..., None]
        says = self.says(torch.cat([ink, place.expand(len(x), -1, -1)], -1))
        logits: Tensor = self.last((ink * says).sum(1) / 8)
        return logits


class Discriminant(nn.Module):
    """The logarithm of a normal density for each class, in closed form; nothing is trained."""

    def __init__(self, learn: Images, mixed: float = 0.4) -> None:
        super().__init__()
        images = learn.x.flatten(1).double()
        whole = torch.cov(images.T)
        means, precisions, offsets = [], [], []
        for k in range(10):
            own = images[learn.y == k]
            spread = (1 - mixed) * torch.cov(own.T) + mixed * whole
            spread = spread + 0.05 * torch.eye(len(spread), dtype=spread.dtype)
            means.append(own.mean(0))
            precisions.append(torch.linalg.inv(spread))
            offsets.append(-spread.logdet() / 2)
        self.register_buffer("means", torch.stack(means))
        self.register_buffer("precisions", torch.stack(precisions))
        self.register_buffer("offsets", torch.stack(offsets))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        away = x.flatten(1)[:, None] - self.means.to(x)  # type: ignore[operator]
        distance = torch.einsum("bki,kij,bkj->bk", away, self.precisions.to(x), away)  # type: ignore[operator]
        return self.offsets.to(x) - distance / 2  # type: ignore[operator]


class _ByHand(torch.autograd.Function):
    """A dense layer and the positive part, with the right backward pass written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        found = (x @ weight.T + bias).clamp(min=0)
        ctx.save_for_backward(x, weight, found)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, found = ctx.saved_tensors
        passed = gradients[0] * (found > 0)
        return passed @ weight, passed.T @ x, passed.sum(0)


class ByHand(nn.Module):
    """A dense network with a backward pass of its own, which is right."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64, 96), nn.Linear(96, 96)])
        self.last = nn.Linear(96, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x.flatten(1)
        for layer in self.layers:
            seen = _ByHand.apply(seen, layer.weight, layer.bias)
        logits: Tensor = self.last(seen)
        return logits


class Watched(Wrapped):
    """Keeps a diary: how often it was asked, and how large the gradients were."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.calls, self.lengths = 0, list[float]()

    def note(self, gradient: Tensor) -> None:
        """Write down a gradient's length; the gradient stays as it is."""
        self.lengths = [*self.lengths[-99:], float(gradient.norm())]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        self.calls += 1
        seen = x.view_as(x)
        if seen.requires_grad:
            seen.register_hook(self.note)
        logits: Tensor = self.network(seen)
        return logits


TRAINED: Mapping[str, tuple[Callable[[], nn.Module], Scheme]] = {
    "depthwise": (Depthwise, hardened(inner("l2"))),
    "growing": (Growing, hardened(PGD(Linf(0.1), 5))),
    "spectra": (Spectra, hardened(PGD(Linf(0.08), 5))),
    "capsules": (Capsules, hardened(PGD(Linf(0.08), 3))),
    "bag of pixels": (Bag, Natural()),
    "by hand": (ByHand, hardened(PGD(Linf(0.06), 5))),
}
LONGER = {"bag of pixels": 40, "capsules": 10}
"""Epochs of those that learn slowly."""


def newest_honest(robust: nn.Module, learn: Images) -> dict[str, Callable[[], Model]]:
    """All of them, around a network or trained on the images when they are first asked for."""
    made: dict[str, Callable[[], Model]] = {
        name: cache(partial(trained, 80 + i, build, scheme, learn, LONGER.get(name, 12)))
        for i, (name, (build, scheme)) in enumerate(TRAINED.items())
    }
    return made | {
        "discriminant": partial(Discriminant, learn),
        "keeps a diary": partial(Watched, robust),
    }
