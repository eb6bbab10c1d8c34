"""An oracle for attacks of any library: is what they return allowed, and do they leave traces?

An attack is here a plain function of a model, images and labels that returns images, so that one
written elsewhere is checked by the same lines as one of this package. What there is to compare
with is in ``known_optima``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpkit.attacks import Attack
from mpkit.evaluation.verification import excess
from mpkit.sets import Ball

Search = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""Any attack: model, images (B, C, H, W) in [0, 1], labels (B,); returns images (B, C, H, W)."""

TOLERANCE = 1e-5
"""Excess over a radius, as a share of it, that rounding in single precision does not reach."""


def ours(attack: Attack, seed: int = 0) -> Search:
    """An attack of this package as a plain function, with the same randomness at every call."""

    def search(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return attack(model, x, y, torch.Generator(x.device).manual_seed(seed)).image

    return search


class Membership(NamedTuple):
    """How returned images keep their set.

    Attributes:
        outside: share of them that leave it by more than the tolerance.
        worst: the largest excess as a share of the radius; ≤ 0 where all are inside.
    """

    outside: float
    worst: float


def membership(ball: Ball, x: Tensor, image: Tensor) -> Membership:
    """Whether images lie in ball ∩ box, in float64, by ``mpkit.evaluation.verification.excess``.

    Args:
        ball: the set that the attack was given.
        x: (B, C, H, W) clean images.
        image: (B, C, H, W), what it returned; NaN counts as outside by infinity.
    """
    over = excess(ball, x.double(), image.double() - x.double())
    return Membership(float((over > TOLERANCE).double().mean()), float(over.max()))


def brought_back(ball: Ball, x: Tensor, image: Tensor) -> Tensor:
    """The nearest allowed images; rows already inside come back as they are: (B, C, H, W).

    What is left of a result that lies outside, so that nothing is counted that is not allowed
    and nothing is lost that is.
    """
    clean, there = x.double(), image.double().nan_to_num(0.0, 1.0, 0.0) - x.double()
    inside = excess(ball, clean, image.double() - clean) <= TOLERANCE
    near = (clean + ball.project(clean, there)).to(x.dtype)
    return torch.where(inside.view(-1, 1, 1, 1), image.to(x.dtype), near)


class Traces(NamedTuple):
    """What an attack leaves behind that it found otherwise.

    Attributes:
        gradients: something is in the ``.grad`` of a weight.
        mode: a module stands in another mode than before.
        training: the model was run in training mode, as it was handed over.
        flags: the ``requires_grad`` of a weight is another one.
        buffers: a buffer, such as the mean of a batch norm, has moved.
        images: the clean images, or the labels, were changed in place.
    """

    gradients: bool
    mode: bool
    training: bool
    flags: bool
    buffers: bool
    images: bool


def half_training(model: nn.Sequential) -> None:
    """Hand a model over in training mode, its last part in evaluation mode."""
    model.train()
    model[-1].eval()


def evaluating(model: nn.Sequential) -> None:
    """Hand a model over in evaluation mode."""
    model.eval()


def traces(
    search: Search,
    shape: tuple[int, int, int] = (1, 4, 4),
    handed: Callable[[nn.Sequential], None] = half_training,
    images: int = 8,
) -> Traces:
    """Hand an attack a small network with batch norm, and look at it afterwards.

    A few steps of the attack are enough.

    Args:
        search: the attack.
        shape: (C, H, W) of the images.
        handed: brings the network into the mode in which it is handed over.
        images: how many.
    """
    rng = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(shape[0]), nn.Flatten(), nn.Linear(math.prod(shape), 10))
    for weight in model.parameters():
        nn.init.normal_(weight, generator=rng)
    next(model.parameters()).requires_grad_(False)
    handed(model)
    x, y = torch.rand(images, *shape, generator=rng), torch.arange(images)
    before, kept, ran = _state(model), (x.clone(), y.clone()), []
    hook = model[0].register_forward_pre_hook(lambda module, _: ran.append(module.training))
    search(model, x, y)
    hook.remove()
    after = _state(model)
    return Traces(
        any(weight.grad is not None and bool(weight.grad.any()) for weight in model.parameters()),
        before[0] != after[0],
        any(ran),
        before[1] != after[1],
        any(not torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True)),
        not (torch.equal(x, kept[0]) and torch.equal(y, kept[1])),
    )


def _state(model: nn.Module) -> tuple[list[bool], list[bool], list[Tensor]]:
    """Modes, flags and copies of the buffers of a model."""
    modes = [module.training for module in model.modules()]
    flags = [weight.requires_grad for weight in model.parameters()]
    return modes, flags, [buffer.clone() for buffer in model.buffers()]
