"""Threat models in words: ``linf:0.3 + l1:10 + l2:2 + rt:3px,30deg``; sets describe themselves."""

from __future__ import annotations

import re

from mpkit.sets.base import read
from mpkit.sets.combinations import Union


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
