"""How many kernels a step of an attack launches on a GPU: counted on a CPU that claims to be one.

``make launches`` puts the counts into the table of CONTRIBUTING.md, which is the ratchet of the
tests: a count may fall, and none is written that has risen.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

from helpers import ROOT
from helpers.pretend import Claims, Count, count_kernels
from mpkit.attacks import APGD, FMN, MSD, PGD, SLIDE, AffinePGD, Attack, Grid, SpatialPGD, Square
from mpkit.attacks.base import Problem
from mpkit.attacks.gradients import Guarded
from mpkit.core.checks import unread
from mpkit.sets import L1, L2, Affine, Blend, Linf, RotationTranslation, Union

PAGE = ROOT / "CONTRIBUTING.md"
HEAD = "| a step of | torch alone | kernels for rows |\n|---|---:|---:|\n"
ROW = re.compile(r"^\| ([a-z0-9 ,]+) \| (\d+) \| (\d+) \|$", re.MULTILINE)

LINF, EUCLID, SUM = Linf(0.3), L2(2.0), L1(10.0)
TURNED = RotationTranslation(3, 30)
STEPS: dict[str, Callable[[int], Attack]] = {
    "pgd linf": lambda n: PGD(LINF, n),
    "pgd l2": lambda n: PGD(EUCLID, n),
    "pgd l1": lambda n: PGD(SUM, n),
    "pgd l1 of rows": lambda n: PGD(L1(torch.full((2,), 10.0)), n),
    "slide": lambda n: SLIDE(SUM, n),
    "apgd linf": lambda n: APGD(LINF, n),
    "apgd l2": lambda n: APGD(EUCLID, n),
    "apgd l1": lambda n: APGD(SUM, n),
    "msd": lambda n: MSD(Union(LINF, EUCLID, SUM), n),
    "square linf": lambda n: Square(LINF, n),
    "square l2": lambda n: Square(EUCLID, n),
    "square l1": lambda n: Square(SUM, n),
    "fmn linf": lambda n: FMN(LINF, n),
    "fmn l2": lambda n: FMN(EUCLID, n),
    "fmn l1": lambda n: FMN(SUM, n),
    "four poses of a grid": lambda n: Grid(TURNED, 1, 4 * n),
    "spatial pgd": lambda n: SpatialPGD(TURNED, n),
    "between linf and l1": lambda n: AffinePGD(Affine(LINF, SUM), n).between(),
    "between l2 and linf": lambda n: AffinePGD(Affine(EUCLID, LINF), n).between(),
    "between poses and linf": lambda n: AffinePGD(Affine(TURNED, LINF), n).between(),
    "blend": lambda n: AffinePGD(Blend(LINF, EUCLID), n).between(),
}
"""Attacks of n steps, on images of 28 x 28."""


def launched(name: str, kernels: bool) -> int:
    """Launches of one step, that of a network of one layer included; nothing may wait.

    Args:
        kernels: whether those of ``mpkit.sets.kernels`` are used.
    """
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10)).eval().requires_grad_(False)
    x, seen = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)), []
    y = net(x).argmax(1)
    for steps in (12, 16):
        rng = torch.Generator().manual_seed(1)
        problem = Problem(Guarded(net, 10), x.clone(), y, rng)
        patched = pytest.MonkeyPatch.context()
        with patched as patch, Claims(), torch.no_grad(), unread(), Count() as count:
            if kernels:
                count_kernels(patch, count)
            STEPS[name](steps).find(problem)
        assert not count.waits
        seen.append(count.launched)
    return math.ceil((seen[1] - seen[0]) / 4)


def shown() -> dict[str, tuple[int, int]]:
    """The counts of the page, plainly and with kernels for rows."""
    rows = ROW.findall(PAGE.read_text(encoding="utf-8").partition(HEAD)[2])
    return {name: (int(plain), int(fast)) for name, plain, fast in rows}


def write() -> None:
    """Count everything and put it into the page.

    Raises: ValueError: a step launches more than it did.
    """
    old, rows = shown(), []
    for name in STEPS:
        now = launched(name, False), launched(name, True)
        if any(new > before for new, before in zip(now, old.get(name, now), strict=True)):
            raise ValueError(f"{name}: launches {now}, it was {old[name]}; look for what is new")
        rows.append(f"| {name} | {now[0]} | {now[1]} |\n")
    before, _, after = PAGE.read_text(encoding="utf-8").partition(HEAD)
    rest = re.sub(r"\A(\|.*\n)*", "", after)
    PAGE.write_text(before + HEAD + "".join(rows) + rest, encoding="utf-8")


if __name__ == "__main__" and "--write" in sys.argv:
    write()
