"""Masks that the doctor was not made with: somebody wrote them who had not read it.

They follow published defences and careless code, and came when it was mended for the newest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.bases import learn
from benchmarks.masks.known import Behind, Mask, Through
from benchmarks.masks.later import divided
from benchmarks.masks.tricks import generator
from benchmarks.masks.unseen_learned import (
    TAUGHT,
    Elastic,
    Hyperdimensional,
    SupportVectors,
    alone,
    denoiser,
    logic_gates,
)
from mpkit.attacks.gradients import Model
from mpkit.data import Images
from mpkit.masking import EOT


class OwnGreys(Behind):
    """Every image is drawn in three greys of its own, the means of its clusters of pixels."""

    def shown(self, x: Tensor) -> Tensor:
        """The image in three greys; a grey has the gradient of a mean, the choice has none."""
        flat = x.flatten(1)
        low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
        greys = low + (high - low) * torch.linspace(0, 1, 3).to(x)
        for _ in range(6):
            nearest = (flat[:, :, None] - greys[:, None]).abs().argmin(2)
            own = functional.one_hot(nearest, 3).to(x)
            count = own.sum(1)
            means = torch.einsum("bn,bnk->bk", flat, own) / count.clamp(min=1)
            greys = torch.where(count > 0, means, greys)
        return greys.gather(1, nearest).view_as(x)


class LowRank(Behind):
    """The image amid an empty canvas, of which three singular vectors each way are kept."""

    def shown(self, x: Tensor) -> Tensor:
        """The image of rank three."""
        left, values, right = torch.linalg.svd(functional.pad(x, (4, 4, 4, 4)))
        canvas = (left[..., :3] * values[..., None, :3]) @ right[..., :3, :]
        return canvas[..., 4:-4, 4:-4]

    @property
    def knowing(self) -> Model:
        """The image seen from the singular vectors, as if those did not move."""

        def seen(x: Tensor) -> Tensor:
            with torch.no_grad():
                left, _, right = torch.linalg.svd(x)
            left, right = left[..., :3], right[..., :3, :]
            kept = left @ (left.transpose(2, 3) @ x @ right.transpose(2, 3)) @ right
            logits: Tensor = self.network(kept)
            return logits

        return seen


class _Correlated(torch.autograd.Function):
    """A convolution; backwards the kernels are laid down without being turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.stride, ctx.size = stride, x.shape[2:]
        return functional.conv2d(x, weight, bias, stride, weight.shape[2] // 2)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (weight,) = ctx.saved_tensors
        reach, (height, width) = weight.shape[2] // 2, ctx.size
        steps = gradients[0].new_zeros(*gradients[0].shape[:2], height, width)
        steps[:, :, :: ctx.stride, :: ctx.stride] = gradients[0]
        return functional.conv2d(steps, weight.transpose(0, 1), None, 1, reach), None, None, None


class Correlated(Mask):
    """Convolutions of somebody's own: right forwards, and backwards with the same kernels."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        seen = x
        for layer in self.network.children():
            if isinstance(layer, nn.Conv2d):
                seen = _Correlated.apply(seen, layer.weight, layer.bias, layer.stride[0])
            else:
                seen = layer(seen)
        return seen


class Diffusion(Behind):
    """The image is drowned in noise, always the same, and brought back in six learned steps."""

    def cleaned(self, x: Tensor) -> Tensor:
        """What the steps bring back, with its gradient."""
        denoise = denoiser().to(x)
        noise = torch.randn(x.shape[1:], generator=generator(33)).to(x)
        seen = x + 0.35 * noise
        for level, after in zip(
            (0.35, 0.28, 0.21, 0.14, 0.09, 0.05), (0.28, 0.21, 0.14, 0.09, 0.05, 0.0), strict=True
        ):
            clean = denoise(seen, level)
            seen = clean + after / level * (seen - clean)
        return seen.clamp(0, 1)

    @torch.no_grad()
    def shown(self, x: Tensor) -> Tensor:
        """The same without a gradient."""
        return self.cleaned(x)

    @property
    def knowing(self) -> Model:
        """The network behind the steps, followed one by one."""
        return lambda x: self.network(self.cleaned(x))


class ReverseSigmoid(Mask):
    """Against theft: the surer a class, the more is taken from its probability."""

    def forward(self, x: Tensor) -> Tensor:
        """Perturbed probabilities (B, K)."""
        shares = self.network(x).softmax(1).clamp(1e-7, 1 - 1e-7)
        odds = shares.log() - (1 - shares).log()
        told = shares - 0.7 * (torch.sigmoid(0.2 * odds) - 0.5)
        return told / told.sum(1, keepdim=True)


class Stirred(Mask):
    """Hidden units are stirred by waves of sums of all of them: small, and very short."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        before, last = divided(self.network)
        hidden = before(x)
        wide = hidden.shape[1]
        ways = torch.randn(wide, wide, generator=generator(34)).to(x) / wide**0.5
        logits: Tensor = last(hidden + 0.3 * torch.sin(300 * hidden @ ways))
        return logits


class Mahalanobis(Mask):
    """How far hidden features lie from each class's mean, by how features vary about theirs."""

    def __init__(self, network: nn.Module, learn: Images) -> None:
        super().__init__(network, generator())
        with torch.no_grad():
            features = divided(network)[0](learn.x).double()
        self.means = torch.stack([features[learn.y == k].mean(0) for k in range(10)])
        rest = features - self.means[learn.y]
        spread = rest.T @ rest / len(rest)
        some = 1e-3 * spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
        self.precision = torch.linalg.inv(spread + some)

    def forward(self, x: Tensor) -> Tensor:
        """Minus squared distances, as logits (B, K)."""
        away = divided(self.network)[0](x)[:, None] - self.means.to(x)
        return -torch.einsum("bki,ij,bkj->bk", away, self.precision.to(x), away)

    @property
    def knowing(self) -> Model:
        """The same, at a temperature."""
        return lambda x: self(x) / 50


class Deflected(Behind):
    """A quarter of the pixels, drawn anew in each call, take the place of a pixel close by."""

    def shown(self, x: Tensor) -> Tensor:
        """The image with pixels of its neighbourhood; gradients go to where they are from."""
        height, width = x.shape[2:]
        moved = torch.rand(len(x), height, width, generator=self.rng) < 0.25
        steps = torch.randint(-2, 3, (2, len(x), height, width), generator=self.rng) * moved
        rows = (torch.arange(height)[:, None] + steps[0]).clamp(0, height - 1)
        columns = (torch.arange(width) + steps[1]).clamp(0, width - 1)
        return x.flatten(2).gather(2, (rows * width + columns).flatten(1)[:, None]).view_as(x)

    @property
    def knowing(self) -> Model:
        """The mean over draws."""
        return EOT(self, 16, 0.0, self.rng)


class Completed(Behind):
    """A fifth of the pixels is lost at random, and a matrix of low rank is made of the rest."""

    @torch.no_grad()
    def shown(self, x: Tensor) -> Tensor:
        """The guess, after eight rounds that shrink singular values."""
        kept = torch.rand(x.shape, generator=self.rng, dtype=x.dtype) > 0.2
        guess = x * kept
        for _ in range(8):
            left, values, right = torch.linalg.svd(torch.where(kept, x, guess))
            guess = (left * (values - 0.25).clamp(min=0)[..., None, :]) @ right
        return guess.clamp(0, 1)

    @property
    def knowing(self) -> Model:
        """The mean over draws, straight through."""
        return EOT(Through(self.network, self.shown), 16, 0.0, self.rng)


class Rota(Mask):
    """A target that moves: views of the image take turns, one for each call."""

    def __init__(self, network: nn.Module, rng: torch.Generator) -> None:
        super().__init__(network, rng)
        self.calls = 0

    def views(self, x: Tensor) -> list[Tensor]:
        """The image smoothed, as it is, and with more contrast."""
        smooth = functional.avg_pool2d(x, 3, 1, 1)
        return [(x + smooth) / 2, x, (2 * x - smooth).clamp(0, 1)]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        self.calls += 1
        logits: Tensor = self.network(self.views(x)[self.calls % 3])
        return logits

    @property
    def knowing(self) -> Model:
        """The mean over all views."""
        return lambda x: torch.stack([self.network(view) for view in self.views(x)]).mean(0)


class Ranged(Mask):
    """Hidden activations get four bits between the least and the greatest of the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        before, after = divided(self.network, 3)
        hidden = before(x)
        unit = (hidden.amax() - hidden.amin()).clamp(min=1e-9) / 15
        logits: Tensor = after(((hidden - hidden.amin()) / unit).round() * unit + hidden.amin())
        return logits


UNSEEN: list[tuple[str, Callable[[nn.Module], Model], str]] = [
    ("own greys", lambda net: OwnGreys(net, generator()), "step loop inner"),
    ("low rank", lambda net: LowRank(net, generator()), "nan"),
    ("correlated", lambda net: Correlated(net, generator()), "liar"),
    ("diffusion", lambda net: Diffusion(net, generator()), "cut loop inner"),
    ("reverse sigmoid", lambda net: ReverseSigmoid(net, generator()), "outputs inner"),
    ("stirred", lambda net: Stirred(net, generator()), "shattered inner"),
    ("vocabulary", lambda net: alone("vocabulary"), "step"),
    ("coarse to fine", lambda net: alone("coarse to fine"), "step inner"),
    ("oriented", lambda net: alone("oriented"), "step"),
    ("logic gates", lambda net: logic_gates(), "step"),
    ("hyperdimensional", lambda net: Hyperdimensional(learn()), "step"),
    ("elastic", lambda net: Elastic(learn()), "cut"),
    ("support vectors", lambda net: SupportVectors(learn()), "cut step outputs"),
    ("Mahalanobis", lambda net: Mahalanobis(net, learn()), "flat"),
    ("deflected", lambda net: Deflected(net, generator()), "chance"),
    ("completed", lambda net: Completed(net, generator()), "chance cut loop"),
    ("rota", lambda net: Rota(net, generator()), "memory"),
    ("ranged", lambda net: Ranged(net, generator()), "batch step"),
]
ALONE = [*TAUGHT, "logic gates", "hyperdimensional", "elastic", "support vectors"]
RANDOM = ["deflected", "completed"]
IMPROPER = [*RANDOM, "rota", "ranged"]
