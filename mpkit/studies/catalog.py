"""Named recipes: what ``mpkit train`` and ``mpkit reproduce`` can train, each complete but a seed.

A name is a data set and a scheme, such as ``mnist-max``. The scale ``cpu`` has a network and a
schedule for minutes on a few cores, the scale ``gpu`` the paper's network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from mpkit.attacks import (
    APGD,
    MSD,
    PGD,
    SLIDE,
    Attack,
    BehindZone,
    BelowRank,
    StraightThrough,
    WholePixels,
    WorstOfK,
)
from mpkit.data import Elastic
from mpkit.models import RankRule
from mpkit.models.cnn import RANK, ZONE, read_front
from mpkit.sets import L1, Ball, PerturbationSet, Union, usual
from mpkit.studies.analysis import IN_COLOUR, ROWS
from mpkit.studies.scales import Scale, scale_of
from mpkit.training import (
    Average,
    Balanced,
    LogitPairing,
    Max,
    Natural,
    RadiusWarmup,
    Random,
    Recipe,
    Scheme,
    Single,
)
from mpkit.training.recipes import LATER, fingerprint
from mpkit.training.schemes import Several

ABOUT = {
    "natural": "no attack",
    "linf": "adversarial training in l_inf",
    "l2": "adversarial training in l_2",
    "l1": "adversarial training in l_1, with sparse descent",
    "rt": "adversarial training against rotations and shifts, worst of 10",
    "avg": "all of l_inf, l_2 and l_1, mean loss",
    "max": "the worst of l_inf, l_2 and l_1 for each image",
    "msd": "one walk led by all three norms",
    "random": "one of the three norms per batch, drawn at random",
    "balanced": "the l_inf network, fine-tuned with l_inf and l_1 by their errors",
    "tuned": "the avg network, fine-tuned with l_inf and a long Auto-PGD in l_1 by their errors",
    "tuned-on": "the tuned network, once more, with a search of twice the length",
    "paired": "the avg network, fine-tuned as RAMP does: the worse of both, answers that agree",
    "ramp": "RAMP: l_inf and l_1, answers that agree, half of natural training's way",
    "avg-rt": "l_inf and rotations with shifts, mean loss",
    "max-rt": "the worse of l_inf and rotations with shifts for each image",
    "max-apgd": "as max, with Auto-PGD for l_2 and l_1",
    "msd-long": "as msd, twice the steps and half as many epochs again",
}

BALLS = ("linf", "l2", "l1")
TUNED = {"balanced": "linf", "tuned": "avg", "tuned-on": "tuned", "paired": "avg"}  # start from
LONGER = {"tuned": 2, "tuned-on": 4, "paired": 2}  # times the steps of Auto-PGD in l_1


@dataclass(frozen=True)
class Plan:
    """One named recipe: everything that decides a network but the images and the seed.

    Args:
        name: such as "mnist-max".
        network: a key of ``mpkit.models.NETWORKS``.
        scheme: how a batch becomes losses.
        recipe: how losses become weights.
        watch: attacks of the validation after each epoch, by name.
        held_out: images of the training split that only the validation sees.
        start: the name of the recipe whose network is trained on; empty for random weights.
        images: so many are trained on, equally many of each class; 0 for all.
        spread: whether those held out lie all over the split, instead of at its end; the last
            images of MNIST are easier than the others.
    """

    name: str
    network: str
    scheme: Scheme
    recipe: Recipe
    watch: tuple[tuple[str, Attack], ...] = ()
    held_out: int = 0
    start: str = ""
    images: int = field(default=0, metadata=LATER)
    spread: bool = field(default=False, metadata=LATER)

    @property
    def key(self) -> str:
        """The sha256 that changes when anything that matters changes."""
        return fingerprint(self)

    @property
    def about(self) -> str:
        """The scheme in a few words."""
        scheme, zone, width = self.name.partition("-")[2].partition(ZONE)
        words = ABOUT[scheme]
        if width.startswith(RANK):
            words += f"; behind a rank zone of {width.removeprefix(RANK)}"
        elif zone:
            words += f"; behind a dead zone of {width}"
        if "L2(" not in repr(self.scheme):
            words = words.replace("three norms", "norms").replace("l_2 and l_1", "l_1")
            words = words.replace("l_inf, l_1", "l_inf and l_1")
        return words


def names(data: str = "mnist", radii: str = "common") -> list[str]:
    """The names of all recipes for a data set: none for a ball that the radii do not have.

    Raises: ValueError: unknown radii, or none of the paper's for this data set.
    """
    lacking = set(BALLS) - set(usual(data, (1, 1, 1), radii))
    return [f"{data}-{scheme}" for scheme in ABOUT if scheme not in lacking]


def plan(
    name: str,
    shape: tuple[int, int, int],
    scale: str = "cpu",
    data: str | None = None,
    radii: str = "common",
) -> Plan:
    """Look a named recipe up.

    Args:
        name: such as "mnist-max", or "mnist-max@0.2" behind a dead zone of that width, or
            "mnist-random@rank20" behind a rank zone.
        shape: (C, H, W) of the images.
        scale: one of ``mpkit.studies.scales.SCALES``.
        data: the data set where it is another than the name begins with.
        radii: "common" or "paper", see :func:`mpkit.sets.usual`.

    Raises: ValueError: unknown name, scale or radii, or a scheme for a set that there is none of.
    """
    prefix, _, scheme = name.partition("-")
    scheme, zone, width = scheme.partition(ZONE)
    if zone:
        made = plan(f"{prefix}-{scheme}", shape, scale, data, radii)
        front = read_front(f"recipe {name}", width)
        if isinstance(front, RankRule):
            sets = usual(data or prefix, shape, radii) if shape[0] == 1 else {}
            return _ranked(name, made, front, sets)
        return _zoned(name, made, front)
    if scheme not in ABOUT:
        raise ValueError(
            f"recipe: no {name!r}; take DATA-SCHEME, such as mnist-max, with one of the schemes "
            f"{', '.join(ABOUT)}"
        )
    size = scale_of(data or prefix, scale)
    sets = usual(data or prefix, shape, radii)
    if scheme in BALLS and scheme not in sets:
        raise ValueError(f"recipe: no {name!r}; the {radii} radii have {', '.join(sets)}")
    attacks = {key: inner(sets[key], size.steps) for key in sets}
    if scheme in LONGER:
        attacks["l1"] = APGD(cast(Ball, sets["l1"]), LONGER[scheme] * size.steps)
    watched = [key for key in sets if key != "rt" or "rt" in scheme]
    if not size.watching and scheme not in TUNED:
        watched = []
    watch = tuple((key, quick(sets[key])) for key in watched)
    held = size.held_out, "", size.images, size.spread
    made = Plan(name, size.network, Natural(), size.recipe, watch, *held)
    if scheme in TUNED:
        pair = attacks["linf"], attacks["l1"]
        start = f"{prefix}-{TUNED[scheme]}"
        if scheme == "paired":  # both searches for every image: half as long at the same price
            half = replace(size.tuning, epochs=size.tuning.epochs // 2)
            return replace(made, scheme=LogitPairing(*pair), recipe=half, start=start)
        named = tuple(zip(("linf", "l1"), pair, strict=True))
        return replace(made, scheme=Balanced(named), recipe=size.tuning, start=start)
    if scheme == "natural":
        return made
    if scheme == "ramp":
        mean = size.recipe.averaging or size.tuning.averaging
        made = replace(made, recipe=replace(size.recipe, natural=0.5, averaging=mean))
    if scheme == "msd-long":
        longer = replace(size.recipe, epochs=size.recipe.epochs * 3 // 2)
        size, made = replace(size, steps=2 * size.steps), replace(made, recipe=longer)
    return replace(made, scheme=RadiusWarmup(_scheme(scheme, sets, attacks, size), size.ramp))


def _zoned(name: str, made: Plan, a: float) -> Plan:
    """The same behind a dead zone: l_inf straight through it, l_1 on its output, which holds l_2.

    Where one search is drawn for each batch, four kinds of search in l_1 take turns, three times as
    often as l_inf: a network that always meets the same one learns to mislead it.

    Raises: ValueError: the scheme is none of several norms.
    """
    ramp, inside = made.scheme, getattr(made.scheme, "scheme", None)
    if not isinstance(ramp, RadiusWarmup) or not isinstance(inside, Several):
        raise ValueError(f"recipe: no {name!r}; behind a dead zone there are avg, max and random")
    linf, l1 = (next(one for one in inside.attacks if _order(one) == p) for p in (math.inf, 1))
    slide = cast(SLIDE, l1)
    slide = replace(slide, set=slide.set.scaled(1 / (1 - a)))
    weights, sparse = {}, cast(tuple[Attack, ...], (slide,))
    if isinstance(inside, Random):
        half = replace(slide, steps=max(2, slide.steps // 2))
        fine, broad = replace(slide, quantile=0.995), replace(half, quantile=0.97)
        sparse = (half, fine, broad, APGD(slide.set, slide.steps))
        weights = {"weights": (4.0, 3.0, 3.0, 3.0, 3.0)}
        ramp = replace(ramp, shares=(0.2, 0.6))
    attacks = (StraightThrough(linf, a), *(BehindZone(one, a) for one in sparse))
    scheme = replace(ramp, scheme=replace(inside, attacks=attacks, **weights))
    network = f"{made.network}{ZONE}{a:g}"
    return replace(made, name=name, network=network, scheme=scheme, watch=())


def _ranked(name: str, made: Plan, rule: RankRule, sets: Mapping[str, PerturbationSet]) -> Plan:
    """One search for each batch, behind a rank zone: below the rank, and such as pay for a width.

    More than half of the batches are for l_1, which binds there. The small network of a few cores
    gives way to one without convolutions, which trains several times as fast and does better, for
    40 passes over images that are bent anew.

    Raises: ValueError: the scheme is not random, or a ball is missing: images are in colour.
    """
    if not name.partition("-")[2].startswith("random@") or not set(BALLS) <= set(sets):
        raise ValueError(
            f"recipe: no {name!r}; behind a rank zone there is random, of l_inf, l_2 and l_1, on "
            "images in black and white"
        )
    linf, l2, l1 = (cast(Ball, sets[key]) for key in BALLS)
    sparse = cast(L1, l1)
    fine, broad = SLIDE(sparse, 10, quantile=0.995), SLIDE(sparse, 5, quantile=0.97)
    sparsely = (SLIDE(sparse, 10), fine, broad, APGD(l1, 10), WholePixels(sparse, 0.0, 5))
    drawn: list[tuple[Attack, float]] = [(PGD(linf, 5), 0.05)]
    drawn += [(search, 0.55 / len(sparsely)) for search in sparsely]
    for width in (0.0, 0.0, 0.1, 0.2):
        for ball, steps, share in ((linf, 6, 0.3), (l2, 5, 0.1)):
            left = BelowRank.left(ball, rule, width)
            search = BelowRank(PGD(left or ball, steps), ball, rule, width if left else 0.0, 2)
            drawn.append((search, share / 4))
    recipe = replace(made.recipe, batch=256, lr=4e-3, augment=(Elastic(0.5, 5.0),))
    network = made.network
    if network == "small_cnn":
        network, recipe = "wide_mlp", replace(recipe, epochs=40)
    scheme = RadiusWarmup(Random(*zip(*drawn, strict=True)), (0.2, 0.6))
    network = f"{network}{ZONE}{RANK}{rule.rank}"
    return replace(
        made, name=name, network=network, recipe=recipe, scheme=scheme, watch=(), spread=True
    )


def _order(attack: Attack) -> float:
    return attack.set.order if isinstance(attack.set, Ball) else math.nan


def _scheme(
    scheme: str, sets: Mapping[str, PerturbationSet], attacks: Mapping[str, Attack], size: Scale
) -> Scheme:
    norms = tuple(attacks[key] for key in BALLS if key in attacks)
    balls = [one for one in sets.values() if isinstance(one, Ball)]
    auto = tuple(APGD(ball, size.steps) for ball in balls if ball.order != math.inf)
    turned = (attacks["linf"], attacks["rt"])
    if scheme.startswith("msd"):
        return Single(MSD(Union(*balls), size.steps))
    schemes: dict[str, Callable[[], Scheme]] = {
        "avg": lambda: Average(norms),
        "max": lambda: Max(norms),
        "random": lambda: Random(norms),
        "ramp": lambda: LogitPairing(attacks["linf"], attacks["l1"], weight=5.0),
        "avg-rt": lambda: Average(turned),
        "max-rt": lambda: Max(turned),
        "max-apgd": lambda: Max((attacks["linf"], *auto)),
    }
    return schemes[scheme]() if scheme in schemes else Single(attacks[scheme])


def inner(threat: PerturbationSet, steps: int) -> Attack:
    """The attack of the paper's training on one set, with so many gradients."""
    if not isinstance(threat, Ball):
        return WorstOfK(threat, 10)
    return SLIDE(cast(L1, threat), steps) if threat.order == 1 else PGD(threat, steps)


def quick(threat: PerturbationSet) -> Attack:
    """The attack of the validation: stronger than that of the training."""
    if not isinstance(threat, Ball):
        return WorstOfK(threat, 20)
    return PGD(threat, 20) if threat.order == math.inf else APGD(threat, 20)


def rows_of(data: str, radii: str = "common") -> tuple[str, ...]:
    """The schemes of a data set's table, in order of value, of those that there are recipes for."""
    rows, known = IN_COLOUR if data == "cifar10" else ROWS, names(data, radii)
    return tuple(row for row in rows if f"{data}-{row}" in known)
