"""Evidence, and the cause it speaks for: what most likely hides the gradient, and where."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from mpkit.core.statistics import Estimate

if TYPE_CHECKING:
    from mpkit.masking.detours import Detour


class Weight(IntEnum):
    """How much a piece of evidence says; NOT_RUN is none, and a TIP says nothing of masking."""

    NOT_RUN = -1
    FINE = 0
    TIP = 1
    SIGN = 2
    PROOF = 3


@dataclass(frozen=True)
class Evidence:
    """One indicator, what it found, and what that means.

    Args:
        indicator: its name in a few words.
        finding: what was measured, a sentence with numbers.
        weight: FINE, TIP (of use, no sign of masking), SIGN (unusual, proves nothing), PROOF (the
            consequence was shown), or NOT_RUN (there is nothing to go by; the finding says why).
        advice: what to do about it; left out where it is fine.
        rate: the main number with its interval, where there is one.
        kind: of a remedy, the key of the causes that its success speaks for.
        gained: images that a remedy broke and the control did not.
    """

    indicator: str
    finding: str
    weight: Weight = Weight.FINE
    advice: str = ""
    rate: Estimate | None = None
    kind: str = ""
    gained: int = 0

    def __post_init__(self) -> None:
        if self.weight == Weight.FINE:
            object.__setattr__(self, "advice", "")

    def describe(self) -> dict[str, Any]:
        """Plain data for a record."""
        rate = None if self.rate is None else rounded(self.rate)
        return {**vars(self), "weight": self.weight.name.lower(), "rate": rate}


def rounded(rate: Estimate) -> list[float]:
    """Value, low and high, to four places."""
    return [round(value, 4) for value in rate]


@dataclass(frozen=True)
class Cause:
    """Why gradients mislead, as far as signs tell.

    Args:
        key: its name for programs, one of ``KINDS``.
        name: what is the matter, a sentence.
        place: where in the network, class and call; empty where it is not known.
        because: the signs that speak for it, by their names.
        advice: what fits it.
    """

    key: str
    name: str
    place: str
    because: tuple[str, ...]
    advice: str

    def describe(self) -> dict[str, Any]:
        """Plain data for a record."""
        return {**vars(self), "because": list(self.because)}


class Kind(NamedTuple):
    """A kind of cause: the words for it, what speaks for it, and what helps.

    Args:
        name: what is the matter.
        signs: names of the indicators whose sign or proof speaks for it.
        remedies: kinds of remedies whose success speaks for it.
        advice: what fits it.
        sure: whether a sign alone names it; else one of the remedies has to win.
        shows: names of the indicators that see it at work: their sign needs no detour, and with it
            any proof speaks for this cause.
    """

    name: str
    signs: tuple[str, ...]
    remedies: tuple[str, ...]
    advice: str
    sure: bool = True
    shows: tuple[str, ...] = ()


KINDS = {
    "memory": Kind(
        "the model remembers what it was asked",
        ("memory",),
        (),
        "Attack a copy that forgets after every question.",
    ),
    "watched": Kind(
        "the model answers otherwise when a gradient is asked for",
        ("with and without gradients",),
        (),
        "Read its code; attack what answers without a gradient, or without gradients.",
    ),
    "batch": Kind(
        "an answer depends on the other images of its batch",
        ("batch-mates", "attacked batch-mates"),
        (),
        "Put normalization layers into eval mode (fixed statistics) and evaluate again.",
    ),
    "chance": Kind(
        "the model draws at random in every call",
        ("repeated answers",),
        ("chance",),
        "Attack the mean over many draws (EOT), and evaluate every image with fresh draws.",
    ),
    "dead": Kind(
        "classes that never win hold the second place, and the margin over them cannot be raised",
        ("classes that never win",),
        ("dead",),
        "Take the margin over the classes that occur in the labels or ever win.",
    ),
    "step": Kind(
        "an operation is flat nearly everywhere",
        ("margin gradient", "cross-entropy gradient", "finite differences"),
        ("step",),
        "Pass this operation straight through in the backward pass (BPDA).",
        shows=("flat steps",),
    ),
    "cut": Kind(
        "the graph is cut, no gradient comes back",
        ("margin gradient", "cross-entropy gradient"),
        ("cut",),
        "Leave out the detach or no_grad, or attack the part behind it.",
        shows=("a cut graph",),
    ),
    "liar": Kind(
        "a module has a gradient that contradicts what it does",
        ("finite differences", "margin gradient"),
        ("liar",),
        "Pass this module as the identity in the backward pass (BPDA).",
        shows=("a false gradient",),
    ),
    "outputs": Kind(
        "the outputs are no logits: they are squashed, and their slope vanishes",
        ("probabilities for logits", "exponentials for logits"),
        ("outputs",),
        "Attack the scores before they are squashed: logits, logarithms, negative distances.",
    ),
    "flat": Kind(
        "softmax is flat because logits are large",
        ("cross-entropy against margin",),
        (),
        "Attack the margin or the logits ratio, or divide the logits by a temperature.",
    ),
    "loop": Kind(
        "an inner search moves the image before it is looked at",
        (),
        ("loop",),
        "Attack the inner network on the image itself and try the result on the whole.",
        sure=False,
    ),
    "nan": Kind(
        "the gradient is not finite",
        (),
        ("nan",),
        "Find the layer whose slope overflows (a root or a logarithm at 0) and go round it.",
        shows=("wild gradient",),
    ),
    "inner": Kind(
        "what comes before or after an inner network hides that network's gradient",
        (),
        ("inner", "table", "readout"),
        "Attack the inner network, fed with what it sees, as if that were the image (BPDA).",
        sure=False,
    ),
    "shattered": Kind(
        "the gradient is shattered: it turns from point to point",
        ("gradients nearby",),
        ("shattered", "differences"),
        "Average the gradient over noise on the image, or use averaged finite differences.",
        shows=("a gradient of short reach",),
    ),
    "threshold": Kind(
        "small changes do nothing and large ones do (a threshold that was learned, perhaps)",
        (),
        ("border", "pixels"),
        "Search from the border to near images, and over whole pixels.",
        sure=False,
    ),
}

UNKNOWN = "gradients lose to attacks that need none; what hides them was not found"

NEEDED = ("step", "cut", "liar")
"""Causes that are only named where a detour of this kind was found, or the failure is seen."""


GENERIC = ("step", "cut", "liar", "nan", "shattered")
"""Causes whose signs others have too: left out beside one that is proven."""


def causes(
    evidence: Sequence[Evidence], detours: Sequence[Detour], chance: str
) -> tuple[Cause, ...]:
    """The causes that signs and remedies speak for, the likeliest first.

    Args:
        evidence: all of a set, and what is known of the model in general.
        detours: what was found on the way of the gradient.
        chance: the first place in the model where two equal calls differ; empty if unknown.
    """
    found = sorted(_candidates(evidence, detours, chance), key=lambda pair: -pair[0])
    proven = any(weight >= 1 for weight, _ in found)
    found = [(w, c) for w, c in found if w >= 1 or not (proven and c.key in GENERIC)]
    if found:
        return tuple(cause for _, cause in found)
    proofs = tuple(e.indicator for e in evidence if e.weight == Weight.PROOF)
    advice = "Add the attacks that won to the evaluation, and read the code for what is special."
    return (Cause("unknown", UNKNOWN, "", proofs, advice),) if proofs else ()


def _candidates(
    evidence: Sequence[Evidence], detours: Sequence[Detour], chance: str
) -> Iterator[tuple[float, Cause]]:
    heavy = [e for e in evidence if e.weight >= Weight.SIGN]
    proofs, proven = _successes(evidence), any(e.weight == Weight.PROOF for e in heavy)
    gained = {e.kind: e.gained for e in proofs}
    most = max(gained.values(), default=0)
    explained = False
    for key, kind in KINDS.items():
        found = [detour for detour in detours if detour.kind in kind.remedies]
        shown = [e for e in heavy if e.indicator in kind.shows]
        signs = [*shown, *(e for e in heavy if e.indicator in kind.signs and not e.kind)]
        won = [e for e in proofs if e.kind in kind.remedies]
        if (key in NEEDED and not (found or shown)) or not (won or (signs and kind.sure)):
            continue
        if key in ("inner", "shattered", "threshold") and explained and not signs:
            continue
        if key == "threshold" and any(e.indicator == "finite differences" for e in heavy):
            continue
        proof = bool(won or (shown and proven)) or any(e.weight == Weight.PROOF for e in signs)
        best = max((gained[e.kind] for e in won), default=0)
        explained |= proof or key in ("chance", "dead")
        places = dict.fromkeys(place for detour in found for place in detour.places[:2])
        if shown and not places:
            places = dict.fromkeys(detour.before for detour in detours if detour.before)
        place = chance if key == "chance" else "; ".join(places)
        because = tuple(dict.fromkeys(e.indicator for e in (*signs, *won)))
        yield proof + best / (most + 1), Cause(key, kind.name, place, because, kind.advice)


def _successes(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Remedies that won; where a proof has no other, those that broke most, three at least."""
    tried = [e for e in evidence if e.kind and e.weight >= Weight.FINE]
    won = [e for e in tried if e.weight == Weight.PROOF]
    if won or not any(e.weight == Weight.PROOF for e in evidence):
        return won
    most = max((e.gained for e in tried), default=0)
    return [e for e in tried if e.gained == most >= 3]
