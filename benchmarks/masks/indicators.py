"""The indicators of attack failure, written anew from their paper, to be set beside the doctor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.masks.asking import asked, right, tried
from mpkit.attacks import CrossEntropy, input_gradient
from mpkit.attacks.gradients import Model, climb, evaluating, guard, look
from mpkit.masking import Sanitized
from mpkit.sets import Ball
from mpkit.sets.norms import per_row

INDICATORS = (
    "unavailable gradients",
    "unstable predictions",
    "silent success",
    "incomplete optimization",
    "transfer failure",
    "unconstrained attack failure",
)
LIMIT = 0.2
"""From here an indicator counts. It is ours: the authors' code names no limits. Honest networks of
the digits stay below, at most 0.17 of instability."""


class Path(NamedTuple):
    """A search step by step, the start first: losses and errors (S, B), and the last images."""

    loss: Tensor
    wrong: Tensor
    image: Tensor


def path(model: Model, x: Tensor, y: Tensor, ball: Ball, steps: int, step: float) -> Path:
    """Projected gradient ascent on cross-entropy from the image itself; the last point counts.

    Args:
        model: images (B, C, H, W) to logits (B, K), with a finite gradient.
        x: (B, C, H, W) in [0, 1].
        y: (B,) int64 labels.
        ball: where to search.
        steps: number of gradients.
        step: length of a step in the ball's norm, as a share of its radius.
    """
    guarded, loss, z = guard(model, 2, y), CrossEntropy(), ball.zero(x)
    length, losses, wrong = per_row(ball.eps * step, x), [], []
    for k in range(steps + 1):
        image = ball.apply(x, z)
        if k < steps:
            logits, score, gradient = climb(guarded, loss, image, y)
            z = ball.project(x, z + ball.stride(image, gradient, length))
        else:
            logits, score = look(guarded, loss, image, y)
        losses.append(score)
        wrong.append(loss.reached(logits, y))
    return Path(torch.stack(losses), torch.stack(wrong), image)


def indicators(
    model: Model,
    x: Tensor,
    y: Tensor,
    ball: Ball,
    rng: torch.Generator,
    surrogate: Model | None = None,
    steps: int = 50,
    step: float = 1 / 3,
    draws: int = 100,
    width: float = 8 / 255,
) -> dict[str, float]:
    """The six indicators of attack failure, for projected gradients on cross-entropy.

    Each is a mean over the images that the model gets right, and NaN where it cannot be had:
    unavailable gradients, whether the gradient at the image is missing, not finite or all zero;
    unstable predictions, the mean relative change of the loss under uniform noise of ``width`` all
    told, at most 1; silent success, whether a step was adversarial and the last is not; incomplete
    optimization, whether the best loss so far, as a share of the range of the path, grows by more
    than 0.05 over the last ten points; transfer failure, whether the model's label differs from the
    surrogate's where the attack on the surrogate ends; unconstrained attack failure, whether no
    step is adversarial in a ball that holds all images. What differs from the authors' code: it
    gives binary indicators image by image, and here they are averaged; noise is cut at the walls of
    the box; the step of the unconstrained attack grows with the radius; there are other balls than
    l_inf. Steps and step length are about those of its first case, with one start and not five.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W) in [0, 1].
        y: (B,) int64 labels.
        ball: where to attack.
        rng: draws the noise.
        surrogate: a network that is attacked in the model's stead; None for the model itself.
        steps: gradients of each attack.
        step: length of a step as a share of the radius.
        draws: noises for each image.
        width: from the least to the greatest of a pixel's noise.

    Source: Pintor et al. 2022.
    """
    safe, nan = Sanitized(model), math.nan
    with evaluating(model):
        rows = tried(lambda: right(safe, x, y), torch.zeros_like(y, dtype=torch.bool))
        x, y = x[rows], y[rows]
        if not len(x):
            return dict.fromkeys(INDICATORS, nan)
        own = tried(lambda: path(safe, x, y, ball, steps, step), None)
        free = tried(lambda: path(safe, x, y, ball.everything(x), steps, step), None)
        found = (
            tried(lambda: _unavailable(model, x, y), 1.0),
            tried(lambda: _unstable(safe, x, y, draws, width, rng), nan),
            nan if own is None else mean(own.wrong.any(0) & ~own.wrong[-1]),
            nan if own is None else mean(incomplete(own.loss)),
            nan,
            nan if free is None else mean(~free.wrong.any(0)),
        )
    values = dict(zip(INDICATORS, found, strict=True))
    if surrogate is not None:
        values["transfer failure"] = tried(
            lambda: _untransferred(model, surrogate, x, y, ball, steps, step), nan
        )
    return values


def mean(which: Tensor) -> float:
    """The share of true entries, or the mean of numbers."""
    return float(which.double().mean())


def _unavailable(model: Model, x: Tensor, y: Tensor) -> float:
    gradient = input_gradient(model, CrossEntropy(), x, y).gradient.flatten(1)
    return mean((gradient == 0).all(1) | ~gradient.isfinite().all(1))


@torch.no_grad()
def _unstable(
    model: Model, x: Tensor, y: Tensor, draws: int, width: float, rng: torch.Generator
) -> float:
    clean, change = CrossEntropy()(model(x.clone()), y).double(), x.new_zeros(len(x)).double()
    for _ in range(draws):
        noise = torch.rand(x.shape, generator=rng, dtype=x.dtype, device=x.device) - 0.5
        moved = CrossEntropy()(model((x + width * noise).clamp(0, 1)), y).double()
        change += (moved - clean).abs() / draws
    return mean((change / torch.where(clean == 0, 1, clean)).clamp(max=1))


def incomplete(loss: Tensor) -> Tensor:
    """Whether the best loss so far still grows over the last ten points: (S, B) to (B,) bool."""
    best = (loss - loss.amin(0)).cummax(0).values.double()
    best = best / torch.where(best[-1] > 0, best[-1], 1)
    return best[-1] - best[-10:][0] > 0.05


def _untransferred(
    model: Model, surrogate: Model, x: Tensor, y: Tensor, ball: Ball, steps: int, step: float
) -> float:
    with evaluating(surrogate):
        image = path(Sanitized(surrogate), x, y, ball, steps, step).image
        said = asked(surrogate, image).argmax(1)
    with evaluating(model):
        return mean(asked(model, image).argmax(1) != said)


def indicated(values: Mapping[str, float], limit: float = LIMIT) -> bool:
    """Whether an indicator is above a limit; NaN never is."""
    return any(value > limit for value in values.values())
