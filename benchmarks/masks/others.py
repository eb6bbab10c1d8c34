"""Three published ways to notice gradient masking, written anew to be set beside the doctor.

The flags of AutoAttack, the binarization test and the indicators of attack failure. A model may be
random, have no gradient, depend on its batch or give probabilities: nothing here raises for it, and
what cannot be run is None among flags and NaN among numbers.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from benchmarks.masks.asking import asked, right, tried
from benchmarks.masks.binarized import Binarized, binarization
from benchmarks.masks.indicators import indicated, indicators
from mpkit.attacks import (
    APGD,
    DLR,
    Attack,
    Loss,
    Margin,
    MultiTargeted,
    Square,
    UntilBroken,
    input_gradient,
)
from mpkit.attacks.gradients import Model, evaluating
from mpkit.masking import Sanitized
from mpkit.sets import Ball

__all__ = [
    "Binarized",
    "Flags",
    "autoattack_flags",
    "binarization",
    "indicated",
    "indicators",
    "score",
]


class Flags(dict[str, "bool | None"]):
    """AutoAttack's flags by name; None where a check could not be run.

    Attributes:
        degrees: for each flag the share of images that raised it, in [0, 1]; 0 or 1 for a flag
            about the model as a whole; NaN where it could not be run.
    """

    def __init__(self, degrees: Mapping[str, float], limits: Mapping[str, float]) -> None:
        self.degrees = dict(degrees)
        super().__init__(
            {k: None if math.isnan(v) else v > limits.get(k, 0) for k, v in degrees.items()}
        )


def autoattack_flags(
    model: Model,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    rng: torch.Generator,
    steps: int = 100,
    targets: int = 9,
    queries: int = 1000,
) -> Flags:
    """The five warnings that AutoAttack gives about a model.

    As in the package: five calls whose normalized outputs differ by more than 1e-4, or whose
    accuracies differ; outputs that are probabilities up to 1e-5; a gradient of DLR (the margin for
    fewer than four classes) that is all zero at a random start, of any image that the model gets
    right; Square Attack lowers the robust accuracy of the others by more than 0.2 points; a
    function of torch called grad, backward or _make_grads runs in a forward pass. What differs:
    FAB is left out; the package lets Square ask 5,000 questions and looks at
    the gradient only of what its first attack leaves; whether an image is broken is asked afresh;
    and a gradient that is missing or not finite, for which the package fails or says nothing, is
    zero.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W) in [0, 1].
        y: (B,) int64 labels.
        ball: where to attack.
        rng: draws starts and squares.
        steps: gradients of Auto-PGD on cross-entropy, and on DLR for each target.
        targets: wrong classes that the targeted attack tries.
        queries: forward passes of Square.

    Source: Croce and Hein 2020, and the checks that come with its code.
    """
    safe, nan = Sanitized(model), math.nan
    with evaluating(model):
        good = tried(lambda: right(safe, x, y), torch.zeros_like(y, dtype=torch.bool))
        classes = tried(lambda: asked(model, x).shape[1], 2)
        loss: Loss = DLR() if classes > 3 else Margin()
        degrees = {
            "random": tried(lambda: _moving(model, x, y), nan),
            "probabilities": tried(lambda: float(_probable(asked(model, x))), nan),
            "zero gradient": tried(lambda: _zero(safe, x[good], y[good], ball, loss, rng), nan),
            "dynamic": tried(lambda: float(_differentiates(model, x)), nan),
        }

    def gain() -> float:
        white = (APGD(ball, steps), MultiTargeted(APGD(ball, steps, loss), targets))
        left = _left(safe, white, x, y, good, rng)
        last = _left(safe, (Square(ball, queries),), x, y, left, rng)
        return float((left & ~last).double().mean())

    return Flags({**degrees, "square": tried(gain, nan)}, {"square": 0.002})


def _moving(model: Model, x: Tensor, y: Tensor) -> float:
    """The share of images whose normalized outputs move between calls; 1 if accuracy does alone."""
    logits = torch.stack([asked(model, x) for _ in range(5)]).double()
    unit = logits / (logits.norm(dim=2, keepdim=True) + 1e-10)
    far = (unit.unsqueeze(0) - unit.unsqueeze(1)).norm(dim=3).amax((0, 1))
    share, counts = float((far > 1e-4).double().mean()), (logits.argmax(2) == y).sum(1)
    return share or float(counts.min() != counts.max())


def _probable(scores: Tensor) -> bool:
    inside = scores.max() < 1 + 1e-5 and scores.min() > -1e-5
    return bool(inside and ((scores.sum(1) - 1).abs() < 1e-5).all())


def _zero(
    model: Model, x: Tensor, y: Tensor, ball: Ball, loss: Loss, rng: torch.Generator
) -> float:
    """The share of images without a gradient at a random start; 0 of none."""
    if not len(x):
        return 0.0
    gradient = input_gradient(model, loss, x + ball.sample(x, rng), y).gradient
    return float((gradient == 0).flatten(1).all(1).double().mean())


def _differentiates(model: Model, x: Tensor) -> bool:
    """Whether a forward pass calls one of torch's functions that compute gradients."""
    called = []

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code.co_name in ("grad", "backward", "_make_grads"):
            called.append(str(frame.f_globals.get("__name__", "")).startswith("torch"))

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        model(x.clone())
    finally:
        sys.settrace(before)
    return any(called)


def _left(
    model: Model,
    attacks: tuple[Attack, ...],
    x: Tensor,
    y: Tensor,
    left: Tensor,
    rng: torch.Generator,
) -> Tensor:
    """Which images (B,) are still right after attacks on those that are left."""
    for attack in attacks:
        rows = left.nonzero().squeeze(1)
        if len(rows):
            image = UntilBroken(attack)(model, x[rows], y[rows], rng).image
            left = left.index_put((rows,), right(model, image, y[rows]))
    return left


def score(result: Flags | Binarized | Mapping[str, float]) -> float:
    """How suspicious a result is, larger for more; 0 where nothing could be run.

    Of flags the sum of their degrees, of the binarization test the share of images where the attack
    failed, of indicators the largest.
    """
    if isinstance(result, Binarized):
        return 0.0 if math.isnan(result.rate) else 1 - result.rate
    values = result.degrees if isinstance(result, Flags) else result
    known = [value for value in values.values() if not math.isnan(value)]
    return sum(known) if isinstance(result, Flags) else max(known, default=0.0)
