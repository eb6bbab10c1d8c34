"""Threat models: in words, ``linf:0.3 + l1:10 + l2:2 + rt:3px,30deg``, and those in common use."""

from __future__ import annotations

import re

from mpkit.sets.balls import L1, L2, Linf
from mpkit.sets.base import PerturbationSet, read
from mpkit.sets.combinations import Union
from mpkit.sets.spatial import RotationTranslation


def parse_threat(text: str) -> Union:
    """Read a threat model from words; ``PerturbationSet.describe`` writes it.

    Args:
        text: terms joined by ``+``: ``linf:0.3``, ``l2:0.5``, ``l1:12``, ``linf:8/255``,
            ``rt:3px,30deg``, ``affine(rt:3px,30deg & linf:0.1)``. Radii are in pixel units of
            images in [0, 1], shifts in pixels, rotations in degrees.

    Returns: the union of the sets, in the order of the words.

    Raises:
        ValueError: naming the word that is not known, a radius that is none, or a set given twice.
    """
    sets = [read(word) for word in re.split(r"\+(?![^(]*\))", text)]
    names = [one.describe() for one in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"threat: {', '.join(twice)} given twice; name every set once")
    return Union(*sets)


def kind(label: str) -> str:
    """The word that a described set begins with, which is its key in figures and reports."""
    return re.split(r"[:(]", label)[0]


USUAL: dict[str, dict[str, PerturbationSet]] = {
    "mnist": {
        "linf": Linf(0.3),
        "l2": L2(2),
        "l1": L1(10),
        "rt": RotationTranslation(pixels=3, degrees=30),
    },
    "cifar10": {
        "linf": Linf(8 / 255),
        "l2": L2(0.5),
        "l1": L1(12),
        "rt": RotationTranslation(pixels=3, degrees=30),
    },
    "digits": {
        "linf": Linf(0.15),
        "l2": L2(0.7),
        "l1": L1(2),
        "rt": RotationTranslation(pixels=0.5, degrees=10),
    },
}
"""Radii in common use for a data set, in pixel units of images in [0, 1]."""

PAPER: dict[str, dict[str, PerturbationSet]] = {
    "mnist": USUAL["mnist"],
    "cifar10": {
        "linf": Linf(4 / 255),
        "l1": L1(2000 / 255),
        "rt": RotationTranslation(pixels=3, degrees=30),
    },
}
"""The sets of Tramèr and Boneh 2019; on CIFAR-10 they have none in l_2."""

RADII = ("common", "paper")


def usual(
    name: str, shape: tuple[int, int, int], radii: str = "common"
) -> dict[str, PerturbationSet]:
    """Give the radii in common use for a data set, under the keys linf, l2, l1 and rt.

    For a data set that is not known, CIFAR-10's radii are carried over: the same change per pixel
    in l_inf, in l_2 scaled with the root of the number of entries, in l_1 with the number, and
    shifts with the width.

    Args:
        name: such as "mnist", "cifar10", "digits".
        shape: (C, H, W) of its images; used where the name is not known.
        radii: "common", or "paper" for those of Tramèr and Boneh 2019.

    Raises: ValueError: unknown word, or the paper has no such data set.
    """
    if radii not in RADII:
        raise ValueError(f"radii: take {' or '.join(RADII)}, got {radii!r}")
    if radii == "paper":
        if name not in PAPER:
            raise ValueError(
                f"radii: the paper has {' and '.join(PAPER)}, not {name!r}; take common"
            )
        return dict(PAPER[name])
    if name in USUAL:
        return dict(USUAL[name])
    share = shape[0] * shape[1] * shape[2] / 3072
    return {
        "linf": Linf(8 / 255),
        "l2": L2(0.5 * share**0.5),
        "l1": L1(12 * share),
        "rt": RotationTranslation(pixels=3 * shape[2] / 32, degrees=30),
    }
