"""Recipes: everything that decides a training run besides data, network and scheme."""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from mpkit.data.augmentation import Augmentation
from mpkit.sets import RotationTranslation

LATER = {"later": True}
"""Metadata of a field that came after the first records: no part of a hash at its default."""


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015), with decoupled weight decay (Loshchilov and Hutter 2019).

    Args:
        betas: decay of the running means of gradient and squared gradient.
        weight_decay: share of a weight that is taken away per step, in units of the rate.
    """

    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0

    def build(self, weights: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
        """The optimizer of torch for these weights.

        On a CPU in one piece: torch's other way takes square roots from MKL, whose last bit depends
        on the processor's maker.
        """
        every, decay = list(weights), self.weight_decay
        fused = all(one.device.type == "cpu" for one in every) or None
        return torch.optim.AdamW(every, lr, self.betas, weight_decay=decay, fused=fused)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

    Args:
        momentum: 0 for none.
        weight_decay: the factor of the squared-norm penalty's gradient.
        nesterov: whether the gradient is taken one step ahead.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4
    nesterov: bool = True

    def build(self, weights: Iterable[Tensor], lr: float) -> torch.optim.Optimizer:
        """The optimizer of torch for these weights."""
        ahead = self.nesterov and self.momentum > 0
        return torch.optim.SGD(
            weights, lr, self.momentum, weight_decay=self.weight_decay, nesterov=ahead
        )


@dataclass(frozen=True)
class RandomPose(Augmentation):
    """A rotation with a shift, drawn anew for every image.

    Args:
        poses: of which all are equally likely; what comes from outside of an image is black.
    """

    poses: RotationTranslation

    def __call__(self, x: Tensor, rng: torch.Generator) -> Tensor:
        """Turn and shift every image of x (B, C, H, W) on its own."""
        return self.poses.apply(x, self.poses.sample(x, rng))


class Schedule(ABC):
    """The learning rate over a run, as a factor of the recipe's rate."""

    @abstractmethod
    def factor(self, t: float) -> float:
        """The factor at the share t of the run that is done, 0 <= t < 1."""


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate throughout."""

    def factor(self, t: float) -> float:
        """1."""
        return 1.0


@dataclass(frozen=True)
class Steps(Schedule):
    """The rate is multiplied by ``by`` at each of the given moments.

    Args:
        at: shares of the run, increasing; the paper's MNIST training has (0.5,).
        by: the factor.
    """

    at: tuple[float, ...] = (0.5,)
    by: float = 0.1

    def factor(self, t: float) -> float:
        """``by`` to the number of moments passed."""
        return self.by ** sum(t >= moment for moment in self.at)


@dataclass(frozen=True)
class Triangle(Schedule):
    """Linear from 0 up to the full rate and down to 0 again.

    Args:
        peak: the share of the run at which the rate is full, in [0, 1).
    """

    peak: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.peak < 1:
            raise ValueError(f"Triangle: peak must lie in [0, 1), got {self.peak}")

    def factor(self, t: float) -> float:
        """Piecewise linear in t."""
        return t / self.peak if t < self.peak else (1 - t) / (1 - self.peak)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained, apart from data, scheme and seed.

    Args:
        epochs: passes over the data.
        batch: images per step; what is left over at the end of an epoch waits for the next
            epoch's order.
        lr: learning rate where the schedule's factor is 1.
        optimizer: which one, with its own constants.
        schedule: the rate over the run.
        clip: largest norm of the gradient of all weights together; None for no limit.
        averaging: the network that comes out is a running mean of the weights with this decay
            per step, in [0, 1); None for the last weights.
        shards: a batch is searched and differentiated in this many equal parts, each with
            random numbers of its own; the processes of a parallel run share them out. Batch
            normalization sees one part at a time, see
            :class:`mpkit.training.data_parallel.Statistics`.
        compute: torch.bfloat16 for mixed precision inside the network; None for the type of
            the weights.
        layout: torch.channels_last where convolutions run faster with it.
        augment: what is done to every batch, in this order, before the scheme sees it.
        natural: share of natural training that every epoch takes in, in [0, 1); see
            :class:`mpkit.training.gradient_projection.Alongside`. 0 for none, 0.5 in RAMP.

    Raises: ValueError: a number is out of range.
    """

    epochs: int = 20
    batch: int = 64
    lr: float = 3e-3
    optimizer: Adam | SGD = Adam()
    schedule: Schedule = Triangle()
    clip: float | None = None
    averaging: float | None = None
    shards: int = 1
    compute: torch.dtype | None = None
    layout: torch.memory_format = torch.contiguous_format
    augment: tuple[Augmentation, ...] = field(default=(), metadata=LATER)
    natural: float = field(default=0.0, metadata=LATER)

    def __post_init__(self) -> None:
        rules = {
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch": (self.batch >= 1, "at least 1"),
            "lr": (0 < self.lr < math.inf, "positive and finite, such as 0.001"),
            "clip": (self.clip is None or 0 < self.clip < math.inf, "positive, or None"),
            "averaging": (0 <= (self.averaging or 0) < 1, "in [0, 1) such as 0.999, or None"),
            "shards": (
                self.shards >= 1 and self.batch % self.shards == 0,
                f"a divisor of the batch, {self.batch}",
            ),
            "natural": (0 <= self.natural < 1, "in [0, 1) such as 0.5, or 0 for none"),
        }
        for name, (fine, rule) in rules.items():
            if not fine:
                raise ValueError(f"Recipe: {name} must be {rule}, got {getattr(self, name)}")


def canonical(value: Any) -> Any:
    """Plain data (for JSON) that is equal exactly where the values mean the same.

    Dataclasses become their class and what they were made from, tensors type, shape and hash.
    A field with the metadata LATER is left out at its default, and a class that was renamed says
    what it is ``recorded_as``, so that older hashes hold.

    Raises: TypeError: a value of a kind that has no canonical form.
    """
    if is_dataclass(value) and not isinstance(value, type):
        given = [one.name for one in fields(value) if _counts(one, value)]
        name = getattr(value, "recorded_as", type(value).__qualname__)
        return {"class": name} | {part: canonical(getattr(value, part)) for part in given}
    if isinstance(value, Tensor):
        array = value.detach().cpu().contiguous()
        content = hashlib.sha256(array.flatten().view(torch.uint8).numpy().data).hexdigest()
        return {"tensor": str(value.dtype), "shape": list(value.shape), "sha256": content}
    if isinstance(value, Mapping):
        return {"items": sorted([str(key), canonical(item)] for key, item in value.items())}
    if isinstance(value, tuple | list):
        return [canonical(item) for item in value]
    if isinstance(value, torch.dtype | torch.memory_format | torch.device):
        return str(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else {"float": value.hex()}
    if value is None or isinstance(value, bool | int | str):
        return value
    raise TypeError(f"canonical: no form for {type(value).__qualname__}; use a frozen dataclass")


def _counts(one: Field[Any], value: Any) -> bool:
    """Whether a field is part of the canonical form."""
    later = one.metadata.get("later", False)
    return one.init and not (later and getattr(value, one.name) == one.default)


def fingerprint(*values: Any) -> str:
    """The sha256, in hexadecimal, of the canonical form: the name of a recipe or a whole run."""
    text = json.dumps(canonical(values), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
