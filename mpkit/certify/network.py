"""A ReLU network taken apart: affine layers to be run forwards, backwards and on intervals."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mpkit.models import Normalize

PASSING = (nn.Identity, nn.Dropout)
AFFINE = (nn.Linear, nn.Conv2d, nn.Flatten, Normalize)


class Dense(NamedTuple):
    """An affine map written out: flat inputs v to W v + b.

    Attributes:
        weight: (n, m).
        bias: (n,).
    """

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Layer:
    """One affine layer, and the shape of what goes in, without the batch.

    Args:
        module: a Linear, Conv2d, Flatten or Normalize.
        shape: such as (C, H, W).
    """

    module: nn.Module
    shape: torch.Size

    def __call__(self, v: Tensor) -> Tensor:
        """What the layer makes of inputs (B, ...)."""
        out: Tensor = self.module(v)
        return out

    def spread(self, radius: Tensor) -> Tensor:
        """How far the outputs move at most when every input moves by at most its radius."""
        layer = self.module
        if isinstance(layer, nn.Linear):
            return functional.linear(radius, layer.weight.abs())
        if isinstance(layer, nn.Conv2d):
            return functional.conv2d(
                radius, layer.weight.abs(), None, layer.stride, layer.padding, 1, layer.groups
            )
        return radius.flatten(1) if isinstance(layer, nn.Flatten) else radius / _scale(layer)

    def back(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Linear functions of the outputs as functions of the inputs.

        Args:
            a: (B, S, ...), the slopes of S functions for each of B images.

        Returns: slopes (B, S, ...), and the constants (B, S) that the layer's bias adds.
        """
        layer, shape = self.module, (*a.shape[:2], *self.shape)
        if isinstance(layer, nn.Flatten):
            return a.reshape(shape), a.new_zeros(a.shape[:2])
        if isinstance(layer, nn.Linear):
            bias: Tensor | None = layer.bias
            return a @ layer.weight, a.new_zeros(a.shape[:2]) if bias is None else a @ bias
        if isinstance(layer, nn.Conv2d):
            each = None if layer.bias is None else layer.bias.view(-1, 1, 1)
            return self._back_through(layer, a.flatten(0, 1)).view(shape), _inner(a, each)
        scaled = a / _scale(layer)
        return scaled, _inner(scaled, -_mean(layer))

    def _back_through(self, layer: nn.Conv2d, a: Tensor) -> Tensor:
        """The transposed convolution, with the rows and columns that a stride left out as zeros."""
        assert not isinstance(layer.padding, str)
        pairs = zip(self.shape[1:], layer.stride, layer.padding, layer.kernel_size, strict=True)
        lost = [(size + 2 * pad - kernel) % step for size, step, pad, kernel in pairs]
        return functional.conv_transpose2d(
            a, layer.weight, None, layer.stride, layer.padding, lost, layer.groups
        )


class ReluNetwork:
    """Affine layers with a ReLU between two groups of them: what bounds and programs are made of.

    Args:
        model: an nn.Sequential, nested or not, of Linear, Conv2d, Flatten, Normalize, ReLU,
            Dropout and Identity, whose last layer is affine. It is taken in eval mode.
        shape: (C, H, W) of its images.

    Attributes:
        groups: the layers up to the first ReLU, those up to the second, and so on.
        shapes: what goes into each ReLU, without the batch.
        classes: K.

    Raises: ValueError: a layer of another kind, with what to do.
    """

    def __init__(self, model: nn.Module, shape: Sequence[int]) -> None:
        self.groups: list[list[Layer]] = [[]]
        self.shapes: list[torch.Size] = []
        like = next(model.parameters(), torch.zeros(()))
        v = torch.zeros(1, *shape, dtype=like.dtype, device=like.device)
        with torch.no_grad():
            for module in _modules(model):
                if isinstance(module, nn.ReLU):
                    self.shapes.append(v.shape[1:])
                    self.groups.append([])
                else:
                    self.groups[-1].append(Layer(module, v.shape[1:]))
                    v = module(v)
        if not self.groups[-1] or v.dim() != 2:
            raise ValueError(
                f"ReluNetwork: the last layer must be affine and give flat logits, it gives "
                f"{tuple(v.shape[1:])}; end the network in a Linear layer"
            )
        self.classes = v.shape[1]

    @classmethod
    def exactly(cls, model: nn.Module, shape: Sequence[int]) -> ReluNetwork:
        """The network with its weights copied to float64 and without gradients, for certificates.

        Raises: ValueError: as the class.
        """
        own = copy.deepcopy(model).double().requires_grad_(False)
        return cls(own, shape)

    def flat(self) -> ReluNetwork:
        """The same network with every group written out as one Linear layer, for a fast search."""
        layers: list[nn.Module] = [nn.Flatten()]
        for weight, bias in self.dense():
            layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta", dtype=weight.dtype)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            layer.bias = nn.Parameter(bias, requires_grad=False)
            layers += [layer, nn.ReLU()]
        return ReluNetwork(nn.Sequential(*layers[:-1]), self.groups[0][0].shape)

    def __call__(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to logits (B, K)."""
        for number, group in enumerate(self.groups):
            x = x.relu() if number else x
            for layer in group:
                x = layer(x)
        return x

    def dense(self) -> list[Dense]:
        """Every group of layers as one matrix and one bias, inputs and outputs flat."""
        found = []
        for number, group in enumerate(self.groups):
            shape = self.shapes[number] if number < len(self.shapes) else (self.classes,)
            size = torch.Size(shape).numel()
            bias = next(v for v in _weights(group))
            eye = torch.eye(size, dtype=bias.dtype, device=bias.device)
            a, constant = through(group, eye.view(1, size, *shape))
            found.append(Dense(a.flatten(2)[0], constant[0]))
        return found


def through(group: Sequence[Layer], a: Tensor) -> tuple[Tensor, Tensor]:
    """Linear functions of what a group gives, (B, S, ...), as functions of what it takes."""
    total = a.new_zeros(a.shape[:2])
    for layer in reversed(group):
        a, constant = layer.back(a)
        total = total + constant
    return a, total


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    if isinstance(model, nn.Sequential):
        for child in model:
            yield from _modules(child)
    elif isinstance(model, (nn.ReLU, *AFFINE)):
        strange = isinstance(model, nn.Conv2d) and (
            model.padding_mode != "zeros"
            or isinstance(model.padding, str)
            or model.dilation != (1, 1)
        )
        if strange:
            raise ValueError(
                f"ReluNetwork: {model} is not supported; use zero padding given in numbers and no "
                "dilation"
            )
        yield model
    elif not isinstance(model, PASSING):
        raise ValueError(
            f"ReluNetwork: a layer of the class {type(model).__name__} is neither affine nor a "
            "ReLU; use nn.Sequential of Linear, Conv2d, Flatten, Normalize and ReLU"
        )


def _weights(group: Sequence[Layer]) -> Iterator[Tensor]:
    for layer in group:
        yield from layer.module.parameters()


def _inner(a: Tensor, bias: Tensor | None) -> Tensor:
    return a.new_zeros(a.shape[:2]) if bias is None else (a * bias).flatten(2).sum(2)


def _scale(layer: nn.Module) -> Tensor:
    assert isinstance(layer, Normalize)
    return layer.std


def _mean(layer: nn.Module) -> Tensor:
    assert isinstance(layer, Normalize)
    return layer.mean
