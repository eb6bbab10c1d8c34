"""Indicators that need no attack: is the model a function of the image, is its gradient true?"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from mpkit.attacks import CrossEntropy, Loss, Margin
from mpkit.attacks.gradients import Ascent, Model, climb, evaluating
from mpkit.core.statistics import proportion
from mpkit.masking.case import Case, Result
from mpkit.masking.evidence import Evidence, Weight
from mpkit.masking.wrappers import Connected

DRAWS = 24
"""How often a model is asked the same: roulette between two networks hides once in 2^23."""


FEW = 5
"""With fewer examples than this there is no contest."""


def raw_slope(model: Model, loss: Loss, x: Tensor, y: Tensor) -> Ascent:
    """The gradient just as the model gives it, NaN and all; zero where there is none."""
    with evaluating(model):
        return climb(Connected(model), loss, x, y)


def steepest(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of the margin, (B, C H W), zero where it is not finite."""
    return raw_slope(model, Margin(), x, y).gradient.nan_to_num().flatten(1)


def span(logits: Tensor) -> Tensor:
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
    moved = float(((asked - asked[0]).abs().amax((0, 2)) / span(asked[0])).median())
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
    moved = float(((others - first).abs().amax((0, 2)) / span(first)).median())
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
    fresh = copy.deepcopy(fresh)
    with evaluating(model), evaluating(fresh):
        again = [model(asked) for asked in (x, near, other)][1:]
        first = [fresh(asked) for asked in (other, near)][::-1]
    apart = torch.stack([_apart(a, b) for a, b in zip(first, again, strict=True)]).any(0)
    return _remembered(apart)


@torch.no_grad()
def drift(fresh: nn.Module, x: Tensor) -> Evidence:
    """The same of a model whose answers change from call to call: by chance, or by what was asked?

    Copies that draw the same numbers are asked other things first, and as a control the same.

    Args:
        fresh: before it was asked anything.
        x: (B, C, H, W).
    """

    def after(asked: Tensor) -> Tensor:
        twin = copy.deepcopy(fresh)
        with torch.random.fork_rng(), evaluating(twin):
            torch.manual_seed(0)
            return [twin(one) for one in (asked, asked, x)][-1]  # type: ignore[no-any-return]

    first, control, other = (after(asked) for asked in (x, x, 1 - x / 2))
    return _remembered(_apart(first, other) & ~_apart(first, control))


def _remembered(apart: Tensor) -> Evidence:
    """Whether answers (B,) that differ after other questions are a memory."""
    if not share(apart)[1]:
        return Evidence("memory", "answers do not depend on what was asked before")
    return Evidence(
        "memory",
        f"after other questions logits are others for {share(apart)[0]} of the images; what "
        "follows is of a copy that forgets",
        Weight.PROOF,
        "The model remembers questions, so that repeated attempts see nothing new: attack a "
        "copy that forgets.",
        proportion(apart),
    )


def _apart(first: Tensor, other: Tensor) -> Tensor:
    """Where logits (B, K) differ by more than a hundredth of their range: (B,) bool."""
    a, b = (torch.nan_to_num(logits.double()) for logits in (first, other))
    return (a - b).abs().amax(1) > 0.01 * span(a)


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
    still, walls = (margin.gradient == 0).double(), (x == 0) | (x == 1)
    at, off = (float(still[pixels].mean()) for pixels in (walls, ~walls))
    if at > 0.9 and off < 0.1:
        words = f"the gradient is zero for {at:.0%} of the pixels that are black or white, and "
        words += f"for {off:.0%} of the others, as behind a clamp"
        advice = "Leave the clamp out (images are in [0, 1] before it), or give its ends a slope."
        found.append(Evidence("pixels at a wall", words, Weight.TIP, advice))
    return found


def redrawn(case: Case, first: Result) -> list[Evidence]:
    """For a random model: whether a success is still one if the model is asked afresh."""
    if case.draws == 1:
        return []
    wrong = [case.sanitized(first.image).argmax(1) != case.y for _ in range(case.draws)]
    torn = torch.stack(wrong).any(0) & ~torch.stack(wrong).all(0)
    finding = f"asked again, the verdict on {share(torn)[0]} of the attacked images is not always "
    finding += "the same"
    advice = "Report the mean over fresh draws, and attack the mean logits (EOT)."
    return [Evidence("repeated answers", finding, _several(torn), advice, proportion(torn))]


def _several(which: Tensor) -> Weight:
    """A proof, where it is so for one attacked image in twenty, and for three."""
    return Weight.PROOF if int(which.sum()) >= max(3, 0.05 * len(which)) else Weight.FINE


@torch.no_grad()
def among_clean(case: Case, first: Result) -> list[Evidence]:
    """Whether an attacked image stays what it is when its batch-mates are clean images."""
    if case.draws > 1 or len(case.x) < FEW:
        return []
    image, assessed = first
    wrong = torch.empty_like(assessed.wrong)
    order = torch.arange(len(image), device=image.device)
    for rows in torch.split(order, max(1, len(image) // 8)):
        mixed = case.x.clone()
        mixed[rows] = image[rows]
        wrong[rows] = case.assess(mixed).wrong[rows]
    changed = wrong != assessed.wrong
    finding = f"among clean images, {share(changed)[0]} of the attacked images change class"
    advice = "Fix the statistics of normalization layers (eval mode)."
    return [
        Evidence("attacked batch-mates", finding, _several(changed), advice, proportion(changed))
    ]
