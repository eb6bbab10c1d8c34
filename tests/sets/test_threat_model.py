"""Threat models in words: what is written reads back, and what cannot be read is named."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpkit.sets import L1, L2, Affine, Linf, RotationTranslation, Union, parse_threat
from mpkit.sets.threat_model import kind

radii = st.one_of(st.floats(1e-4, 1e3, allow_nan=False), st.integers(1, 254).map(lambda n: n / 255))
balls = st.one_of(*(radii.map(ball) for ball in (Linf, L2, L1)))
poses = st.builds(RotationTranslation, st.floats(0, 9), st.floats(0, 90))
simple = st.one_of(balls, poses)
sets = st.one_of(simple, st.builds(Affine, simple, balls))


@example([RotationTranslation(0.0, 85 / 255)])
@given(st.lists(sets, min_size=1, max_size=4, unique_by=lambda one: one.describe()))
def test_what_is_described_reads_back(members) -> None:
    threat = Union(*members)
    assert parse_threat(threat.describe()) == threat


def test_the_usual_words() -> None:
    threat = parse_threat(" linf:0.3+l1 : 10 + l2:.5 + rt:3px, 30deg + linf:8/255 ")
    expected = (Linf(0.3), L1(10), L2(0.5), RotationTranslation(3, 30), Linf(8 / 255))
    assert threat.sets == expected
    assert threat.describe() == "linf:0.3 + l1:10 + l2:0.5 + rt:3px,30deg + linf:8/255"
    assert [kind(one.describe()) for one in threat.sets] == ["linf", "l1", "l2", "rt", "linf"]


def test_a_plus_inside_an_affine_set_does_not_cut_it() -> None:
    threat = parse_threat("affine(rt:1px,5deg & linf:1e-1) + l2:1")
    assert threat.sets == (Affine(RotationTranslation(1, 5), Linf(0.1)), L2(1))
    assert kind(threat.sets[0].describe()) == "affine"


def test_parts_of_nested_unions_come_in_order() -> None:
    inner = Union(Linf(0.1), L1(1))
    assert Union(inner, L2(1)).parts() == (Linf(0.1), L1(1), L2(1))
    assert L2(1).parts() == (L2(1),)


BAD = {
    "linf": "'linf' cannot be read",
    "l3:1": "'l3:1' cannot be read; write linf:R",
    "": "'' cannot be read",
    "linf:x": "'linf:x' has no radius",
    "linf:1/0": "has no radius",
    "linf:-1": "has no radius",
    "linf:0": "Linf: eps must be positive",
    "rt:3": "no bounds of shift",
    "linf:0.3 + linf:.3": "linf:0.3 given twice",
    "affine(linf:1 & rt:1px,1deg)": "put the ball second",
}


@pytest.mark.parametrize(("text", "words"), BAD.items(), ids=BAD)
def test_what_cannot_be_read_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_threat(text)
