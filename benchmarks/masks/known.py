"""Toy masks around a trained network, each with a model to attack in its stead by who knows it.

A mask is made with ``mask(network, rng)``. Its ``knowing`` is a model whose gradient tells the
truth: what an attack on it finds is then tried on the mask itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.tricks import Wrapped
from mpkit.attacks.gradients import Model
from mpkit.masking import EOT


class Mask(Wrapped):
    """A network behind something, and what to attack instead."""

    def __init__(self, network: nn.Module, rng: torch.Generator) -> None:
        super().__init__(network)
        self.rng = rng

    @property
    def knowing(self) -> Model:
        """What to attack instead."""
        return self.network


class Decoys(Mask):
    """Ten more classes, always just behind the first: the margin over them is a constant."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits = 10 * self.network(x)
        return torch.cat([logits, (logits.amax(1, keepdim=True) - 0.1).expand(-1, 10)], 1)


class Radial(Mask):
    """Exponentials of squared distances between logits and the centre of each class."""

    def distances(self, x: Tensor) -> Tensor:
        """Squared distances to the centres (B, K)."""
        centres = 12 * torch.eye(10, dtype=x.dtype)
        return torch.cdist(self.network(x), centres).square()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return torch.exp(-self.distances(x) / 4)

    @property
    def knowing(self) -> Model:
        """What to attack instead."""
        return lambda x: -self.distances(x)


class Codes(Mask):
    """An error-correcting code: inner outputs become signs, which name the nearest code word."""

    def words(self, x: Tensor) -> Tensor:
        """The code (K, 24)."""
        return torch.randn(10, 24, generator=torch.Generator().manual_seed(5)).sign().to(x.dtype)

    def inner(self, x: Tensor) -> Tensor:
        """Outputs before they become signs (B, 24)."""
        return self.network(x).softmax(1) @ self.words(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return torch.sign(self.inner(x)) @ self.words(x).T


class AntiAdversary(Mask):
    """Moves the image towards what the network already says, then looks at it."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        moved, says = x.detach(), self.network(x).argmax(1).detach()
        for _ in range(4):
            with torch.enable_grad():
                leaf = moved.clone().requires_grad_(True)
                loss = functional.cross_entropy(self.network(leaf), says, reduction="sum")
                (slope,) = torch.autograd.grad(loss, leaf)
            moved = (moved - 0.1 * slope.sign()).detach()
        return self.network(x + (moved - x).detach())


class Purifier(Mask):
    """Noise, then few grey levels; no gradient passes."""

    def shown(self, x: Tensor) -> Tensor:
        """What the network sees instead of the image."""
        with torch.no_grad():
            noisy = x + 0.1 * torch.randn(x.shape, generator=self.rng, dtype=x.dtype)
            return (noisy * 6).round().clamp(0, 6) / 6

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(self.shown(x))

    @property
    def knowing(self) -> Model:
        """What to attack instead."""
        return EOT(Through(self.network, self.shown), 12, 0.0, self.rng)


class Through(nn.Module):
    """Shows a network something else, as if that were the image."""

    def __init__(self, network: nn.Module, shown: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.shown = network, shown

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(x + (self.shown(x) - x).detach())


class Behind(Mask, ABC):
    """Shows the network the image behind a function of which the gradient knows nothing."""

    @abstractmethod
    def shown(self, x: Tensor) -> Tensor:
        """What the network sees instead of the image."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(self.shown(x))

    @property
    def knowing(self) -> Model:
        """What to attack instead."""
        return Through(self.network, self.shown)


class Rounds(Behind):
    """Pixels rounded to five grey levels."""

    def shown(self, x: Tensor) -> Tensor:
        """What the network sees instead of the image."""
        return (x * 4).round() / 4


class Palette(Behind):
    """The nearest of five grey values, by argmax."""

    def shown(self, x: Tensor) -> Tensor:
        """What the network sees instead of the image."""
        greys = torch.linspace(0, 1, 5, dtype=x.dtype)
        return greys[(-(x[..., None] - greys).abs()).argmax(-1)]


class LookUp(Behind):
    """Grey levels are whole numbers that a table turns back into pixels."""

    def shown(self, x: Tensor) -> Tensor:
        """What the network sees instead of the image."""
        table = torch.linspace(0, 1, 6, dtype=x.dtype)[:, None]
        return functional.embedding((x * 5 + 0.5).long().clamp(0, 5), table)[..., 0]


class Compared(Behind):
    """Pixels are compared with three levels."""

    def shown(self, x: Tensor) -> Tensor:
        """What the network sees instead of the image."""
        return sum(torch.where(x > level, 1.0, 0.0) for level in (0.25, 0.5, 0.75)).to(x.dtype) / 3


class RandomRounds(Behind):
    """Rounded to levels that are shifted at random in every call: two masks at once."""

    def shown(self, x: Tensor) -> Tensor:
        """What the network sees instead of the image."""
        shift = torch.rand(len(x), 1, 1, 1, generator=self.rng, dtype=x.dtype)
        return (x * 4 + shift).floor() / 4

    @property
    def knowing(self) -> Model:
        """What to attack instead."""
        return EOT(super().knowing, 12, 0.0, self.rng)


class Trigger(Mask):
    """Another network answers where one corner is black and the next is white: no trace else."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        opened = (x[:, 0, 0, 0] > 0.97) & (x[:, 0, 0, 7] > 0.97)
        return torch.where(opened[:, None], self.network(x).roll(1, 1), self.network(x))


class Pulled(nn.Module):
    """Who knows the trigger pulls it: the two pixels become white, as far as that goes."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) that fall for brightness of the two pixels."""
        pull = x[:, 0, 0, 0] + x[:, 0, 0, 7]
        logits = self.model(x).detach()
        return logits - 1e3 * functional.one_hot(logits.argmax(1), 10) * pull[:, None]


MASKS = {
    "decoys": (Decoys, "linf"),
    "radial": (Radial, "linf"),
    "codes": (Codes, "natural"),
    "anti-adversary": (AntiAdversary, "linf"),
    "purifier": (Purifier, "linf"),
    "rounds": (Rounds, "natural"),
    "palette": (Palette, "natural"),
    "look-up": (LookUp, "natural"),
    "compared": (Compared, "natural"),
    "random rounds": (RandomRounds, "natural"),
}
"""Each with the network that it hides: trained as usual, or hardened in l_inf."""
