"""Honest networks of unusual kinds, kept aside: the doctor was finished before them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.tricks import Wrapped, generator
from benchmarks.masks.unusual import dense, trained
from mpkit.attacks.gradients import Model
from mpkit.data import Images
from mpkit.models import LowPrecision, small_cnn
from mpkit.training import Natural, Scheme


class Attention(nn.Module):
    """Patches of two by two pixels look at each other."""

    def __init__(self, wide: int = 32) -> None:
        super().__init__()
        self.enters, self.leaves = nn.Linear(4, wide), nn.Linear(wide, 10)
        self.place = nn.Parameter(0.1 * torch.randn(16, wide))
        self.looks = nn.MultiheadAttention(wide, 4, batch_first=True)
        self.norm, self.thinks = nn.LayerNorm(wide), dense(wide, 64, wide, between=nn.GELU)[1:]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = self.enters(functional.unfold(x, 2, stride=2).transpose(1, 2)) + self.place
        seen = seen + self.looks(seen, seen, seen, need_weights=False)[0]
        return self.leaves((seen + self.thinks(self.norm(seen))).mean(1))


class Maxout(nn.Module):
    """The largest of four linear functions, in every unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 4 * 80), nn.Linear(80, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.last(self.first(x.flatten(1)).view(-1, 80, 4).amax(2))


class Centres(nn.Module):
    """Minus squared distances from the centre of each class, in a space that was learned."""

    def __init__(self) -> None:
        super().__init__()
        self.network = dense(64, 96, 24)
        self.centres = nn.Parameter(torch.randn(10, 24))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return -torch.cdist(self.network(x), self.centres).square()


class Twins(nn.Module):
    """Three hidden classes for each; the largest counts."""

    def __init__(self) -> None:
        super().__init__()
        self.network = dense(64, 128, 30)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x).view(-1, 10, 3).amax(2)


class Residual(nn.Module):
    """Blocks with group normalization and a way round each."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 16, 3, padding=1))
            for _ in "ab"
        )
        self.last = nn.Linear(16 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = self.first(x)
        for block in self.blocks:
            seen = seen + block(seen)
        return self.last(functional.avg_pool2d(seen, 2).flatten(1))


class Kernel(nn.Module):
    """The logarithm of the density of each class's training images."""

    def __init__(self, learn: Images) -> None:
        super().__init__()
        self.known, self.classes = learn.x.flatten(1), functional.one_hot(learn.y, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        near = -2 * torch.cdist(x.flatten(1), self.known.to(x)).square()
        out = torch.full((1, 1, 10), -1e4).to(x)
        return torch.where(self.classes.bool(), near[:, :, None], out).logsumexp(1)


class Median(Wrapped):
    """The median of each pixel and its four neighbours."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        wide = functional.pad(x, (1, 1, 1, 1), mode="replicate")
        near = [wide[:, :, 1:-1, 1:-1], wide[:, :, :-2, 1:-1], wide[:, :, 2:, 1:-1]]
        near += [wide[:, :, 1:-1, :-2], wide[:, :, 1:-1, 2:]]
        return self.network(torch.stack(near).median(0).values)


class Opened(Wrapped):
    """The darkest neighbour's brightest neighbour: specks are gone."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        darkest = -functional.max_pool2d(-x, 2, 1, padding=1)
        return self.network(functional.max_pool2d(darkest, 2, 1))


class Looks(Wrapped):
    """The mean probabilities over sixteen fixed draws of noise, as logarithms."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        noise = torch.randn(16, 1, *x.shape[1:], generator=generator(8)).to(x)
        looks = self.network((x + 0.15 * noise).flatten(0, 1)).view(16, len(x), -1)
        return looks.log_softmax(2).logsumexp(0)


class Smoother(Wrapped):
    """Eight steps towards a smooth image, each with its gradient."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        image, weight = x, torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]]).to(x).view(1, 1, 3, 3)
        for _ in range(8):
            around = functional.pad(image, (1, 1, 1, 1), mode="replicate")
            image = image - 0.1 * (image - x) + 0.05 * functional.conv2d(around, weight)
        return self.network(image)


class OneAgainstAll(Wrapped):
    """Logarithms of ten sigmoids."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return functional.logsigmoid(self.network(x))


class Small(Wrapped):
    """Logits divided by ten thousand."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x) / 1e4


@dataclass(frozen=True)
class Noised(Scheme):
    """Natural training on noisy images."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The loss of every example."""
        noise = 0.2 * torch.randn(x.shape, generator=rng, dtype=x.dtype)
        return functional.cross_entropy(model(x + noise), y, reduction="none")


@torch.no_grad()
def altered(network: nn.Module, change: Callable[[Tensor], Tensor]) -> nn.Module:
    """The network with other weights."""
    twin = copy.deepcopy(network)
    for weight in twin.parameters():
        weight.copy_(change(weight))
    return twin.eval()


def eighths(weight: Tensor) -> Tensor:
    """Weights of eight bits."""
    step = weight.abs().max() / 127
    return (weight / step).round() * step


def sparse(weight: Tensor) -> Tensor:
    """Weights without their smaller two thirds."""
    return torch.where(weight.abs() >= weight.abs().flatten().quantile(0.66), weight, 0.0)


TRAINED: Mapping[str, tuple[Callable[[], nn.Module], Scheme]] = {
    "attention": (Attention, Natural()),
    "maxout": (Maxout, Natural()),
    "centres": (Centres, Natural()),
    "twins": (Twins, Natural()),
    "residual": (Residual, Natural()),
    "noised": (lambda: small_cnn((1, 8, 8), 10, generator(11)), Noised()),
}


def more_honest(natural: nn.Module, robust: nn.Module, learn: Images) -> dict[str, Model]:
    """All of them, around two networks or trained on the images."""
    made: dict[str, Model] = {
        name: trained(20 + i, build, scheme, learn, 40 if name == "attention" else 8)
        for i, (name, (build, scheme)) in enumerate(TRAINED.items())
    }
    return made | {
        "kernel": Kernel(learn),
        "median": Median(robust),
        "opened": Opened(robust),
        "sixteen looks": Looks(natural),
        "smoother": Smoother(robust),
        "one against all": OneAgainstAll(natural),
        "small logits": Small(robust),
        "bfloat16": LowPrecision(natural),
        "eight bits": altered(robust, eighths),
        "sparse": altered(natural, sparse),
    }
