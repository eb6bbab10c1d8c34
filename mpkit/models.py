"""The networks: images in [0, 1] go in, logits come out, weights come from a generator only."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """Shift and scale every channel: (x - mean) / std, as the first layer of a network.

    Args:
        mean: one number per channel, or one for all.
        std: likewise, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...] = (0.5,), std: tuple[float, ...] = (0.5,)) -> None:
        super().__init__()
        if min(std) <= 0:
            raise ValueError(f"Normalize: std must be positive, got {std}")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return (x - self.mean) / self.std


def small_cnn(shape: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
    """A small convolutional network that learns 8 x 8 digits in seconds on one core.

    One 3 x 3 convolution (at full size up to 16 pixels a side, else at half), then convolutions
    of stride 2 until at most 4 x 4 pixels are left, then two linear layers.

    Args:
        shape: (C, H, W) of the images; 4 to 64 pixels a side do well.
        classes: number of classes, at least 2.
        rng: every weight is drawn from it, on the CPU in float64, and rounded to float32, so
            that the same generator gives the same network on every machine.

    Returns: a network in float32 on the CPU; ``.to(torch.float64)`` keeps the weights' values.
    """
    channels, height, width = _check_shape("small_cnn", shape, classes, least=4)
    stride = 1 if max(height, width) <= 16 else 2
    layers: list[nn.Module] = [Normalize(), _conv(channels, 16, 3, stride, rng), nn.ReLU()]
    channels, height, width = 16, -(-height // stride), -(-width // stride)
    while max(height, width) > 4:
        wider = min(64, 2 * channels)
        layers += [_conv(channels, wider, 3, 2, rng), nn.ReLU()]
        channels, height, width = wider, -(-height // 2), -(-width // 2)
    layers += [nn.Flatten(), _linear(channels * height * width, 128, rng), nn.ReLU()]
    return nn.Sequential(*layers, _linear(128, classes, rng))


def paper_mnist(shape: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
    """The network that the paper trains on MNIST.

    Convolutions 5 x 5 with 32 and 64 channels and same padding, each followed by ReLU and 2 x 2
    max-pooling, then 1024 ReLU units and the logits. Pixels go in as they are.
    Source: released code of Tramèr and Boneh, 2019.

    Args:
        shape: (C, H, W) of the images, at least 4 pixels a side; (1, 28, 28) in the paper.
        classes: number of classes, at least 2; 10 in the paper.
        rng: every weight is drawn from it, as in :func:`small_cnn`.
    """
    channels, height, width = _check_shape("paper_mnist", shape, classes, least=4)
    return nn.Sequential(
        _conv(channels, 32, 5, 1, rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        _conv(32, 64, 5, 1, rng),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        _linear(64 * (height // 4) * (width // 4), 1024, rng),
        nn.ReLU(),
        _linear(1024, classes, rng),
    )


NETWORKS = {"small_cnn": small_cnn, "paper_mnist": paper_mnist}


def parameter_count(model: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def parameter_table(model: nn.Module) -> str:
    """The parameters layer by layer, as text: one line for every tensor, then the sum."""
    rows = [
        (name, "x".join(map(str, p.shape)), f"{p.numel():,}")
        for name, p in model.named_parameters()
    ]
    rows.append(("sum", "", f"{parameter_count(model):,}"))
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    return "\n".join(
        f"{name:<{widths[0]}}  {shape:>{widths[1]}}  {count:>{widths[2]}}"
        for name, shape, count in rows
    )


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, or ``cuda:1``.

    Raises:
        ValueError: unknown name, or a GPU that is not there; nothing falls back silently.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index.isdecimal() or name == kind):
        raise ValueError(f"device: use auto, cpu, cuda or cuda:1, got {name!r}")
    if kind == "cuda" and int(index or 0) >= available:
        raise ValueError(
            f"device: {name} was asked for, but {available or 'no'} CUDA device(s) can be used "
            "here; take 'auto' or 'cpu', or install a driver and a CUDA build of torch"
        )
    return torch.device(name)


def _check_shape(
    who: str, shape: tuple[int, int, int], classes: int, least: int
) -> tuple[int, int, int]:
    if len(shape) != 3 or shape[0] < 1 or min(shape[1:]) < least:
        raise ValueError(
            f"{who}: shape must be (channels, height, width) with sides of at least {least} "
            f"pixels, got {tuple(shape)}; pass Images.shape"
        )
    if classes < 2:
        raise ValueError(f"{who}: classes must be at least 2, got {classes}")
    return shape


def _conv(inputs: int, outputs: int, size: int, stride: int, rng: torch.Generator) -> nn.Module:
    layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, device="meta", dtype=torch.float32)
    return _draw(layer, inputs * size * size, rng)


def _linear(inputs: int, outputs: int, rng: torch.Generator) -> nn.Module:
    layer = nn.Linear(inputs, outputs, device="meta", dtype=torch.float32)
    return _draw(layer, inputs, rng)


@torch.no_grad()
def _draw(layer: nn.Conv2d | nn.Linear, fan_in: int, rng: torch.Generator) -> nn.Module:
    """He's uniform law: weights of variance 2 / fan_in, biases zero (He et al. 2015, eq. 10).

    The layer comes without storage ("meta"), so that its own draw from the global generator
    does not happen.
    """
    layer.to_empty(device="cpu")
    bound = math.sqrt(6 / fan_in)
    shape = layer.weight.shape
    uniform = torch.rand(shape, generator=rng, dtype=torch.float64, device=rng.device)
    layer.weight.copy_((2 * uniform - 1) * bound)
    if layer.bias is not None:
        layer.bias.zero_()
    return layer
