"""By how much a perturbation leaves its set, in float64: a second, plainer word on membership.

This does not share a line with the sets' own ``contains``: evaluation counts nothing that only
one of the two accepts.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from mpkit.attacks import AttackResult
from mpkit.core import trees
from mpkit.sets import (
    L0,
    L1,
    L2,
    Affine,
    Ball,
    Blend,
    Linf,
    PerturbationSet,
    RotationTranslation,
    Union,
)
from mpkit.sets.norms import slack

TOLERANCE = 1e-6
"""Largest excess over a set's budget, as a share of it, with which an example is counted."""


class OutsideSet(ValueError):
    """An attack claims an example that does not lie in its perturbation set."""


def _doubled(t: Tensor) -> Tensor:
    return t.double() if t.is_floating_point() else t


def excess(threat: PerturbationSet, x: Tensor, z: Any) -> Tensor:
    """By how much z leaves its set, as a share of the set's budget; ≤ 0 inside.

    Pixels outside [0, 1] count by how far they are out, on the scale of 1.

    Args:
        threat: any set; one of a kind not known here is asked by its ``contains``.
        x: (B, C, H, W) images.
        z: their coordinates in the set.

    Returns: (B,) float64; NaN in z gives infinity.
    """
    over = _excess(*trees.mapped(_doubled, (threat, x, z)))
    return torch.where(over.isnan(), torch.inf, over)


@singledispatch
def _excess(threat: PerturbationSet, x: Tensor, z: Any) -> Tensor:
    return torch.where(threat.contains(x, z), 0.0, torch.inf).double()


@_excess.register
def _(threat: Ball, x: Tensor, z: Tensor) -> Tensor:
    return torch.maximum(_beyond(threat, z, 1.0), _outside_box(x + z))


@_excess.register
def _(threat: L0, x: Tensor, z: Tensor) -> Tensor:
    return torch.maximum((z != 0).any(1).flatten(1).sum(1) / threat.eps - 1, _outside_box(x + z))


@_excess.register
def _(threat: RotationTranslation, x: Tensor, z: Tensor) -> Tensor:
    return _turned(threat, z, 1.0)


@_excess.register
def _(threat: Union, x: Tensor, z: Any) -> Tensor:
    which, coordinates = z
    each = [_excess(one, x, part) for one, part in zip(threat.sets, coordinates, strict=True)]
    return torch.stack(each).gather(0, which.unsqueeze(0)).squeeze(0)


@_excess.register
def _(threat: Affine, x: Tensor, z: Any) -> Tensor:
    w, first, second = z
    a = threat.a
    near = _beyond(a, first, w) if isinstance(a, Ball) else _turned(a, first, w)
    shares = torch.maximum(near, _beyond(threat.b, second, 1 - w))
    box = _outside_box(threat.a.apply(x, first) + second)
    return torch.stack([shares, box, -w, w - 1]).amax(0)


@_excess.register
def _(threat: Blend, x: Tensor, z: Any) -> Tensor:
    w, first, second = z
    both = torch.maximum(_excess(threat.a, x, first), _excess(threat.b, x, second))
    return torch.stack([both, -w, w - 1]).amax(0)


def _beyond(ball: Ball, z: Tensor, share: float | Tensor) -> Tensor:
    """How far the norm passes a share of the radius, over the radius."""
    rows = z.flatten(1).abs()
    if isinstance(ball, Linf):
        size = rows.amax(1)
    elif isinstance(ball, L2):
        size = rows.square().sum(1).sqrt()
    elif isinstance(ball, L1):
        size = rows.sum(1)
    else:
        size = ball.norm(z)
    return size / ball.eps - share


def _turned(poses: RotationTranslation, z: Tensor, share: float | Tensor) -> Tensor:
    """How far shifts and angle pass a share of their bounds, over the bounds."""
    bounds = (poses.pixels, poses.pixels, poses.degrees)
    over = [
        torch.where(entry == 0, -torch.inf, entry.abs() / torch.as_tensor(bound) - share)
        for entry, bound in zip(z.unbind(1), bounds, strict=True)
    ]
    return torch.stack(over).amax(0)


def _outside_box(image: Tensor) -> Tensor:
    rows = image.flatten(1)
    return torch.maximum(-rows.amin(1), rows.amax(1) - 1)


def located(threat: PerturbationSet, z: Any, rows: int) -> Tensor:
    """Which of the ``parts`` of a union each coordinate lies in: (B,) int64, on the CPU."""
    place = torch.zeros(rows, dtype=torch.int64)
    if not isinstance(threat, Union):
        return place
    which, coordinates = z
    before = 0
    for i, (one, part) in enumerate(zip(threat.sets, coordinates, strict=True)):
        place = torch.where(which.cpu() == i, before + located(one, part, rows), place)
        before += len(one.parts())
    return place


def verified(
    name: str, threat: PerturbationSet, x: Tensor, found: AttackResult
) -> tuple[Tensor, Tensor]:
    """What may be counted of a result: its images, and which rows keep their set to 1e-6.

    Rows of a ball that are outside by no more than the rounding of their precision are pulled
    towards the clean image until they are inside.

    Args:
        name: the attack, for the message.
        threat: its set.
        x: (B, C, H, W) clean images.
        found: what it returned, only rows that would be counted.

    Returns: images (B, C, H, W), and (B,) bool.

    Raises: OutsideSet: if a row is outside its set by more, or its image is not that of its z.
    """
    over, image = excess(threat, x, found.z), found.image
    exact, *inputs = trees.mapped(_doubled, (threat, x, found.z))
    apart = (exact.apply(*inputs) - image.double()).abs().flatten(1).amax(1)
    allowed = max(TOLERANCE, slack(x.dtype))
    for what, wrong in (
        (f"lies outside {threat.describe()}", ~(over <= allowed)),
        ("is not what its coordinate gives", ~(apart <= TOLERANCE * sum(x.shape[2:]))),
    ):
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise OutsideSet(
                f"{name}: the image found for row {row} {what}: relative excess "
                f"{float(over[row]):.3g}, pixels off by {float(apart[row]):.3g}; nothing of this "
                "attack is counted: mend the attack or the set"
            )
    edge = over > TOLERANCE
    if isinstance(threat, Ball) and bool(edge.any()):
        pulled = x + (found.z.double() / (1 + over.clamp(min=0)).view(-1, 1, 1, 1)).to(x.dtype)
        image = torch.where(edge.view(-1, 1, 1, 1), pulled, image)
        edge = torch.zeros_like(edge)
    return image, ~edge
