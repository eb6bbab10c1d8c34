"""Masks inside a network or behind it, kept aside: the doctor was finished before they were
written."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.masks.known import Mask
from mpkit.attacks.gradients import Model
from mpkit.masking import EOT


class Ranks(Mask):
    """Logits become their ranks, 0 to 9."""

    def forward(self, x: Tensor) -> Tensor:
        """Ranks (B, K)."""
        return self.network(x).argsort(1).argsort(1).to(x.dtype)


class Clipped(Mask):
    """Logits times a hundred, cut off: the best are one behind the other at the limit."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K); a part in ten thousand of the true ones settles ties."""
        logits = self.network(x)
        return (100 * logits).clamp(-5, 5) + 1e-4 * logits.detach()


class Scaled(Mask):
    """Logits of a fixed, very large length."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return 1e6 * functional.normalize(self.network(x))


class Hashed(Mask):
    """A tiny function of all pixels is added to the logits, with a gradient that drowns theirs."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        logits = self.network(x)
        waves = torch.arange(1, logits.shape[1] + 1, dtype=x.dtype)
        return logits + 0.05 * torch.sin(3e4 * x.flatten(1).mean(1, keepdim=True) * waves)


class Votes(nn.Module):
    """Several networks name a class each."""

    def __init__(self, networks: list[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        """Votes (B, K)."""
        named = [functional.one_hot(net(x).argmax(1), 10) for net in self.networks]
        return torch.stack(named).sum(0).to(x.dtype)

    @property
    def knowing(self) -> Model:
        """The mean of the networks' probabilities."""
        return lambda x: torch.stack([net(x).softmax(1) for net in self.networks]).mean(0)


class Ballot(Mask):
    """Votes of one network over the image under 24 fixed draws of noise."""

    def looks(self, x: Tensor) -> Tensor:
        """Logits of every draw (24, B, K)."""
        noise = torch.randn(24, 1, *x.shape[1:], generator=torch.Generator().manual_seed(9))
        return self.network((x + 0.2 * noise.to(x)).flatten(0, 1)).view(24, len(x), -1)

    def forward(self, x: Tensor) -> Tensor:
        """Votes (B, K), and the mean as a tie-break."""
        looks = self.looks(x).detach()
        return functional.one_hot(looks.argmax(2), looks.shape[2]).sum(0) + 1e-3 * looks.mean(0)

    @property
    def knowing(self) -> Model:
        """The mean probabilities over the draws."""
        return lambda x: self.looks(x).softmax(2).mean(0)


class _Foreign(torch.autograd.Function):
    """Computed elsewhere; the gradient that comes back is somebody's guess."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.shape = x.shape
        found = x.detach().numpy() @ weight.detach().numpy().T + bias.detach().numpy()
        return torch.from_numpy(np.ascontiguousarray(found)).to(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        rng = torch.Generator().manual_seed(4)
        guess = torch.randn(gradients[0].shape[1], ctx.shape[1], generator=rng)
        return gradients[0] @ guess.to(gradients[0]), None, None


class Foreign(Mask):
    """The last layer is computed elsewhere, and its backward pass is wrong."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        *layers, last = self.network  # type: ignore[misc]
        logits: Tensor = _Foreign.apply(nn.Sequential(*layers)(x), last.weight, last.bias)
        return logits


class _Smallest(torch.autograd.Function):
    """The identity; backwards the smaller half of the gradient passes, turned round."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        flat = gradients[0].flatten(1)
        middle = flat.abs().quantile(0.5, 1, keepdim=True)
        return torch.where(flat.abs() < middle, -flat, 0.0).view_as(gradients[0])


class Filtered(Mask):
    """Of the image's gradient the larger half does not come back, and the rest is turned round."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.network(_Smallest.apply(x))


class Bucketed(Mask):
    """The first layer's activations are sorted into buckets."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        first, *others = self.network.children()
        edges = torch.linspace(-2, 4, 25, dtype=x.dtype)
        hidden = torch.bucketize(first(x).contiguous(), edges).to(x.dtype) * 0.25 - 2
        return nn.Sequential(*others)(hidden)


class Pruned(Mask):
    """In every call most of the hidden activations fall out, the small ones sooner."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        *layers, last = self.network.children()
        hidden = nn.Sequential(*layers)(x)
        chance = 1 - torch.exp(-4 * hidden.abs() / hidden.abs().mean(1, keepdim=True))
        kept = torch.rand(hidden.shape, generator=self.rng, dtype=x.dtype) < chance.detach()
        return last(hidden * kept / chance.detach().clamp(min=0.05))

    @property
    def knowing(self) -> Model:
        """The mean over draws."""
        return EOT(self, 16, 0.0, self.rng)


class Drifting(Mask):
    """Brightness is evened out by a mean that every call moves on."""

    def __init__(self, network: nn.Module, rng: torch.Generator) -> None:
        super().__init__(network, rng)
        self.register_buffer("mean", torch.tensor(0.3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        with torch.no_grad():
            self.mean.mul_(0.5).add_(0.5 * x.mean())
        return self.network((x - 2 * (self.mean.to(x) - 0.3)).clamp(0, 1))


class Sealed(Mask):
    """All of it runs in inference mode."""

    @torch.inference_mode()
    def ask(self, x: Tensor) -> Tensor:
        """Logits (B, K) that no graph may hold."""
        return self.network(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.ask(x.detach()).clone()
