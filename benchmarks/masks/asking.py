"""Models asked without care for what they are: no exception gets out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from mpkit.attacks.gradients import Model

Found = TypeVar("Found")


def tried(work: Callable[[], Found], otherwise: Found) -> Found:
    """What a piece of work gives, or something else where the model does not allow it."""
    try:
        return work()
    except Exception:  # whatever a stranger's forward may raise
        return otherwise


@torch.no_grad()
def asked(model: Model, x: Tensor) -> Tensor:
    """Logits (B, K) of a copy of the images, without a gradient."""
    return model(x.clone()).detach()


def right(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Where the model gives the label: (B,) bool."""
    return asked(model, x).argmax(1) == y
