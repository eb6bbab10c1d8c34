"""Accuracy against steps, step length and radius, and the loss along two directions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mpkit.attacks import APGD, PGD, Clean, CrossEntropy, Falling, Margin
from mpkit.attacks.gradients import Model, climb, evaluating, guard
from mpkit.core.statistics import proportion
from mpkit.masking.case import Case, worst
from mpkit.masking.evidence import Evidence, Weight
from mpkit.masking.wrappers import LARGE, Sanitized
from mpkit.sets import L1, L2, Ball, Linf, norms

FACTORS = (2.0, 4.0)
"""Multiples of the radius looked at on the way to a ball that holds every image."""


def curves(case: Case, ball: Ball) -> list[Evidence]:
    """All curves of one set."""
    return [_effort(case, ball), _growth(case, ball), _slope(case, ball)]


def _effort(case: Case, ball: Ball) -> Evidence:
    """More steps, and other step lengths: both should change little."""
    shrink, base = Falling(0.05), case.effort.steps // 2 + 1
    usual = 2.5 * float(torch.as_tensor(ball.eps).max()) / base
    longer = (("standard", base, None), ("4x steps", 4 * base, None))
    others = (("step / 4", base, usual / 4), ("step x 4", base, 4 * usual))
    rate = {}
    for name, steps, step in (*longer, *others):
        attack = PGD(ball, steps, step, loss=Margin(), schedule=shrink)
        rate[name] = case.reach(attack).assessed.wrong
    words = ", ".join(f"{name} {1 - float(w.double().mean()):.0%}" for name, w in rate.items())
    more = max(int(w.sum()) for w in rate.values()) - int(rate["standard"].sum())
    weight = Weight.SIGN if more >= max(5, 0.15 * len(case.x)) else Weight.FINE
    advice = "The attack had not settled: take more steps and try step lengths."
    finding = f"accuracy under PGD, {base} steps: {words}"
    return Evidence("steps and step length", finding, weight, advice)


def _growth(case: Case, ball: Ball) -> Evidence:
    """Accuracy as the ball grows until it holds every image, where no model can be right.

    The search starts at the image itself: in a ball that large a random start alone breaks most.
    """
    all_of_it, steps = ball.everything(case.x), max(10, case.effort.steps // 2)
    rates = []
    for one in (*(ball.scaled(factor) for factor in FACTORS), all_of_it):
        attacks = (APGD(one, steps, CrossEntropy(), Clean()), APGD(one, steps, Margin(), Clean()))
        rates.append(~worst([case.reach(attack) for attack in attacks]).assessed.wrong)
    rates[-1] = _still_left(case, rates[-1], 2 * steps)
    left = proportion(rates[-1])
    names = [*(f"{factor:g}x" for factor in FACTORS), "every image"]
    words = ", ".join(
        f"{name} {float(rate.double().mean()):.0%}" for name, rate in zip(names, rates, strict=True)
    )
    weight = Weight.PROOF if left.low > 0.2 else Weight.SIGN if left.low > 0.05 else Weight.FINE
    if bool((case.y == case.y[0]).all()):  # with one class a model may well be right
        weight = Weight.FINE
    finding = f"accuracy under Auto-PGD at radius {words}"
    if weight:
        finding += "; where every image is allowed an image of another class is too, and no "
        finding += "model can be right"
    advice = "The attack fails where success is certain: mend it before believing its accuracy."
    return Evidence("growing radius", finding, weight, advice, left)


def _still_left(case: Case, left: Tensor, steps: int) -> Tensor:
    """Who withstands more steps too, in every geometry: the ball is the whole box for all."""
    for kind in (Linf, L2, L1):
        rows = left.nonzero().squeeze(1)
        if len(rows):
            box, part = kind(1.0).everything(case.x), case.take(rows)
            wrong = part.reach(APGD(box, steps, Margin(), Clean())).assessed.wrong
            left = left.index_copy(0, rows, ~wrong)
    return left


def _slope(case: Case, ball: Ball) -> Evidence:
    """Whether a step along the gradient hurts more than a step of the same length anywhere."""
    lines = landscape(case.sanitized, case.x, case.y, ball, case.rng, points=3)
    up, random = (line[:, 1:].amax(1) - line[:, 0] for line in lines)
    rate = proportion(up <= random)
    weight = Weight.SIGN if rate.low > 0.25 else Weight.FINE
    finding = f"for {rate.value:.0%} a step along the gradient does not raise the margin more "
    finding += "than a random one"
    advice = "Gradients do not point uphill: use attacks that do not need them."
    return Evidence("loss landscape", finding, weight, advice, rate)


def landscape(
    model: Model, x: Tensor, y: Tensor, ball: Ball, rng: torch.Generator, points: int = 21
) -> tuple[Tensor, Tensor]:
    """The margin along the steepest direction of the gradient, and along a random one.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: (B, C, H, W) in [0, 1].
        y: (B,) int64.
        ball: the far end of a line is a point of its sphere, brought into ball ∩ box.
        rng: draws the random directions.
        points: points of each line, ends included, at least 2.

    Returns: two tensors (B, points) of margins, from the image to the far end.
    """
    sanitized = Sanitized(model)
    with evaluating(sanitized), torch.no_grad():
        seen = climb(guard(sanitized, 2, y), Margin(), x, y)
        noise = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
        if ball.order == 1:
            noise = noise.sign() * noise.abs().pow(4)
        step = ball.stride(x, seen.gradient, norms.per_row(ball.eps, x))
        far = noise / norms.per_row(ball.norm(noise), x) * norms.per_row(ball.eps, x)
        if ball.order == math.inf:
            far = ball.eps * noise.sign()
        lines = []
        for end in (ball.project(x, step), ball.project(x, far)):
            shares = torch.linspace(0, 1, points, dtype=x.dtype, device=x.device)
            margins = [Margin()(sanitized(x + share * end), y) for share in shares]
            lines.append(torch.stack(margins, 1).clamp(-LARGE, LARGE))
    return lines[0], lines[1]
