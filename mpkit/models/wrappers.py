"""Ways to run a network faster: less precision, another memory layout. Its weights stay shared.

Both wrap a model, so any attack or evaluation can use them. Attacks keep their own arithmetic in
the precision of the images; what less precision costs in strength must be measured, by attacking
through the wrapper and judging with the model itself.
"""

import torch
from torch import Tensor, nn


class LowPrecision(nn.Module):
    """The same network with its multiplications in 16 bits (autocast); logits in full precision.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        dtype: torch.bfloat16, or torch.float16 on a GPU.

    Raises:
        ValueError: if dtype is not one of these.
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

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K) in the precision of the images."""
        with torch.autocast(x.device.type, self.dtype):
            logits: Tensor = self.model(x)
        return logits.to(x.dtype)


class ChannelsLast(nn.Module):
    """The same network fed with images whose channels lie next to each other in memory.

    Convolutions follow the layout of their input, and many are faster in this one.

    Args:
        model: images (B, C, H, W) to logits (B, K).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        logits: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        return logits


class Autocast(nn.Module):
    """A network that computes in a shorter type; images, logits and attacks keep theirs."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        """Logits in the type of x."""
        with torch.autocast(x.device.type, self.dtype, cache_enabled=False):
            logits: Tensor = self.model(x)
        return logits.to(x.dtype)
