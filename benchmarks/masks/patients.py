"""Who is examined: models that hide a gradient and models that do not, with what is known of them.

Six groups of kinds. *Shown* ones are on the book's pages, and the doctor was written with them
at hand; *tests'* were used to mend it; *kept aside* were written when it was finished, and served
to mend it once more after they had been counted. So did *later* ones, written by somebody who had
not read the doctor. *Newest* ones were written after that by somebody else who had not read it
either, and served to mend it too. *Unseen* ones were written by somebody else who had not read the
doctor, while it was being mended for the newest. Only they say how it fares with what is new.

To add a mask: a class in ``fronts`` or ``inside``, whose ``knowing`` is what somebody who knows it
attacks, and a line in ``FRONTS`` or ``INSIDE`` with the causes that name it, written before the
doctor has seen it. Once the doctor is mended with it, its group is *tests'*.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from torch import nn

from benchmarks.masks import fronts, inside, later, learned, newest, plain, tricks, unseen, unusual
from benchmarks.masks.bases import SCHEMES, distilled, learn, network, taught, x
from benchmarks.masks.known import MASKS, Pulled, Through, Trigger
from benchmarks.masks.later_honest import later_honest
from benchmarks.masks.later_learned import ALONE
from benchmarks.masks.newest_honest import newest_honest
from benchmarks.masks.unseen_honest import unseen_honest
from mpbook.teaching import obfuscated
from mpkit.attacks.gradients import Model
from mpkit.masking import EOT
from mpkit.masking.wrappers import TemperatureScaled


@dataclass(frozen=True)
class Patient:
    """A model and what is known of it.

    Args:
        name: of its kind.
        group: "shown", "tests'", "kept aside", or one of `LATE`.
        build: gives a fresh model, as it is before anybody asked it anything.
        base: the network that it is made of.
        causes: keys of the doctor's causes that name what it does; empty for an honest one.
        knowing: gives models whose gradient tells the truth, from a fresh model.
        improper: its answers are no function of the image alone.
        draws: how often it is asked; more than 1 for one that draws at random.
        ball: where it can be opened, if that is in one only.
    """

    name: str
    group: str
    build: Callable[[], Model]
    base: str
    causes: tuple[str, ...] = ()
    knowing: Callable[[Model], Sequence[Model]] = lambda model: ()
    improper: bool = False
    draws: int = 1
    ball: str = ""

    @property
    def hides(self) -> bool:
        """Whether it was made to hide something."""
        return bool(self.causes)


def around(model: Model) -> list[Model]:
    """The network inside, what it itself says is to be attacked, and its view as if the image."""
    found = [model.knowing] if hasattr(model, "knowing") else []
    if isinstance(model, obfuscated.Obfuscated):
        found.append(Through(model.network, model._shown))
    if isinstance(part := getattr(model, "network", None), nn.Module):
        found.append(part)
    return found


def averaged(model: Model) -> list[Model]:
    """The mean over draws, straight through where that is known."""
    assert isinstance(model, nn.Module)
    return [*around(model), EOT(model, 16, 0.0, tricks.generator(6))]


Made = tuple[str, Callable[[nn.Module], Model], str]  # name, from its base, keys of its causes

SHOWN: list[Made] = [
    ("saturated", obfuscated.Saturated, "flat outputs inner"),
    ("probabilities", obfuscated.Probabilities, "outputs flat inner"),
    ("quantised", obfuscated.Quantised, "step"),
    ("thresholded", obfuscated.Thresholded, "step threshold"),
    ("rounded waves", obfuscated.RoundedWaves, "step"),
    ("shaken", lambda net: obfuscated.Shaken(net, tricks.generator()), "chance"),
    ("noisy", lambda net: obfuscated.Noisy(net, tricks.generator()), "chance"),
    ("detached", obfuscated.Detached, "cut"),
    ("flipped", obfuscated.Flipped, "liar"),
    ("steps", obfuscated.with_steps, "step"),
    ("batch statistics", lambda net: obfuscated.with_batch_statistics(net, x()), "batch"),
]

TRICKS = {
    "keyed noise": "shattered inner",
    "through numpy": "cut step",
    "NaN gradient": "nan",
    "rounded logits": "step inner",
    "steep sigmoid": "step threshold",
    "wiggle": "shattered",
    "decoy": "liar",
    "dropout always": "chance",
    "roulette": "chance",
    "levelled batch": "batch",
    "function without gradient": "cut",
}

UNUSUAL = {
    "thermometer": "step",
    "names only": "step inner",
    "stopped gradient": "cut inner",
    "one of several changes": "chance",
    "remembers": "memory",
    "watches": "watched",
    "neighbours": "step",
    "sometimes": "cut",
}

KNOWN = {
    "decoys": "dead",
    "radial": "outputs flat",
    "codes": "step",
    "anti-adversary": "loop",
    "purifier": "chance step cut",
    "rounds": "step",
    "palette": "step",
    "look-up": "step",
    "compared": "step",
    "random rounds": "step chance",
}


def seeded(mask: Callable[[nn.Module, torch.Generator], Model]) -> Callable[[nn.Module], Model]:
    """A mask with a generator of its own."""
    return lambda net: mask(net, tricks.generator())


FRONTS: list[Made] = [
    ("bytes", seeded(fronts.Bytes), "step cut"),
    ("dithered", seeded(fronts.Dithered), "step"),
    ("diffused", seeded(fronts.Diffused), "step"),
    ("equalised", seeded(fronts.Equalised), "step cut"),
    ("ninth root", seeded(fronts.Root), "step threshold shattered"),
    ("words", lambda net: fronts.Words(net, learn()), "step cut inner"),
    ("nearest", lambda net: fronts.Nearest(net, learn()), "cut inner"),
    ("denoised", seeded(fronts.Denoised), "cut inner loop"),
    ("largest waves", seeded(fronts.Largest), "step"),
    ("dead zone", fronts.Zoned, "step threshold"),
    ("cropped", seeded(fronts.Cropped), "chance"),
    ("patched", seeded(fronts.Patched), "chance step"),
]

INSIDE: list[Made] = [
    ("ranks", seeded(inside.Ranks), "step inner outputs"),
    ("clipped", seeded(inside.Clipped), "step inner outputs flat"),
    ("scaled", seeded(inside.Scaled), "flat"),
    ("hashed", seeded(inside.Hashed), "shattered inner liar"),
    ("ballot", seeded(inside.Ballot), "step cut inner"),
    ("foreign", seeded(inside.Foreign), "liar cut inner"),
    ("filtered", seeded(inside.Filtered), "liar"),
    ("bucketed", seeded(inside.Bucketed), "step"),
    ("pruned", seeded(inside.Pruned), "chance"),
    ("drifting", seeded(inside.Drifting), "memory"),
    ("sealed", seeded(inside.Sealed), "cut"),
]

RANDOM = ["shaken", "noisy", "dropout always", "roulette", "one of several changes", "purifier"]
RANDOM += ["random rounds", "cropped", "patched", "pruned", *later.LATER_RANDOM, *newest.RANDOM]
RANDOM += unseen.RANDOM
IMPROPER = [*RANDOM, "batch statistics", "levelled batch", "remembers", "watches", "drifting"]
IMPROPER += later.LATER_IMPROPER + newest.IMPROPER + unseen.IMPROPER

LATE: dict[str, tuple[list[Made], Collection[str]]] = {
    "later": (later.LATER, ALONE),
    "newest": (newest.NEWEST, newest.ALONE),
    "unseen": (unseen.UNSEEN, unseen.ALONE),
}
"""Groups of a later date, in turn: their masks, and which of these are networks of their own."""

SPECIAL: dict[str, Callable[[Model], Sequence[Model]]] = {
    "steps": lambda model: [network("linf")],
    "function without gradient": lambda model: [network("natural")],
    "thermometer": lambda model: [unusual.SoftColumns(model)],
    "neighbours": lambda model: [plain.Kernel(learn())],
    "winners": lambda model: [EOT(model, 16, 0.05, tricks.generator(6))],
    "distilled": lambda model: [TemperatureScaled(model, 50.0)],
    "trigger": lambda model: [Pulled(model)],
}
"""What who knows them attacks instead, where a model does not say it itself."""


def _patient(name: str, group: str, build: Callable[[], Model], base: str, causes: str) -> Patient:
    draws = 8 if name in RANDOM else 1
    knowing = SPECIAL.get(name, averaged if draws > 1 else around)
    keys = tuple(causes.split())
    return Patient(name, group, build, base, keys, knowing, name in IMPROPER, draws)


def hiding() -> Iterator[Patient]:
    """Models that were made to hide a gradient, around natural and hardened networks in turn."""
    made = [*((one, "shown") for one in SHOWN), *((one, "kept aside") for one in FRONTS + INSIDE)]
    for i, ((name, wrap, causes), group) in enumerate(made):
        base = ("natural", "linf")[i % 2]
        yield _patient(name, group, lambda w=wrap, b=base: w(network(b)), base, causes)
    for i, (name, causes) in enumerate(TRICKS.items()):
        base = ("natural", "l2")[i % 2]

        def build(name: str = name, base: str = base) -> Model:
            return tricks.unseen_masks(network(base), network("other"), 1)[name]

        yield _patient(name, "tests'", build, base, causes)
    for name, causes in UNUSUAL.items():
        yield _patient(name, "tests'", lambda name=name: _unusual(name), "natural", causes)
    for name, causes in KNOWN.items():
        cls, base = MASKS[name]

        def wrap(cls: type = cls, base: str = base) -> Model:
            return cls(network(base), tricks.generator(1)).eval()

        yield _patient(name, "tests'", wrap, base, causes)
    pulled = Trigger(network("natural"), tricks.generator())
    trigger = _patient("trigger", "tests'", lambda: pulled, "natural", "none")
    yield replace(trigger, ball="l1")
    yield _patient("distilled", "tests'", distilled, "itself", "flat")
    yield _patient("winners", "tests'", lambda: taught("winners"), "itself", "shattered step")
    for name, causes in {
        "spiking": "step liar",
        "binary": "step liar",
        "equilibrium": "cut",
    }.items():
        yield _patient(name, "kept aside", lambda name=name: taught(name), "itself", causes)
    yield _patient("ferns", "kept aside", lambda: learned.Ferns(learn()), "itself", "step")
    several = [network(kind) for kind in ("natural", "other", "l2")]
    yield _patient("votes", "kept aside", lambda: inside.Votes(several), "several", "step inner")
    causes = "shattered step inner"
    yield _patient("switched", "kept aside", lambda: fronts.Switched(several), "several", causes)
    for group, (masks, themselves) in LATE.items():
        for i, (name, make, causes) in enumerate(masks):
            base = ("natural", "linf")[i % 2]
            made_of = "itself" if name in themselves else base
            yield _patient(name, group, lambda m=make, b=base: m(network(b)), made_of, causes)


def _unusual(name: str) -> Model:
    if name == "thermometer":
        return taught(name)
    return unusual.more_masks(network("natural"), network("other"), learn())[name][0]


def honest() -> Iterator[Patient]:
    """Models that hide nothing, as far as was known when they were made."""
    for kind in SCHEMES:
        group = "kept aside" if kind in ("avg", "max", "one step", "wide linf") else "tests'"
        yield Patient(f"trained: {kind}", group, lambda kind=kind: network(kind), "itself")
    for i, (name, (build, scheme)) in enumerate(unusual.HONEST.items()):
        epochs = 1 if name == "hardly trained" else 8
        build = partial(unusual.trained, i, build, scheme, learn(), epochs)
        yield Patient(name, "tests'", cache(build), "itself")
    for name, model in tricks.unseen_honest(network("l2"), network("linf")).items():
        yield Patient(name, "tests'", lambda model=model: model, "several")
    squashed = nn.Sequential(network("linf"), nn.Softmax(1))
    yield Patient("probabilities, unsaturated", "tests'", lambda: squashed, "linf")
    for name, model in plain.more_honest(network("natural"), network("l2"), learn()).items():
        yield Patient(name, "kept aside", lambda model=model: model, "several")
    late = {"later": later_honest(network("linf"), learn())}
    late |= {"newest": newest_honest(network("l2"), learn()), "unseen": unseen_honest(learn())}
    for group, models in late.items():
        for name, made in models.items():
            yield Patient(name, group, made, "several")


def everybody() -> list[Patient]:
    """All of them, with names that differ; later ones last, so that others keep their sets."""
    turn = {group: i for i, group in enumerate(LATE, 1)}
    found = sorted([*hiding(), *honest()], key=lambda one: turn.get(one.group, 0))
    assert len({one.name for one in found}) == len(found)
    return found
