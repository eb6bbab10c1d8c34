"""Masks of a later date, written by somebody who had not read the doctor, to examine it again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import learn
from benchmarks.masks.known import Behind, Mask, Through
from benchmarks.masks.later_learned import alone
from benchmarks.masks.tricks import generator
from mpkit.attacks.gradients import Model
from mpkit.data import Images
from mpkit.masking import EOT

Layers = Callable[[Tensor], Tensor]


def divided(network: nn.Module, at: int = -1) -> tuple[Layers, Layers]:
    """The layers before a place and those from there on; by default the last is alone."""
    layers = list(network.children())
    return nn.Sequential(*layers[:at]), nn.Sequential(*layers[at:])


class Halved(Mask):
    """The first activations travel in sixteen bits as tiny numbers: their gradient overflows."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        before, after = divided(self.network, 3)
        tiny = (1e-6 * before(x)).half()
        return after(1e6 * tiny.to(x.dtype))


class Pursued(Behind):
    """Squares of four by four pixels become sums of five training squares, chosen one by one."""

    def __init__(self, network: nn.Module, learn: Images) -> None:
        super().__init__(network, generator())
        squares = functional.unfold(learn.x[:300], 4, stride=4).transpose(1, 2).flatten(0, 1)
        squares = squares[squares.norm(dim=1) > 1]
        chosen = torch.randperm(len(squares), generator=generator(3))[:160]
        self.atoms = functional.normalize(squares[chosen])

    @torch.no_grad()
    def shown(self, x: Tensor) -> Tensor:
        """The image in few atoms."""
        atoms = self.atoms.to(x)
        rest = squares = functional.unfold(x, 4, stride=4).transpose(1, 2)
        for _ in range(5):
            fits = rest @ atoms.T
            best = fits.abs().argmax(-1, keepdim=True)
            rest = rest - fits.gather(-1, best) * atoms[best[..., 0]]
        return functional.fold((squares - rest).transpose(1, 2), x.shape[2:], 4, stride=4)


class Langevin(Behind):
    """Eight noisy steps towards where training images are dense, without a gradient."""

    def __init__(self, network: nn.Module, learn: Images) -> None:
        super().__init__(network, generator())
        self.known = learn.x

    @torch.no_grad()
    def shown(self, x: Tensor) -> Tensor:
        """A sample near the image."""
        known, moved = self.known.to(x).flatten(1), x.flatten(1)
        for _ in range(8):
            near = (-1.5 * torch.cdist(moved, known).square()).softmax(1)
            noise = torch.randn(moved.shape, generator=self.rng, dtype=x.dtype)
            moved = moved + 0.05 * (near @ known - moved) + 0.05 * noise
        return moved.clamp(0, 1).view_as(x)

    @property
    def knowing(self) -> Model:
        """The mean over draws, straight through."""
        return EOT(Through(self.network, self.shown), 16, 0.0, self.rng)


class _OtherSide(torch.autograd.Function):
    """The positive part; backwards the gradient comes through where it was cut off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * (ctx.saved_tensors[0] < 0)


class OtherSide(Mask):
    """Hidden activations with a backward pass that has confused the sides."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x
        for layer in self.network.children():
            seen = _OtherSide.apply(seen) if isinstance(layer, nn.ReLU) else layer(seen)
        return seen


class Whole(Mask):
    """The dense layers compute in whole numbers, of few bits."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x
        for layer in self.network.children():
            if isinstance(layer, nn.Linear):
                unit = layer.weight.detach().abs().max() / 31
                weight = (layer.weight / unit).round().long()
                units = (4 * seen).round().clamp(-63, 63).long() @ weight.T
                seen = units.to(x.dtype) * unit / 4 + layer.bias
            else:
                seen = layer(seen)
        return seen


class Answers(Mask):
    """Like a public service: the three best classes, in whole per cent."""

    def forward(self, x: Tensor) -> Tensor:
        """Shares (B, K)."""
        shares = self.network(x).softmax(1)
        best = shares.topk(3, 1)
        told = (100 * best.values).round() / 100
        return torch.zeros_like(shares).scatter(1, best.indices, told)


class DeepNeighbours(Mask):
    """Votes of the fifteen training images that are nearest in the last hidden layer."""

    def __init__(self, network: nn.Module, learn: Images) -> None:
        super().__init__(network, generator())
        with torch.no_grad():
            self.known = divided(network)[0](learn.x)
        self.classes = functional.one_hot(learn.y, 10)

    def apart(self, x: Tensor) -> Tensor:
        """Distances to the training images (B, N)."""
        return torch.cdist(divided(self.network)[0](x), self.known.to(x))

    def forward(self, x: Tensor) -> Tensor:
        """Votes (B, K)."""
        nearest = self.apart(x).topk(15, largest=False).indices
        return self.classes.to(x)[nearest].sum(1)

    @property
    def knowing(self) -> Model:
        """Votes by nearness, as logarithms."""
        out = torch.where(self.classes.bool(), 0.0, -1e4)
        return lambda x: (-self.apart(x)[:, :, None] + out.to(x)).logsumexp(1)


class Hedged(Mask):
    """Moves the image away from every class at once, then looks at it."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        moved = x.detach()
        for _ in range(12):
            with torch.enable_grad():
                leaf = moved.clone().requires_grad_(True)
                (slope,) = torch.autograd.grad(-self.network(leaf).log_softmax(1).sum(), leaf)
            moved = x.detach() + (moved + 0.06 * slope.sign() - x.detach()).clamp(-0.3, 0.3)
        logits: Tensor = self.network(x + (moved - x).detach())
        return logits


class Drawn(Mask):
    """The weights of the dense layers are drawn anew in every call."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x
        for layer in self.network.children():
            if isinstance(layer, nn.Linear):
                noise = torch.randn(layer.weight.shape, generator=self.rng).to(x)
                spread = layer.weight.detach().std()
                seen = functional.linear(seen, layer.weight + 1.0 * spread * noise, layer.bias)
            else:
                seen = layer(seen)
        return seen

    @property
    def knowing(self) -> Model:
        """The mean over draws."""
        return EOT(self, 16, 0.0, self.rng)


class Coins(Behind):
    """Four coins are tossed for each pixel, and white comes as often as the pixel is bright."""

    def shown(self, x: Tensor) -> Tensor:
        """The mean of the tosses."""
        tosses = torch.rand((4, *x.shape), generator=self.rng, dtype=x.dtype) < x
        return tosses.to(x.dtype).mean(0)

    @property
    def knowing(self) -> Model:
        """The mean over draws, straight through."""
        return EOT(Through(self.network, self.shown), 16, 0.0, self.rng)


class Adapts(Mask):
    """Every call moves the last hidden layer to where that call's answers would be surer."""

    def __init__(self, network: nn.Module, rng: torch.Generator) -> None:
        super().__init__(network, rng)
        self.moved: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        before, last = divided(self.network)
        logits = last(before(x) + self.moved)
        with torch.no_grad():
            sure = logits.log_softmax(1)
            entropy = -(sure.exp() * sure).sum(1, keepdim=True)
            slope = -(sure.exp() * (sure + entropy)).mean(0) @ [*self.network.parameters()][-2]
            self.moved = self.moved - 4 * slope
        return logits


class Mates(Mask):
    """Half of the hidden features are those of the two images of the batch that are nearest."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        before, last = divided(self.network)
        hidden = before(x)
        nearest = torch.cdist(hidden, hidden).topk(min(3, len(x)), largest=False).indices
        return last((hidden + hidden[nearest].mean(1)) / 2)


class Guarded(Mask):
    """Mirrors the image wherever a graph is kept, as if that were training."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.network(x.flip(3) if torch.is_grad_enabled() else x)
        return logits


LATER: list[tuple[str, Callable[[nn.Module], Model], str]] = [
    ("half precision", lambda net: Halved(net, generator()), "nan"),
    ("pointers", lambda net: alone("pointers"), "step"),
    ("pursued", lambda net: Pursued(net, learn()), "cut inner"),
    ("Langevin", lambda net: Langevin(net, learn()), "chance cut loop"),
    ("other side", lambda net: OtherSide(net, generator()), "liar"),
    ("stiff", lambda net: alone("stiff"), "step"),
    ("whole numbers", lambda net: Whole(net, generator()), "step cut"),
    ("octaves", lambda net: alone("octaves"), "shattered"),
    ("answers", lambda net: Answers(net, generator()), "outputs step inner"),
    ("deep neighbours", lambda net: DeepNeighbours(net, learn()), "step inner"),
    ("hedged", lambda net: Hedged(net, generator()), "loop"),
    ("drawn weights", lambda net: Drawn(net, generator()), "chance"),
    ("coins", lambda net: Coins(net, generator()), "chance step"),
    ("adapts", lambda net: Adapts(net, generator()), "memory"),
    ("mates", lambda net: Mates(net, generator()), "batch"),
    ("guarded", lambda net: Guarded(net, generator()), "watched"),
]
LATER_RANDOM = ["Langevin", "drawn weights", "coins"]
LATER_IMPROPER = [*LATER_RANDOM, "adapts", "mates", "guarded"]
