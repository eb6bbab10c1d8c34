"""How much work a named recipe is, before it is done."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mpkit.catalog import Plan
from mpkit.costs import passes, speed
from mpkit.loop import Autocast
from mpkit.models import NETWORKS, resolve_device

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
COUNTS = {"digits": 1297, "mnist": 60000, "cifar10": 50000}
STEP = 1.2  # a step of an attack, in forward and backward passes of training
LOOK = 0.4  # a forward pass alone


class Work(NamedTuple):
    """Gradient evaluations on single images, and seconds on this machine."""

    gradients: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.gradients / 1e6:.1f} M gradients, about {self.seconds / 60:.1f} min"


def estimate(made: Plan, data: str, device: str = "auto") -> Work:
    """Estimate the training of a named recipe; evaluation comes on top.

    The network's speed is measured for half a second, the passes of the scheme are counted.

    Args:
        made: the named recipe.
        data: a key of SHAPES.
        device: see :func:`mpkit.models.resolve_device`.
    """
    where, shape = resolve_device(device), SHAPES[data]
    each = passes(made.scheme, shape, draws=8, natural=made.recipe.natural)
    rng = torch.Generator().manual_seed(0)
    model = NETWORKS[made.network](shape, 10, rng).to(where).to(memory_format=made.recipe.layout)
    x = torch.rand(made.recipe.batch, *shape, generator=rng).to(where)
    rate = speed(Autocast(model, made.recipe.compute) if made.recipe.compute else model, x)
    images = made.recipe.epochs * (made.images or COUNTS[data] - made.held_out)
    work = STEP * each.backward + LOOK * (each.forward - each.backward)
    return Work(images * each.backward, images * work / rate)
