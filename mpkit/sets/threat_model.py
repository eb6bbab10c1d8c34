"""Threat models in words: ``linf:0.3 + l1:10 + l2:2 + rt:3px,30deg``, read and written."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import singledispatch

from torch import Tensor

from mpkit.sets.balls import L1, L2, Linf
from mpkit.sets.base import PerturbationSet
from mpkit.sets.combinations import Affine, Blend, Union
from mpkit.sets.spatial import RotationTranslation

GRAMMAR = (
    "write linf:R, l2:R, l1:R (R a number or a fraction such as 8/255), rt:Ppx,Ddeg, or "
    "affine(ONE & OTHER), joined by +, for example 'linf:0.3 + l1:10 + l2:2 + rt:3px,30deg'"
)
NUMBER = r"\d*\.?\d+\.?(?:e[+-]?\d+)?"


def parse_threat(text: str) -> Union:
    """Read a threat model from words; ``describe`` writes it.

    Args:
        text: terms joined by ``+``: ``linf:0.3``, ``l2:0.5``, ``l1:12``, ``linf:8/255``,
            ``rt:3px,30deg``, ``affine(rt:3px,30deg & linf:0.1)``. Radii are in pixel units of
            images in [0, 1], shifts in pixels, rotations in degrees.

    Returns:
        the union of the sets, in the order of the words.

    Raises:
        ValueError: naming the word that is not known, a radius that is none, or a set given twice.
    """
    sets = [_term(word) for word in re.split(r"\+(?![^(]*\))", text)]
    names = [describe(one) for one in sets]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"threat: {', '.join(twice)} given twice; name every set once")
    return Union(*sets)


def _term(word: str) -> PerturbationSet:
    word = word.strip()
    between = re.fullmatch(r"affine\s*\((.*)&(.*)\)", word)
    if between:
        return Affine(*(_term(part) for part in between.groups()))  # type: ignore[arg-type]
    name, colon, rest = (part.strip() for part in word.partition(":"))
    if name not in TERMS or not colon:
        raise ValueError(f"threat: cannot read {word!r}; {GRAMMAR}")
    return TERMS[name](rest)


def _ball(kind: Callable[[float], PerturbationSet]) -> Callable[[str], PerturbationSet]:
    def read(rest: str) -> PerturbationSet:
        match = re.fullmatch(rf"({NUMBER})(?:\s*/\s*({NUMBER}))?", rest)
        if not match or not float(match[2] or 1):
            raise ValueError(f"threat: {rest!r} is no radius; {GRAMMAR}")
        return kind(float(match[1]) / float(match[2] or 1))

    return read


def _pose(rest: str) -> PerturbationSet:
    match = re.fullmatch(rf"({NUMBER})\s*px\s*,\s*({NUMBER})\s*deg", rest)
    if not match:
        raise ValueError(f"threat: {rest!r} are no bounds of shift and rotation; {GRAMMAR}")
    return RotationTranslation(float(match[1]), float(match[2]))


TERMS: dict[str, Callable[[str], PerturbationSet]] = {
    "linf": _ball(Linf),
    "l2": _ball(L2),
    "l1": _ball(L1),
    "rt": _pose,
}


@singledispatch
def describe(threat: PerturbationSet) -> str:
    """Write a set in words that ``parse_threat`` reads; a set of another kind by its ``repr``."""
    return repr(threat)


def _number(value: float | Tensor) -> str:
    plain = _plain(value)
    if isinstance(value, Tensor) or len(plain) <= 8:
        return plain
    levels = round(value * 255)
    return f"{levels}/255" if value == levels / 255 else plain


def _plain(value: float | Tensor) -> str:
    """A number in full; a bound of a pose is never written as a fraction."""
    return "one-per-image" if isinstance(value, Tensor) else repr(float(value)).removesuffix(".0")


@describe.register
def _(threat: Linf) -> str:
    return f"linf:{_number(threat.eps)}"


@describe.register
def _(threat: L2) -> str:
    return f"l2:{_number(threat.eps)}"


@describe.register
def _(threat: L1) -> str:
    return f"l1:{_number(threat.eps)}"


@describe.register
def _(threat: RotationTranslation) -> str:
    return f"rt:{_plain(threat.pixels)}px,{_plain(threat.degrees)}deg"


@describe.register
def _(threat: Affine) -> str:
    return f"affine({describe(threat.a)} & {describe(threat.b)})"


@describe.register
def _(threat: Blend) -> str:
    return f"blend({describe(threat.a)} & {describe(threat.b)})"


@describe.register
def _(threat: Union) -> str:
    return " + ".join(describe(one) for one in parts(threat))


def parts(threat: PerturbationSet) -> tuple[PerturbationSet, ...]:
    """The sets of a union, nested ones too, in order; any other set is its only part."""
    if not isinstance(threat, Union):
        return (threat,)
    return tuple(part for one in threat.sets for part in parts(one))


def kind(label: str) -> str:
    """The word before the colon of a described set, which is its key in the book's figures."""
    return re.split(r"[:(]", label)[0]
