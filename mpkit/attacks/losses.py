"""Scores of a prediction, one per example: the larger, the worse for the model.

A loss is called with logits (B, K) and labels (B,) and returns (B,). ``reached`` tells which
examples are already where the adversary wants them, and ``toward`` turns a loss into its targeted
version. A target is one class for all examples or a tensor (B,) of classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from operator import index
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from mpkit.core.checks import ordinary, require_positive

Target = int | Tensor


class Loss(ABC):
    """What an adversary maximizes, one number per example."""

    classes = 2  # fewest that the loss is defined for

    @abstractmethod
    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K) against labels (B,): (B,), larger is worse for the model."""

    def reached(self, logits: Tensor, y: Tensor) -> Tensor:
        """Which examples are where the adversary wants them, here misclassified: (B,) bool.

        Logits with NaN are no answer, and count as wrong.
        """
        return (logits.argmax(1) != y) | logits.isnan().any(1)

    @abstractmethod
    def toward(self, target: Target) -> "Loss":
        """The version of this loss that pulls examples into a target class."""


@dataclass(frozen=True)
class Targeted(Loss):
    """A loss that is large when the model says ``target``.

    Raises: ValueError: if a target is no class, or there is not one for each example.
    """

    target: Target
    fewest: ClassVar[int] = 2

    def __post_init__(self) -> None:
        target = self.target
        if isinstance(target, Tensor) and (target.dtype != torch.int64 or target.dim() > 1):
            raise ValueError(
                f"{type(self).__name__}: target must be a class, or int64 classes (B,), got "
                f"{tuple(target.shape)} {target.dtype}; use target.long().flatten()"
            )
        try:  # whole numbers of other kinds too
            if isinstance(target, Tensor) and target.dim():
                object.__setattr__(self, "target", ordinary(target))
            else:
                object.__setattr__(self, "target", index(target))
        except TypeError as error:
            raise ValueError(
                f"{type(self).__name__}: target must be a class, or a tensor of int64 classes "
                f"(B,), got {target!r}; write 3, or torch.tensor([3, 5])"
            ) from error
        if (least := _known(target)[0]) < 0:
            raise ValueError(
                f"{type(self).__name__}: target {least} is no class; number classes from 0"
            )

    @property
    def classes(self) -> int:  # type: ignore[override]
        """Fewest that the loss is defined for and that hold all targets."""
        return max(self.fewest, _known(self.target)[1] + 1)

    def reached(self, logits: Tensor, y: Tensor) -> Tensor:
        """Which examples are classified as the target: (B,)."""
        return logits.argmax(1) == self.target

    def toward(self, target: Target) -> Loss:
        """The same loss with another target."""
        return type(self)(target)


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Minus the log-probability of the true class, in nats."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K) against labels (B,): (B,) ≥ 0."""
        return functional.cross_entropy(logits, y, reduction="none")

    def toward(self, target: Target) -> "TargetedCrossEntropy":
        """The log-probability of the target class."""
        return TargetedCrossEntropy(target)


@dataclass(frozen=True)
class Margin(Loss):
    """Greatest wrong logit minus the true logit: positive exactly when misclassified.

    Source: Carlini and Wagner 2017, the function f_6 without its floor.
    """

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K) against labels (B,): (B,)."""
        return _lead(logits, y)

    def toward(self, target: Target) -> "TargetedMargin":
        """The target logit minus the greatest other logit."""
        return TargetedMargin(target)


@dataclass(frozen=True)
class SoftMargin(Loss):
    """The margin, with the slope of a soft maximum over the wrong classes.

    The slope of the margin jumps wherever another class comes second; this one turns.

    Args:
        width: of the soft maximum, in standard deviations of an example's logits, > 0.

    Raises: ValueError: if width is not positive.

    Source: ours; it is that of cross-entropy without the factor that vanishes for sure answers.
    """

    width: float = 0.2

    def __post_init__(self) -> None:
        require_positive("SoftMargin", width=self.width)

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K) against labels (B,): (B,), the margin to the bit."""
        width = self.width * logits.detach().std(1, keepdim=True)
        width = width.clamp(min=torch.finfo(logits.dtype).tiny)
        others = logits.scatter(1, y.unsqueeze(1), -torch.inf)
        others = (others - others.detach().amax(1, keepdim=True)) / width
        soft = width.squeeze(1) * others.logsumexp(1)
        soft = soft - logits.gather(1, y.unsqueeze(1)).squeeze(1)
        return _lead(logits, y).detach() + (soft - soft.detach()).nan_to_num(0)

    def toward(self, target: Target) -> "TargetedMargin":
        """The target logit minus the greatest other logit."""
        return TargetedMargin(target)


@dataclass(frozen=True)
class DLR(Loss):
    """Difference of logits ratio: the margin over the gap of the first to the third logit.

    Shifting or scaling the logits does not change it. Needs at least three classes.

    Source: Croce and Hein 2020 (AutoAttack), equation 6.
    """

    classes = 3

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K) against labels (B,): (B,), in [-1, 1]."""
        ordered = logits.topk(3, dim=1).values
        return _lead(logits, y) / _gap(ordered[:, 0] - ordered[:, 2])

    def toward(self, target: Target) -> "TargetedDLR":
        """The targeted difference of logits ratio."""
        return TargetedDLR(target)


@dataclass(frozen=True)
class TargetedCrossEntropy(Targeted):
    """The log-probability of the target class, in nats: (B,) ≤ 0."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K): (B,); the labels only give the number of examples."""
        target = _each(self.target, y, logits)
        return -functional.cross_entropy(logits, target, reduction="none")


@dataclass(frozen=True)
class TargetedMargin(Targeted):
    """The target logit minus the greatest other logit: positive exactly at the target."""

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K): (B,); the labels only give the number of examples."""
        return -_lead(logits, _each(self.target, y, logits))


@dataclass(frozen=True)
class TargetedDLR(Targeted):
    """Target logit minus true logit over the gap of the first to the mean of third and fourth.

    Needs at least four classes. Positive when the target beats the true class.

    Source: Croce and Hein 2020 (AutoAttack), equation 7.
    """

    fewest = 4

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """Score logits (B, K) against labels (B,): (B,)."""
        ordered = logits.topk(4, dim=1).values
        target = _each(self.target, y, logits).unsqueeze(1)
        lead = (logits.gather(1, target) - logits.gather(1, y.unsqueeze(1))).squeeze(1)
        return lead / _gap(ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2)


@dataclass(frozen=True)
class AnyWrong(Loss):
    """Scores by a targeted loss to climb, ``aim``, while every wrong class is the goal."""

    aim: Loss

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """The targeted loss: (B,)."""
        return self.aim(logits, y)

    @property
    def classes(self) -> int:  # type: ignore[override]
        """Fewest classes the targeted loss is defined for."""
        return self.aim.classes

    def toward(self, target: Target) -> "AnyWrong":
        """The same with another target."""
        return AnyWrong(self.aim.toward(target))


def _lead(logits: Tensor, y: Tensor) -> Tensor:
    """Greatest logit of another class minus the logit of class y."""
    own = y.unsqueeze(1)
    others = logits.scatter(1, own, float("-inf")).amax(1)
    return others - logits.gather(1, own).squeeze(1)


def _known(target: Target) -> tuple[int, int]:
    """The least and the greatest target, 0 where a GPU would have to be waited for."""
    if not isinstance(target, Tensor):
        return target, target
    if target.is_cuda or not target.numel():
        return 0, 0
    return int(target.min()), int(target.max())


def _each(target: Target, y: Tensor, logits: Tensor) -> Tensor:
    if isinstance(target, int) and target >= logits.shape[1]:
        raise ValueError(f"loss: target {target}, but the model has {logits.shape[1]} classes")
    if isinstance(target, Tensor) and target.dim() and len(target) != len(y):
        raise ValueError(f"loss: {len(target)} targets for {len(y)} images; give one for each")
    return target.to(y) if isinstance(target, Tensor) else torch.full_like(y, target)


def _gap(difference: Tensor) -> Tensor:
    """The divisor of a logits ratio, kept away from zero where all logits agree."""
    return difference.clamp(min=torch.finfo(difference.dtype).tiny ** 0.5)
