"""How far a gradient holds, and accuracy against steps, step length and radius."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from mpkit.attacks import APGD, PGD, Clean, CrossEntropy, Falling, Margin
from mpkit.attacks.gradients import Model, climb, evaluating, guard
from mpkit.core.statistics import proportion
from mpkit.masking.case import Case, worst
from mpkit.masking.evidence import Evidence, Weight
from mpkit.masking.probes import raw_slope, share, span, steepest
from mpkit.masking.wrappers import LARGE, Sanitized
from mpkit.sets import L1, L2, Ball, Linf, norms

FACTORS = (2.0, 4.0)
"""Multiples of the radius looked at on the way to a ball that holds every image."""


def truth(
    model: Model, x: Tensor, y: Tensor, rng: torch.Generator, random: bool = False
) -> list[Evidence]:
    """Whether gradients repeat, turn, agree with float64, and with finite differences.

    Args:
        random: whether the model's answers depend on chance.
    """
    here, again = (steepest(model, x, y) for _ in "ab")
    odd = (_cosine(here, again) < 0.95) & (here != 0).any(1)
    words, weight = share(odd)
    finding = f"another direction at the same point for {words}"
    advice = "Average gradients over many draws."
    if not random:
        advice = "Answers repeat and gradients do not: something in the backward pass draws."
    found = [Evidence("repeated gradient", finding, weight, advice, proportion(odd))]
    if not random:
        found.append(_turning(model, x, y, here, rng))
    if (twin := doubled(model, x, y)) is not None:
        there = twin[1]
        apart = _cosine(here.double(), there) < 0.9
        words, weight = share(apart & (there != 0).any(1))
        finding, advice = f"another gradient in float64 for {words}", "Attack a float64 copy."
        found.append(Evidence("float64", finding, weight, advice))
    wrong = wrong_slope(model, x, y, rng)
    words, weight = share(wrong)
    finding = f"the margin does not move as its gradient promises for {words}"
    advice = "Do not trust gradients: use gradient-free attacks or averaged finite differences."
    return [*found, Evidence("finite differences", finding, weight, advice, proportion(wrong))]


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of rows (B, N), however small they are; zero rows are at right angles to all."""
    least = torch.finfo(a.dtype).tiny
    a, b = (rows / rows.abs().amax(1, keepdim=True).clamp(min=least) for rows in (a, b))
    return torch.cosine_similarity(a, b)


def _turning(model: Model, x: Tensor, y: Tensor, here: Tensor, rng: torch.Generator) -> Evidence:
    """Whether gradients point another way next to the image: more than half of them."""
    noise = torch.rand(x.shape, generator=rng, dtype=x.dtype, device=x.device)
    there = steepest(model, (x + 0.006 * (noise - 0.5)).clamp(0, 1), y)
    turned = (_cosine(here, there) < 0.3) & (here != 0).any(1) & (there != 0).any(1)
    rate = proportion(turned)
    finding = f"gradients turn away within 0.003 of the image for {share(turned)[0]}"
    weight = Weight.SIGN if rate.value > 0.5 else Weight.FINE
    return Evidence("gradients nearby", finding, weight, "", rate)


def doubled(model: Model, x: Tensor, y: Tensor) -> tuple[nn.Module, Tensor] | None:
    """A copy in float64, and its margin's gradient (B, C H W); None where there is no such copy."""
    if not isinstance(model, nn.Module) or x.dtype == torch.float64:
        return None
    try:
        twin = copy.deepcopy(model).double()
        return twin, steepest(twin, x.double(), y)
    except (RuntimeError, TypeError, ValueError):
        return None


@torch.no_grad()
def wrong_slope(
    model: Model,
    x: Tensor,
    y: Tensor,
    rng: torch.Generator,
    h: float | None = None,
    least: float = 0.0,
) -> Tensor:
    """Where central differences differ from the gradient by more than a third of their sizes.

    The step is small, but large against rounding. Directions are the gradient's own and a random
    one; the shorter of the two disagreements counts, so that a kink in between is no lie.

    Args:
        h: the step, in pixel units along a direction of length 1; None for one by precision.
        least: slopes below this share of the logits' range do not count.

    Returns: (B,) bool.
    """
    h = h or (1e-2 if x.dtype == torch.float32 else 1e-4)
    gradient = steepest(model, x, y)
    noise = torch.randn(gradient.shape, generator=rng, dtype=x.dtype, device=x.device)
    wrong: list[Tensor] = []
    with evaluating(model):
        floor = least * span(torch.nan_to_num(model(x)).to(x.dtype))
        for way in (noise, torch.where((gradient == 0).all(1, keepdim=True), noise, gradient)):
            way = way / way.norm(dim=1, keepdim=True)
            step = h * way.view_as(x)
            ends = [Margin()(torch.nan_to_num(model(x + s)).to(x.dtype), y) for s in (step, -step)]
            measured = (ends[0] - ends[1]) / (2 * h)
            promised = (gradient * way).sum(1)
            size = measured.abs() + promised.abs()
            wrong.append(((measured - promised).abs() > size / 3) & (size > floor))
    own, other = wrong
    return own & other


FAILURES = {
    "flat steps": "logits do not change at all next to the image, and the gradient is zero",
    "a cut graph": "logits change next to the image, and the gradient is zero",
    "a false gradient": "the gradient contradicts the smallest steps too",
    "a gradient of short reach": "the gradient holds next to the image and no further",
}
"""Ways in which a gradient misleads: names of the indicator, and what was seen."""


def failure(model: Model, x: Tensor, y: Tensor, rng: torch.Generator) -> Evidence:
    """In which way a gradient misleads: looked at so closely that it has to hold there.

    Args:
        model: images (B, C, H, W) to logits (B, K), whose answers repeat.
        x: (B, C, H, W), float32 or float64.
        y: (B,) int64.
        rng: draws directions.

    Returns: a sign with the way that is seen most, on a tenth of the images at least; else FINE.
    """
    coarse = wrong_slope(model, x, y, rng)
    wild = ~raw_slope(model, Margin(), x, y).gradient.flatten(1).isfinite().all(1)
    twin = doubled(model, x, y)
    if twin is not None and _precise(twin[0], x.double()):
        model, x = twin[0], x.double()
    near, h = (1e-9, 1e-9) if x.dtype == torch.float64 else (3e-6, 1e-3)
    noise = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device).sign()
    with evaluating(model), torch.no_grad():
        still = (model(x) == model(x + near * noise)).all(1)
    none = (steepest(model, x, y) == 0).all(1) & ~wild
    off = wrong_slope(model, x, y, rng, h, 1e-3)
    moves = coarse & ~none & ~still & ~wild
    ways = (none & still, none & ~still & coarse, moves & off, moves & ~off)
    name, which = max(zip(FAILURES, ways, strict=True), key=lambda way: int(way[1].sum()))
    words, weight = share(which)
    if not weight:
        return Evidence("how a gradient fails", "it holds next to the image")
    return Evidence(name, f"{FAILURES[name]}, for {words}", weight, "", proportion(which))


def _precise(model: Model, x: Tensor) -> bool:
    """Whether a model in float64 really computes in it."""
    with evaluating(model), torch.no_grad():
        logits = model(x)
    whole = logits.float().double() == logits
    return logits.dtype == torch.float64 and not bool(whole.all())


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
