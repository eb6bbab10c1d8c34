"""The newest masks, written by somebody else who had not read the doctor, once it was changed.

They follow what is met in published defences and in careless code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import learn
from benchmarks.masks.known import Behind, Mask
from benchmarks.masks.newest_learned import TAUGHT, alone, autoencoder, forest
from benchmarks.masks.tricks import generator
from mpkit.attacks.gradients import Model
from mpkit.data import Images


class Deskewed(Behind):
    """Digits are made upright first, row by row, in numpy."""

    def slides(self, x: Tensor) -> np.ndarray:
        """Where each pixel is taken from in its row, (B, 1, 8, 8)."""
        image = x.detach().double().cpu().numpy()
        rows, columns = np.mgrid[: image.shape[2], : image.shape[3]]
        mass = image.sum((2, 3), keepdims=True) + 1e-6
        row, column = ((image * at).sum((2, 3), keepdims=True) / mass for at in (rows, columns))
        tall = (image * (rows - row) ** 2).sum((2, 3), keepdims=True) / mass + 1e-3
        lean = (image * (rows - row) * (columns - column)).sum((2, 3), keepdims=True) / mass
        found: np.ndarray = np.clip(columns + lean / tall * (rows - row), 0, image.shape[3] - 1)
        return found

    def shown(self, x: Tensor) -> Tensor:
        """The upright image."""
        at, image = self.slides(x), x.detach().double().cpu().numpy()
        low = np.minimum(at.astype(int), image.shape[3] - 2)
        left, right = (np.take_along_axis(image, low + i, 3) for i in (0, 1))
        return torch.from_numpy(left + (at - low) * (right - left)).to(x)

    @property
    def knowing(self) -> Model:
        """The same slides, with the gradient of what they move."""

        def upright(x: Tensor) -> Tensor:
            at = torch.from_numpy(self.slides(x))
            low = at.long().clamp(max=x.shape[3] - 2)
            left, right = x.gather(3, low), x.gather(3, low + 1)
            logits: Tensor = self.network(left + (at - low).to(x) * (right - left))
            return logits

        return upright


class ClippedShares(Mask):
    """Sure probabilities, kept a ten-millionth away from 0 and 1, as logarithms."""

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms (B, K)."""
        return (20 * self.network(x)).softmax(1).clamp(1e-7, 1 - 1e-7).log()


class _Guided(torch.autograd.Function):
    """The positive part; backwards only what is positive there too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0].clamp(min=0) * (ctx.saved_tensors[0] > 0)


class Guided(Mask):
    """Prepared for pretty heat maps: negative parts of the gradient are lost on the way."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x
        for layer in self.network.children():
            seen = _Guided.apply(seen) if isinstance(layer, nn.ReLU) else layer(seen)
        return seen


class Reconstructed(Behind):
    """The nearest image that a decoder can draw, found by forty steps from three places."""

    def shown(self, x: Tensor) -> Tensor:
        """The drawing."""
        decoder = autoencoder()[1].to(x)
        starts = torch.randn(3, 1, 14, generator=generator(24)).to(x)
        code, speed = starts.repeat(1, len(x), 1).flatten(0, 1), 0.0
        target = x.detach().flatten(1).repeat(3, 1)
        for _ in range(40):
            with torch.enable_grad():
                leaf = code.clone().requires_grad_(True)
                loss = (decoder(leaf) - target).square().sum()
                (slope,) = torch.autograd.grad(loss, leaf)
            speed = 0.8 * speed - 0.1 * slope
            code = code + speed
        with torch.no_grad():
            drawings = decoder(code)
            best = (drawings - target).square().sum(1).view(3, -1).argmin(0)
            return drawings.view(3, len(x), -1)[best, torch.arange(len(x))].view_as(x)

    @property
    def knowing(self) -> Model:
        """An encoder in place of the search."""

        def drawn(x: Tensor) -> Tensor:
            encoder, decoder = (part.to(x) for part in autoencoder())
            logits: Tensor = self.network(decoder(encoder(x)).view_as(x))
            return logits

        return drawn


class _Sorted(torch.autograd.Function):
    """Images in another order; backwards they are sorted once more in place of back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x[order]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0][ctx.saved_tensors[0]], None


class MixedUp(Mask):
    """Works through the darkest images first; gradients come back to the wrong images."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        order = x.detach().sum((1, 2, 3)).argsort(stable=True)
        logits: Tensor = self.network(_Sorted.apply(x, order))[order.argsort()]
        return logits


class _Private(torch.autograd.Function):
    """The identity; backwards gradients of one length, in noise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rng: torch.Generator) -> Tensor:
        ctx.rng = rng
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        whole = functional.normalize(gradients[0].flatten(1)).view_as(gradients[0])
        noise = torch.randn(whole.shape, generator=ctx.rng, dtype=torch.float64)
        return whole + 4 * noise.to(whole), None


class Private(Mask):
    """Answers repeat, and gradients are clipped and noisy, as for training in private."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.network(_Private.apply(x, self.rng))
        return logits


class Recalled(Behind):
    """A memory of training images: sixteen times the image moves to those that are nearest."""

    def __init__(self, network: nn.Module, learn: Images) -> None:
        super().__init__(network, generator())
        self.known = learn.x[:600]

    def near(self, x: Tensor, sharp: float) -> Tensor:
        """Weights of the images in memory (B, N), by squared distance."""
        known = self.known.to(x).flatten(1)
        return (sharp * (2 * x.flatten(1) @ known.T - known.square().sum(1))).softmax(1)

    def shown(self, x: Tensor) -> Tensor:
        """What is recalled; every step has its gradient."""
        seen = x
        for _ in range(16):
            seen = (self.near(seen, 12.0) @ self.known.to(x).flatten(1)).view_as(x)
        return seen

    @property
    def knowing(self) -> Model:
        """What the network says of the images in memory, by softer weights."""

        def told(x: Tensor) -> Tensor:
            shares = self.network(self.known.to(x)).softmax(1)
            return (self.near(x, 2.0) @ shares).clamp(min=1e-9).log()

        return told


class Counted(Mask):
    """How often each class wins among thirty noisy copies, drawn anew each time."""

    def looks(self, x: Tensor) -> Tensor:
        """Logits of every copy (30, B, K)."""
        noise = torch.randn(30, *x.shape, generator=self.rng, dtype=x.dtype)
        return self.network((x + 0.25 * noise).flatten(0, 1)).view(30, len(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        """Shares of the copies (B, K)."""
        looks = self.looks(x)
        return functional.one_hot(looks.argmax(2), looks.shape[2]).to(x.dtype).mean(0)

    @property
    def knowing(self) -> Model:
        """The mean probabilities of copies."""
        return lambda x: self.looks(x).softmax(2).mean(0).clamp(min=1e-9).log()


class Blended(Mask):
    """The mean probabilities of eight mixtures of the image, each with a random training image."""

    def __init__(self, network: nn.Module, learn: Images) -> None:
        super().__init__(network, generator())
        self.known = learn.x

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of probabilities (B, K)."""
        drawn = torch.randint(len(self.known), (8, len(x)), generator=self.rng)
        mixed = 0.6 * x + 0.4 * self.known.to(x)[drawn]
        looks: Tensor = self.network(mixed.flatten(0, 1)).view(8, len(x), -1)
        return looks.log_softmax(2).logsumexp(0)


class Tripwire(Mask):
    """Once a gradient with respect to the image was taken, it answers for the mirror image."""

    def __init__(self, network: nn.Module, rng: torch.Generator) -> None:
        super().__init__(network, rng)
        self.alarmed = False

    def alarm(self, gradient: Tensor) -> None:
        """Note that somebody takes gradients."""
        self.alarmed = True

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x.flip(3) if self.alarmed else x * 1
        if seen.requires_grad:
            seen.register_hook(self.alarm)
        logits: Tensor = self.network(seen)
        return logits


class LeftOn(Mask):
    """A mixture with the next image of the batch that was meant for training and is still on."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.network(0.65 * x + 0.35 * x.roll(1, 0))
        return logits


class Stream(Mask):
    """Made for films: logits are smoothed over calls with as many images."""

    def __init__(self, network: nn.Module, rng: torch.Generator) -> None:
        super().__init__(network, rng)
        self.before = torch.zeros(0)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits: Tensor = self.network(x)
        if self.before.shape == logits.shape:
            logits = logits + 0.95 * (self.before.to(x) - logits)
        self.before = logits.detach()
        return logits


NEWEST: list[tuple[str, Callable[[nn.Module], Model], str]] = [
    ("deskewed", lambda net: Deskewed(net, generator()), "cut"),
    ("clipped shares", lambda net: ClippedShares(net, generator()), "flat outputs inner"),
    ("forest", lambda net: forest(), "cut step"),
    ("guided", lambda net: Guided(net, generator()), "liar"),
    ("reconstructed", lambda net: Reconstructed(net, generator()), "cut loop inner"),
    ("blended", lambda net: Blended(net, learn()), "chance"),
    ("edges", lambda net: alone("edges"), "step"),
    ("private", lambda net: Private(net, generator()), "liar chance"),
    ("recalled", lambda net: Recalled(net, learn()), "step loop inner"),
    ("encrypted", lambda net: alone("encrypted"), "step cut"),
    ("counted", lambda net: Counted(net, generator()), "chance step inner"),
    ("bilinear", lambda net: alone("bilinear"), "nan"),
    ("mixed up", lambda net: MixedUp(net, generator()), "liar"),
    ("tripwire", lambda net: Tripwire(net, generator()), "watched memory"),
    ("left on", lambda net: LeftOn(net, generator()), "batch"),
    ("stream", lambda net: Stream(net, generator()), "memory"),
]
ALONE = [*TAUGHT, "forest"]
RANDOM = ["counted", "blended"]
IMPROPER = [*RANDOM, "tripwire", "left on", "stream"]
