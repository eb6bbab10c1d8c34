"""Indicators that need no attack: is the model a function of the image, is its gradient true?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mpkit.attacks import PGD, CrossEntropy, Loss, Margin
from mpkit.attacks.gradients import Ascent, Model, climb, evaluating
from mpkit.core.statistics import proportion
from mpkit.masking.evidence import Evidence, Weight
from mpkit.masking.wrappers import Connected, Sanitized
from mpkit.sets import Linf

DRAWS = 24
"""How often a model is asked the same: roulette between two networks hides once in 2^23."""


def raw_slope(model: Model, loss: Loss, x: Tensor, y: Tensor) -> Ascent:
    """The gradient just as the model gives it, NaN and all; zero where there is none."""
    with evaluating(model):
        return climb(Connected(model), loss, x, y)


def _steepest(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the margin, (B, C H W), zero where it is not finite."""
    return raw_slope(model, Margin(), x, y).gradient.nan_to_num().flatten(1)


def _range(logits: Tensor) -> Tensor:
    """The greatest of each row of logits (B, K) minus the least, > 0."""
    return logits.amax(1) - logits.amin(1) + torch.finfo(logits.dtype).tiny


def share(which: Tensor) -> tuple[str, Weight]:
    """A share (B,) bool in words; it is a sign of something from one example in ten on."""
    rate = float(which.double().mean())
    return f"{rate:.0%}", Weight.SIGN if rate >= 0.1 else Weight.FINE


@torch.no_grad()
def randomness(model: Model, x: Tensor) -> Evidence:
    """Ask the same thing again and again."""
    with evaluating(model):
        asked = torch.stack([torch.nan_to_num(model(x)).to(x.dtype) for _ in range(DRAWS)])
    moved = float(((asked - asked[0]).abs().amax((0, 2)) / _range(asked[0])).median())
    labels = asked.argmax(2)
    changed = (labels != labels[0]).any(0)
    if moved <= 1e-3:
        return Evidence("repeated answers", "the same image always gets the same logits")
    return Evidence(
        "repeated answers",
        f"asked {DRAWS} times, logits move by {moved:.1%} of their range (median), and "
        f"{share(changed)[0]} of the images get more than one class",
        Weight.SIGN,
        "The model is random: average logits and gradients over many draws in every attack, and "
        "evaluate every example with fresh draws.",
        proportion(changed),
    )


@torch.no_grad()
def batch_dependence(model: Model, x: Tensor) -> Evidence:
    """Show the same image alone, among copies of itself, and among others."""
    with evaluating(model):
        first = model(x).to(x.dtype)
        alone = torch.cat([model(one.expand(2, -1, -1, -1))[:1] for one in torch.split(x, 1)])
        order = first.argmax(1).argsort()
        ranked = torch.empty_like(first)
        for rows in torch.tensor_split(order, max(1, min(8, len(x) // 2))):
            ranked[rows] = model(x[rows]).to(x.dtype)
    others = torch.stack([alone, ranked])
    moved = float(((others - first).abs().amax((0, 2)) / _range(first)).median())
    changed = (others.argmax(2) != first.argmax(1)).any(0)
    if moved <= 1e-3:
        return Evidence("batch-mates", "logits do not depend on the other images of a batch")
    return Evidence(
        "batch-mates",
        f"logits of an image depend on its batch-mates (median move {moved:.1%} of their range), "
        f"and {share(changed)[0]} of the images change their class with their batch",
        Weight.PROOF if int(changed.sum()) >= max(3, 0.03 * len(x)) else Weight.SIGN,
        "Accuracy here is not a property of the image: put normalization layers into eval mode "
        "(fixed statistics) and evaluate again.",
        proportion(changed),
    )


def finite(model: Model, x: Tensor) -> Evidence:
    """Whether logits are finite at the images themselves."""
    with evaluating(model), torch.no_grad():
        bad = ~model(x).isfinite().all(1)
    words = f"logits are not finite for {int(bad.sum())} of {len(x)} images; NaN counts as broken"
    if not bool(bad.any()):
        return Evidence("logits at the images", "logits are finite for all images")
    advice = "Find the layer that overflows or divides by zero, and count these as broken."
    return Evidence("logits at the images", words, Weight.SIGN, advice, proportion(bad))


@torch.no_grad()
def scores(model: Model, x: Tensor) -> Evidence:
    """Whether the outputs are probabilities, or none is negative: then they flatten out."""
    with evaluating(model):
        out = torch.cat([model(x), model(1 - x)]).to(x.dtype)
    advice = "Leave the softmax out and evaluate the logits."
    if bool((out >= 0).all()) and bool(((out.sum(1) - 1).abs() < 1e-3).all()):
        words = "outputs are not negative and sum to 1: they look like probabilities, whose "
        words += "gradients vanish where the model is sure"
        return Evidence("probabilities for logits", words, Weight.SIGN, advice)
    least, top = out.amin(1), out.amax(1)
    if bool((out >= 0).all()) and bool((least < 1e-6 * top).double().mean() >= 0.1):
        words = "no output is negative and the least are next to nothing: they look like "
        words += "exponentials, whose gradients vanish where the model is sure"
        return Evidence("exponentials for logits", words, Weight.SIGN, "Evaluate their logarithm.")
    return Evidence("probabilities for logits", "outputs are not probabilities")


def contenders(
    model: Model, x: Tensor, y: Tensor, called: Tensor, rng: torch.Generator
) -> tuple[Tensor | None, Evidence]:
    """Which classes occur or ever win, (K,) bool None for all; and whether others are in the way.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        x: images that it gets right.
        y: (B,) their labels.
        called: (N,) classes that it names for other images.
        rng: draws starting points.
    """
    name = "classes that never win"
    far = PGD(Linf(0.3), 10, loss=Margin())(Sanitized(model), x, y, rng).image
    with evaluating(model), torch.no_grad():
        logits = model(x).to(x.dtype)
        tried = torch.cat([model(image).argmax(1) for image in (far, 1 - x, x.roll(1, 0))])
    alive = logits.new_zeros(logits.shape[1]).bool()
    alive[torch.cat([y, tried, called])] = True
    if bool(alive.all()):
        return None, Evidence(name, "all classes win somewhere")
    second = logits.scatter(1, y.unsqueeze(1), -torch.inf).argmax(1)
    blocked = ~alive[second]
    words, weight = share(blocked)
    finding = f"{int((~alive).sum())} of {len(alive)} classes never win, and one of these is "
    finding += f"second for {words} of the images"
    return alive, Evidence(name, finding, weight, "", proportion(blocked))


def watched(model: Model, x: Tensor, y: Tensor) -> Evidence:
    """Whether answers are the same when a gradient is asked for."""
    seen = raw_slope(model, Margin(), x, y).logits
    with evaluating(model), torch.no_grad():
        unseen = model(x)
    apart = _apart(unseen, seen)
    words = f"logits are others when a gradient is asked for, for {share(apart)[0]} of the images"
    if not share(apart)[1]:
        return Evidence("with and without gradients", "logits are the same")
    advice = "The model behaves otherwise under attack: use gradient-free attacks, read its code."
    return Evidence("with and without gradients", words, Weight.PROOF, advice, proportion(apart))


@torch.no_grad()
def memory(model: Model, fresh: Model, x: Tensor, rng: torch.Generator) -> Evidence:
    """Whether answers depend on what was asked before.

    Args:
        model: has seen the images and some near them.
        fresh: the same, before it was asked anything.
        x: (B, C, H, W).
        rng: draws what is asked, near and far.
    """
    noise = torch.randn(x.shape, generator=rng, dtype=x.dtype, device=x.device)
    near, other = (x + 0.05 * noise).clamp(0, 1), x + 0.4 * (x.roll(1, 0) - x)
    with evaluating(model), evaluating(fresh):
        again = [model(asked) for asked in (x, near, other)][1:]
        first = [fresh(asked) for asked in (other, near)][::-1]
    apart = torch.stack([_apart(a, b) for a, b in zip(first, again, strict=True)]).any(0)
    if not share(apart)[1]:
        return Evidence("memory", "answers do not depend on what was asked before")
    return Evidence(
        "memory",
        f"asked in another order, logits are others for {share(apart)[0]} of the images",
        Weight.PROOF,
        "The model remembers questions, so that repeated attempts see nothing new: attack a "
        "copy that forgets.",
        proportion(apart),
    )


def _apart(first: Tensor, other: Tensor) -> Tensor:
    """Where logits (B, K) differ by more than a hundredth of their range: (B,) bool."""
    a, b = (torch.nan_to_num(logits.double()) for logits in (first, other))
    return (a - b).abs().amax(1) > 0.01 * _range(a)


def presence(model: Model, x: Tensor, y: Tensor) -> list[Evidence]:
    """Whether there are logits and gradients at all, finite and not zero."""
    advice = "Attack with another loss, without gradients, or around the part that has none."
    found = []
    margin, entropy = (raw_slope(model, loss, x, y) for loss in (Margin(), CrossEntropy()))
    bad = ~margin.logits.isfinite().all(1)
    if bool(bad.any()):
        words = f"logits are not finite for {share(bad)[0]} of the images"
        found.append(
            Evidence("finite logits", words, Weight.SIGN, "Count these as broken.", proportion(bad))
        )
    for name, slope in (("margin", margin), ("cross-entropy", entropy)):
        flat = slope.gradient.flatten(1)
        wild, zero = ~flat.isfinite().all(1), (flat == 0).all(1)
        words, weight = share(wild | zero)
        finding = f"no usable gradient for {words} (zero {share(zero)[0]}, not finite "
        finding += f"{share(wild)[0]})"
        rate, which = proportion(wild | zero), f"{name} gradient"
        if share(wild)[1] and not share(zero)[1]:
            which = "wild gradient"
        found.append(Evidence(which, finding, weight, advice, rate))
    return found


def truth(
    model: Model, x: Tensor, y: Tensor, rng: torch.Generator, random: bool = False
) -> list[Evidence]:
    """Whether gradients repeat, turn, agree with float64, and with finite differences.

    Args:
        random: whether the model's answers depend on chance.
    """
    here, again = (_steepest(model, x, y) for _ in "ab")
    odd = (_cosine(here, again) < 0.95) & (here != 0).any(1)
    words, weight = share(odd)
    finding = f"another direction at the same point for {words}"
    advice = "Average gradients over many draws."
    if not random:
        advice = "Answers repeat and gradients do not: something in the backward pass draws."
    found = [Evidence("repeated gradient", finding, weight, advice, proportion(odd))]
    if not random:
        found.append(_turning(model, x, y, here, rng))
    doubled = _doubled(model, x, y)
    if doubled is not None:
        apart = _cosine(here.double(), doubled) < 0.9
        words, weight = share(apart & (doubled != 0).any(1))
        finding, advice = f"another gradient in float64 for {words}", "Attack a float64 copy."
        found.append(Evidence("float64", finding, weight, advice))
    wrong = _wrong_slope(model, x, y, rng)
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
    there = _steepest(model, (x + 0.006 * (noise - 0.5)).clamp(0, 1), y)
    turned = (_cosine(here, there) < 0.3) & (here != 0).any(1) & (there != 0).any(1)
    rate = proportion(turned)
    finding = f"gradients turn away within 0.003 of the image for {share(turned)[0]}"
    weight = Weight.SIGN if rate.value > 0.5 else Weight.FINE
    return Evidence("gradients nearby", finding, weight, "", rate)


def _doubled(model: Model, x: Tensor, y: Tensor) -> Tensor | None:
    """The margin's gradient of a copy in float64; None where there is no such copy."""
    if not isinstance(model, nn.Module) or x.dtype == torch.float64:
        return None
    try:
        return _steepest(copy.deepcopy(model).double(), x.double(), y)
    except (RuntimeError, TypeError, ValueError):
        return None


@torch.no_grad()
def _wrong_slope(model: Model, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
    """Where central differences differ from the gradient by more than a third of their sizes.

    The step is small, but large against rounding. Directions are the gradient's own and a random
    one; the shorter of the two disagreements counts, so that a kink in between is no lie.
    """
    h: float = 1e-2 if x.dtype == torch.float32 else 1e-4
    gradient = _steepest(model, x, y)
    noise = torch.randn(gradient.shape, generator=rng, dtype=x.dtype, device=x.device)
    wrong: list[Tensor] = []
    with evaluating(model):
        for way in (noise, torch.where((gradient == 0).all(1, keepdim=True), noise, gradient)):
            way = way / way.norm(dim=1, keepdim=True)
            step = h * way.view_as(x)
            ends = [Margin()(torch.nan_to_num(model(x + s)).to(x.dtype), y) for s in (step, -step)]
            measured = (ends[0] - ends[1]) / (2 * h)
            promised = (gradient * way).sum(1)
            size = measured.abs() + promised.abs()
            wrong.append((measured - promised).abs() > size / 3)
    own, other = wrong
    return own & other
