"""Recommended suites of attacks for any threat model: cheap ones first, blind ones included."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest

from torch import Tensor

from mpkit.attacks import (
    APGD,
    DLR,
    FMN,
    PGD,
    AffinePGD,
    Attack,
    BehindZone,
    BoundaryStart,
    CrossEntropy,
    Falling,
    GreedyPixels,
    Grid,
    Loss,
    Margin,
    MultiTargeted,
    Restarts,
    SpatialPGD,
    Square,
    StraightThrough,
    Worst,
    WorstOfK,
)
from mpkit.attacks.dead_zone import searches_below
from mpkit.core.checks import require_positive
from mpkit.evaluation.goals import Entry
from mpkit.models.rank_zone import Front, RankRule
from mpkit.sets import L0, L1, L2, Affine, Ball, Blend, PerturbationSet, RotationTranslation


@dataclass(frozen=True)
class Budget:
    """How hard a suite tries.

    Args:
        steps: gradients of each run of a first-order attack.
        targets: wrong classes that the targeted run aims at, at most.
        queries: forward passes of a blind search that runs on every survivor.
        deep: forward passes of the blind search where the short one broke something.
        restarts: runs of each random attack.
        warps: poses along each shift and for the angle in the grid of rotations and shifts.
        flips: moves of single pixels that are tried for each that is made, at least 4; a short
            search tries half as many, and the deep one follows where that broke something.

    Raises: ValueError: if a number is not positive, or flips is less than 4.
    """

    steps: int
    targets: int
    queries: int
    deep: int
    restarts: int
    warps: tuple[int, int]
    flips: int = 96

    def __post_init__(self) -> None:
        numbers = {name: number for name, number in vars(self).items() if name != "warps"}
        require_positive("Budget", **numbers, shifts=self.warps[0], angles=self.warps[1])
        if self.flips < 4:
            raise ValueError(f"Budget: flips must be at least 4, got {self.flips}; try 96")


BUDGETS = {
    "quick": Budget(20, 2, 50, 200, 1, (3, 7), 32),
    "standard": Budget(100, 6, 200, 5000, 1, (5, 31), 96),
    "thorough": Budget(200, 9, 5000, 10000, 5, (9, 61), 256),
}
"""Seconds, minutes and hours on a small network; "standard" is what results are reported with."""

EDITION = 5
"""Raised whenever an attack of the suites finds more: older records are then evaluated again."""

BLIND = (Square, Grid, WorstOfK, GreedyPixels)
"""Attacks that ask for logits alone, or can."""

SCREEN_LEAVES_OUT = (
    "apgd-dlr",
    "apgd-more",
    "apgd-more-deep",
    "apgd-long",
    "apgd-t",
    "across-more",
    "pixels-deep",
    "pixels-more",
    "square-deep",
)
"""Attacks of "standard" that "screen" is without: restarts, aims at targets, and deep searches."""

QUICKEST = ("pgd linf", "pgd l2", "pgd l1", "across l2", "across l1", "apgd-ce l1", "pixels l1")
"""What broke most images a second on two networks of MNIST where only the union counted."""

NEIGHBOURS = (0, 1, 2, 4, 8)
"""Which near images of other classes a minimum-norm search sets out from."""


def standard(
    threat: PerturbationSet,
    budget: Budget | str = "standard",
    classes: int = 10,
    front: Front | None = None,
) -> tuple[Entry, ...]:
    """The suite recommended for a threat model, to hand to ``evaluate``: cheap attacks first.

    In each ball: a short PGD, a minimum-norm search from the border to near images of other
    classes, Auto-PGD on cross-entropy, on the logits ratio and on targets, and a blind random
    search; in l_1, l_2 and l_0 also a search that moves whole pixels, one after another. These
    two, and restarts in l_inf, go deep on a batch where their short form broke an example that
    nothing before it had broken: the sign of masked gradients, or of luck. For rotations and
    shifts: random poses, the grid refined, and gradients through the warp. The sets take turns, so
    that the union falls early.

    Args:
        threat: a set, or a union of sets.
        budget: "quick", "standard", "thorough", or your own; "blind" for the attacks of "standard"
            that need no gradient, the deep ones on every image; "screen" for a first look at the
            union: "standard" without what ``SCREEN_LEAVES_OUT`` names, so that what survives it
            may fall to "standard".
        classes: of the network; some losses need three or four.
        front: the width of a dead zone in front of the network, for attacks that know of it: every
            attack that follows gradients is also given the straight slope through it, and in l_1
            and l_2 searches of its output are brought back into the ball. Or the
            ``RankRule`` of a rank zone: in each ball searches that it does not see, and such as
            pay for its width. ``front_of`` tells.

    Raises: ValueError: if the budget is not known.
    """
    if budget == "blind":
        suite = standard(threat, "standard", classes, front)
        return tuple(_blindly(entry) for entry in suite if isinstance(entry.attack, BLIND))
    if budget == "screen":
        suite = standard(threat, "standard", classes, front)
        return tuple(entry for entry in suite if _label(entry) not in SCREEN_LEAVES_OUT)
    if isinstance(budget, str):
        if budget not in BUDGETS:
            known = ", ".join((*BUDGETS, "screen", "blind"))
            raise ValueError(f"standard: unknown budget {budget!r}; take {known}, or a Budget")
        budget = BUDGETS[budget]
    suites = [_suite(part, budget, classes) for part in threat.parts()]
    if isinstance(front, RankRule):
        rows = zip(threat.parts(), suites, strict=True)
        suites = [[*_below(part, front, budget, classes), *suite] for part, suite in rows]
    elif front is not None:
        suites = [_knowing(suite, front, budget) for suite in suites]
    stages = zip_longest(*suites)
    return tuple(entry for stage in stages for entry in stage if entry is not None)


def quickest_first(suite: Iterable[Entry]) -> tuple[Entry, ...]:
    """The same attacks in the order that is quickest where only the union counts.

    First those that broke most images a second, see ``QUICKEST``; the others keep their order.
    Survivors meet the same attacks in either order.
    """

    def place(entry: Entry) -> int:
        kind = entry.name.removeprefix("straight ").partition(":")[0]
        return QUICKEST.index(kind) if kind in QUICKEST else len(QUICKEST)

    return tuple(sorted(suite, key=place))


def _label(entry: Entry) -> str:
    """Which attack of the suite this is, whatever its set: such as "pgd"."""
    return entry.name.removeprefix("straight ").partition(" ")[0]


def _blindly(entry: Entry) -> Entry:
    """An attack that asks for logits alone, whether another has broken something or not."""
    if isinstance(entry.attack, GreedyPixels):
        entry = entry._replace(attack=replace(entry.attack, level=None))
    return entry._replace(after=None)


def _suite(threat: PerturbationSet, budget: Budget, classes: int) -> list[Entry]:
    """The attacks on one set; one of a new kind can at least be sampled."""
    if isinstance(threat, Ball):
        return _in_ball(threat, budget, classes)
    if isinstance(threat, RotationTranslation):
        return _of_poses(threat, budget)
    if isinstance(threat, L0):
        return _of_pixels(threat, budget)
    blind = Entry(f"random {threat.describe()}", WorstOfK(threat, budget.queries, Margin()))
    if isinstance(threat, Affine | Blend):
        climb = AffinePGD(threat, budget.steps, loss=Margin())
        return [Entry(f"climb {threat.describe()}", Restarts(climb, budget.restarts)), blind]
    return [blind]


def _knowing(suite: list[Entry], a: float, budget: Budget) -> list[Entry]:
    """The same with the attacks that know of the dead zone, each behind the one that does not."""
    found = []
    for entry in suite:
        found.append(entry)
        if not isinstance(entry.attack, BLIND):
            after = entry.after and f"straight {entry.after}"
            straight = StraightThrough(entry.attack, a)
            found.append(Entry(f"straight {entry.name}", straight, after))
    ball = suite[0].attack.set
    if isinstance(ball, L1 | L2):
        wide = ball.scaled(1 / (1 - a))
        climbs = (APGD(wide, budget.steps, Margin()), APGD(wide, budget.steps, CrossEntropy()))
        behind = tuple(BehindZone(attack, a, ball) for attack in climbs)
        found.append(Entry(f"behind {ball.describe()}", Worst(behind, Margin())))
    return found


def _below(threat: PerturbationSet, rule: RankRule, budget: Budget, classes: int) -> list[Entry]:
    """The attacks that know of a rank zone."""
    if not isinstance(threat, Ball):
        return []
    targets = budget.targets if classes > 3 else 0
    found = searches_below(threat, rule, budget.steps, targets)
    return [Entry(f"{label} {threat.describe()}", attack) for label, attack in found]


def _in_ball(threat: Ball, budget: Budget, classes: int) -> list[Entry]:
    name, steps = threat.describe(), budget.steps
    ratio: Loss = DLR() if classes > 2 else Margin()
    aimed: Loss = DLR() if classes > 3 else Margin()
    near, far = (
        Worst(tuple(FMN(threat, steps, start=BoundaryStart(n)) for n in places), Margin())
        for places in (NEIGHBOURS[:1], NEIGHBOURS[1:])
    )
    climbs: list[tuple[str, Attack]] = [
        ("pgd", PGD(threat, max(10, steps // 5), loss=Margin(), schedule=Falling(0.01))),
        ("across", near),
        ("apgd-ce", APGD(threat, steps, CrossEntropy())),
    ]
    if threat.order == math.inf:
        climbs.append(("apgd-dlr", APGD(threat, steps, ratio)))
        climbs.append(("apgd-more", Restarts(APGD(threat, steps, Margin()), 5)))
    else:  # borders help most where steps are few and long
        climbs.append(("across-more", far))
        if threat.order == 1:  # luck weighs most here: longer and again
            climbs.append(("apgd-long", Restarts(APGD(threat, 4 * steps, Margin()), 3)))
        else:
            climbs.append(("apgd-dlr", APGD(threat, steps, ratio)))
    aim = APGD(threat, max(2, steps // 2), aimed)
    if classes > 2:
        climbs.append(("apgd-t", MultiTargeted(aim, budget.targets)))
    if budget.restarts > 1:
        climbs = [(label, Restarts(attack, budget.restarts)) for label, attack in climbs]
    suite = [Entry(f"{label} {name}", attack) for label, attack in climbs]
    more: list[Entry] = []
    if threat.order == math.inf:  # where restarts found something, others will
        all_out = MultiTargeted(APGD(threat, steps, aimed), 9) if classes > 2 else suite[-1].attack
        luck = Worst((Restarts(APGD(threat, steps, Margin()), 5), all_out), Margin())
        more = [Entry(f"apgd-more-deep {name}", luck, after=f"apgd-more {name}")]
    flips = _flips(threat, budget) if isinstance(threat, L1 | L2) else []
    probe = f"square {name}"
    queries = budget.queries * (2 if threat.order == math.inf else 1)  # squares are made for l_inf
    square = Entry(probe, Square(threat, queries))
    deep = Entry(f"square-deep {name}", Square(threat, budget.deep), after=probe)
    return [*suite[:4], *flips[:1], *suite[4:], square, *more, *flips[1:], deep]


def _flips(threat: L0 | L1 | L2, budget: Budget) -> list[Entry]:
    """Whole pixels, one after another: a short search, and a deep one where that broke any."""
    name, most = threat.describe(), 32
    if isinstance(threat, L0) and not isinstance(threat.eps, Tensor):
        most = max(most, math.ceil(threat.eps))
    deep, probe = GreedyPixels(threat, most, budget.flips), f"pixels {name}"
    return [
        Entry(probe, GreedyPixels(threat, most, budget.flips // 2, swaps=0)),
        Entry(f"pixels-deep {name}", deep, after=probe),
        Entry(f"pixels-more {name}", replace(deep, first=0), after=probe),
    ]


def _of_pixels(threat: L0, budget: Budget) -> list[Entry]:
    blind = Entry(f"random {threat.describe()}", WorstOfK(threat, budget.queries, Margin()))
    return [blind, *(entry._replace(after=None) for entry in _flips(threat, budget))]


def _of_poses(threat: RotationTranslation, budget: Budget) -> list[Entry]:
    name, (shifts, angles) = threat.describe(), budget.warps
    refine = 30 * shifts * shifts * angles // 775  # of 5 x 5 x 31 poses
    climb = SpatialPGD(threat, max(10, budget.steps // 5), loss=Margin())
    return [
        Entry(f"random {name}", WorstOfK(threat, 10, Margin())),
        Entry(f"grid {name}", Grid(threat, shifts, angles, refine=refine, loss=Margin())),
        Entry(f"climb {name}", Restarts(climb, 3 * budget.restarts)),
    ]
