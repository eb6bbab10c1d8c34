"""Competitiveness ratios in closed form, and the specialists' table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mpkit.evaluation.competitiveness import (
    SPECIALISTS,
    STRENGTHS,
    at_strengths,
    best,
    clean_accuracy,
    competitiveness,
)

TWO = {"clean": {0.0: 0.9}, "linf": {0.1: 0.6, 0.2: 0.3}, "l1": {1.0: 0.5}}


def test_by_hand() -> None:
    found = {"clean": {0.0: 0.45}, "linf": {0.1: 0.6, 0.2: 0.06}, "l1": {1.0: 0.25}}
    told = competitiveness(found, TWO)
    assert told.average == pytest.approx((0.5 + 1 + 0.2 + 0.5) / 4)
    assert told.worst == pytest.approx(0.2)
    assert (told.attack, told.strength) == ("linf", 0.2)


@given(st.floats(0.01, 1))
def test_a_share_of_every_specialist_is_that_share(share: float) -> None:
    found = {a: {s: share * v for s, v in each.items()} for a, each in SPECIALISTS.items()}
    told = competitiveness(found)
    assert told.average == pytest.approx(share) and told.worst == pytest.approx(share)


def test_between_two_strengths_the_line() -> None:
    assert best("linf", 0.15, TWO) == pytest.approx(0.45)
    assert best("linf", 0.05, TWO) == pytest.approx(0.75)
    assert best("clean", 0, TWO) == 0.9


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="no specialist for attack 'jpeg'"):
        best("jpeg", 1, TWO)
    with pytest.raises(ValueError, match="not in"):
        best("l1", 2, TWO)
    with pytest.raises(ValueError, match="clean images"):
        competitiveness({"l1": {1.0: 0.5}}, TWO)


@pytest.mark.parametrize("norm", STRENGTHS)
def test_specialists_fall_with_the_strength(norm: str) -> None:
    shares = [share for _, share in sorted(SPECIALISTS[norm].items())]
    assert len(shares) == 20
    assert all(a > b for a, b in zip([0.942, *shares], shares, strict=False))


def test_accuracy_at_strengths_counts_what_is_not_broken() -> None:
    least = torch.tensor([0.0, 0.125, 0.3, torch.inf])
    told = at_strengths(least, "l2", 3)
    assert told == {0.125: 0.5, 0.25: 0.5, 0.375: 0.25}
    assert clean_accuracy(least) == {0.0: 0.75}
