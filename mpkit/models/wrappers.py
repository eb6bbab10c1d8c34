"""Wrappers of a network: less precision, another memory layout, a count of what it is asked.

Its weights stay shared. Any attack or evaluation can use them. Attacks keep their own arithmetic in
the precision of the images; what less precision costs in strength must be measured, by attacking
through the wrapper and evaluating the model itself.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

CAST = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights are only multiplied; subclasses may do other things with them."""


class LowPrecision(nn.Module):
    """The same network with its multiplications in 16 bits (autocast); logits in full precision.

    Args:
        dtype: torch.bfloat16, or torch.float16 on a GPU.

    Raises: ValueError: if dtype is not one of these.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        if dtype not in (torch.bfloat16, torch.float16):
            raise ValueError(
                f"LowPrecision: dtype must be torch.bfloat16 or torch.float16, got {dtype}; "
                "for full precision use the model itself"
            )
        self.model = model
        self.dtype = dtype
        self._short: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K) in the precision of the images."""
        with torch.autocast(x.device.type, self.dtype, cache_enabled=False):
            logits: Tensor
            if self._short and torch.is_autocast_enabled(x.device.type) and not self._asked():
                logits = functional_call(self.model, self._short, (x,), tie_weights=False)
            else:
                logits = self.model(x)
        return logits.to(x.dtype)

    @contextmanager
    def cast_once(self) -> Iterator[None]:
        """Within, weights of linear layers and convolutions are cast once, not in every pass.

        Passes that ask for the weights' gradient go through the weights themselves. The weights
        must not change meanwhile.
        """
        self._short = {
            f"{place}.{name}".lstrip("."): weight.detach().to(self.dtype)
            for place, layer in self.model.named_modules()
            if type(layer) in CAST
            for name, weight in layer.named_parameters(recurse=False)
        }
        try:
            yield
        finally:
            self._short = {}

    def _asked(self) -> bool:
        """Whether a gradient of the weights is asked for."""
        return torch.is_grad_enabled() and any(w.requires_grad for w in self.model.parameters())


class ChannelsLast(nn.Module):
    """The same network fed with images whose channels lie next to each other in memory.

    Convolutions follow the layout of their input, and many are faster in this one.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        logits: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        return logits


class OwnInput(nn.Module):
    """The same network, which is given a copy of the images, for one that changes its input."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        return self.model(x.clone())


class Logits(nn.Module):
    """A network of another form as one that gives logits (B, K): the adapter for what is usual.

    An output with an attribute or a key ``logits`` gives that. One logit an image, (B,) or (B, 1),
    positive for class 1, becomes two: zero, and itself. Trailing sides of one pixel go.
    """

    def __init__(self, model: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K), K at least 2.

        Raises: ValueError: there is nothing called logits, or of another shape.
        """
        found = self.model(x)
        held = found.get("logits") if isinstance(found, Mapping) else None
        logits = getattr(found, "logits", found) if held is None else held
        if not isinstance(logits, Tensor):
            raise ValueError(
                f"Logits: the model gives a {type(found).__name__} without logits; wrap a function "
                "that picks them, such as Logits(lambda x: model(x)[0])"
            )
        rows = logits.flatten(1) if logits.dim() > 1 else logits.unsqueeze(1)
        if rows.shape[1] != (logits.shape[1] if logits.dim() > 1 else 1):
            raise ValueError(
                f"Logits: the model gives {tuple(logits.shape)}, expected (B,), (B, K) or "
                "(B, K, 1, 1); take the mean over places, or pick one"
            )
        return torch.cat([torch.zeros_like(rows), rows], 1) if rows.shape[1] == 1 else rows


class QueryCounter(nn.Module):
    """A network that counts the images it is asked about and the gradients that come back.

    Attributes:
        forwards: images that went through.
        backwards: images whose gradient came back; a batch of 5 counts 5.
        calls: backward passes, whatever their size: no image had more gradients than these.
        learned: images in training mode, those of the weights' gradient; attacks run a network in
            eval mode.
        first: the first images of which a gradient was asked, None before.
    """

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = self.calls = self.learned = 0
        self.first: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        self.forwards += len(x)
        self.learned += len(x) * self.training
        if self.first is None and torch.is_grad_enabled() and x.requires_grad:
            self.first = x.detach().clone()
        logits: Tensor = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)  # type: ignore[no-untyped-call]
        return logits

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)
        self.calls += 1
