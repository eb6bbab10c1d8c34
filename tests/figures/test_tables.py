"""Tables: the same cells in both forms, aligned text, and rows that fit one another."""

from __future__ import annotations

import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from mpbook import figures
from mpkit.core.statistics import Estimate

ROWS = {
    "avg": {"linf": Estimate(0.176, 0.144, 0.21), "passes": 18.0, "kind": "mean"},
    "max & more": {"linf": Estimate(0.188, 0.155, 0.225), "passes": 16.0, "kind": None},
}


def cells(table: figures.Table) -> list[list[str]]:
    """The cells of the HTML form, row by row."""
    page = BeautifulSoup(table._repr_html_(), "html.parser")
    return [[cell.get_text() for cell in row(["th", "td"])] for row in page("tr")]


def test_a_table_of_shares_with_intervals() -> None:
    table = figures.Table({"max": {"l1": Estimate(0.21, 0.175, 0.249), "union": 0.188}})
    assert repr(table) == "                   ℓ₁  union\nmax  21.0% [18%, 25%]  18.8%"
    assert cells(table) == [["", "ℓ₁", "union"], ["max", "21.0% [18%, 25%]", "18.8%"]]


def test_the_unit_can_stand_in_the_corner() -> None:
    one = {"max": {"l1": Estimate(0.21, 0.175, 0.249)}}
    table = figures.Table(one, ".1f", ".0f", corner="%", times=100)
    assert cells(table) == [["%", "ℓ₁"], ["max", "21.0 [18, 25]"]]


def test_names_are_text_and_headers_say_what_they_head() -> None:
    page = BeautifulSoup(figures.Table(ROWS)._repr_html_(), "html.parser")
    assert "max &amp; more" in figures.Table(ROWS)._repr_html_()
    assert [head["scope"] for head in page("th")] == ["col"] * 3 + ["row"] * 2
    assert page.find("small").get_text() == "[14%, 21%]"


def test_rows_with_other_columns_are_refused() -> None:
    with pytest.raises(ValueError, match="the same columns in the same order"):
        figures.Table({"a": {"x": 1.0}, "b": {"y": 1.0}})
    with pytest.raises(ValueError, match="at least one row"):
        figures.Table({})


words = st.text("abcdefgh 123", min_size=1, max_size=9).map(str.strip).filter(bool)
numbers = st.one_of(st.floats(-10, 10), st.builds(Estimate, *[st.floats(0, 1)] * 3))


@given(st.dictionaries(words, st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5))
def test_both_forms_hold_the_same_cells_and_the_text_is_aligned(rows: dict[str, list]) -> None:
    named = {name: dict(zip(("linf", "b", "c"), row, strict=True)) for name, row in rows.items()}
    table = figures.Table(named, ".2f", ".1f")
    lines = repr(table).splitlines()
    assert len({len(line) for line in lines}) == 1  # the last column ends where its title ends
    for line, row in zip(lines, cells(table), strict=True):
        assert line.split() == " ".join(row).split()
