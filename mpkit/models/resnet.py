"""Residual networks: a small one for CPUs, and the PreAct ResNet-18 of the literature."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from mpkit.models.layers import Normalize, check_shape, conv, linear

SMALL = (16, 32, 64)  # channels at a half, a quarter and an eighth of the image's side
WIDE = (64, 128, 256, 512)  # channels at full side, a half, a quarter and an eighth


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, each behind its activation.

    Source: He et al. 2016 (identity mappings), figure 4(e).

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: of the first convolution.
        norms: what stands before the two activations; the identity for nothing.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        stride: int,
        norms: tuple[nn.Module, nn.Module],
        rng: torch.Generator,
    ) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.conv1 = conv(inputs, outputs, 3, stride, rng)
        self.conv2 = conv(outputs, outputs, 3, 1, rng)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else conv(inputs, outputs, 1, stride, rng)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride), rounded up."""
        active = relu(self.norm1(x))
        change: Tensor = self.conv2(relu(self.norm2(self.conv1(active))))
        return change + (x if self.shortcut is None else self.shortcut(active))


class Mean(nn.Module):
    """The mean over height and width."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C)."""
        return x.mean(dim=(2, 3))


def small_resnet(shape: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
    """A residual network that a single core trains at a few thousand CIFAR-10 images per second.

    A convolution of stride 2, then three residual blocks with 16, 32 and 64 channels at a half,
    a quarter and an eighth of the image's side, the mean over places, and the logits: about
    78,000 weights. There is no normalization; instead the second convolution of every block begins
    at zero, so that a block begins as its shortcut.

    Args:
        shape: (C, H, W) of the images, at least 4 pixels a side.
        classes: number of classes, at least 2.
        rng: every weight is drawn from it, as in :func:`mpkit.models.small_cnn`.

    Source: the start at zero is that of Fixup (Zhang, Dauphin and Ma 2019), without its scalars.
    """
    channels, _, _ = check_shape("small_resnet", shape, classes, least=4)
    layers: list[nn.Module] = [Normalize(), conv(channels, SMALL[0], 3, 2, rng)]
    inputs = SMALL[0]
    for outputs in SMALL:
        stride = 1 if outputs == inputs else 2
        block = Residual(inputs, outputs, stride, (nn.Identity(), nn.Identity()), rng)
        nn.init.zeros_(block.conv2.weight)
        layers.append(block)
        inputs = outputs
    return nn.Sequential(*layers, nn.ReLU(), Mean(), linear(inputs, classes, rng))


def preact_resnet18(shape: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
    """PreAct ResNet-18, the network of most published results on CIFAR-10.

    A 3 x 3 convolution with 64 channels, four stages of two residual blocks with 64, 128, 256
    and 512 channels, halving the side from the second stage on, batch normalization before
    every activation, the mean over places, and the logits: about 11 million weights.
    Source: He et al. 2016 (identity mappings), with the widths of their ResNet-18.

    Args:
        shape: (C, H, W) of the images, at least 4 pixels a side; (3, 32, 32) in the literature.
        classes: number of classes, at least 2.
        rng: every weight is drawn from it, as in :func:`mpkit.models.small_cnn`.
    """
    channels, _, _ = check_shape("preact_resnet18", shape, classes, least=4)
    layers: list[nn.Module] = [Normalize(), conv(channels, WIDE[0], 3, 1, rng)]
    inputs = WIDE[0]
    for outputs in WIDE:
        for stride in (1 if outputs == inputs else 2, 1):
            norms = _norm(inputs), _norm(outputs)
            layers.append(Residual(inputs, outputs, stride, norms, rng))
            inputs = outputs
    last = [_norm(inputs), nn.ReLU(), Mean(), linear(inputs, classes, rng)]
    return nn.Sequential(*layers, *last)


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, device="cpu", dtype=torch.float32)
