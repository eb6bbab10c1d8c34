"""Outputs compared as numbers: what may move, by how much, and what may not."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from helpers.toybook import ENV, code, toy_book
from mpbook.pages.tolerance import Tolerance, moves, moves_of_cell, settled
from mpkit.core.records import DECLARED

TABLE = "trained on l1   66.0% [61.1%, 70.6%]    0\ntrained on l2    9.8% [ 7.0%, 13.1%]    3\n"


def printed(text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": "stdout", "text": text}


def shown(**data: Any) -> dict[str, Any]:
    kinds = {"png": "image/png", "declared": DECLARED, "html": "text/html", "text": "text/plain"}
    named = {kinds[name]: value for name, value in data.items()}
    return {"output_type": "display_data", "data": named, "metadata": {}}


def cell(**may_move: float) -> dict[str, Any]:
    return {"metadata": {"mpkit": {"may_move": may_move}}}


def test_a_cell_without_a_declaration_is_exact() -> None:
    assert Tolerance.of({"metadata": {}}) == Tolerance() == Tolerance(0, 0, 0, 0)
    new = [printed(TABLE.replace("66.0", "66.1"))]
    assert settled(new, [printed(TABLE)], Tolerance(), pictures=True) == new


@pytest.mark.parametrize(
    "text", [TABLE.replace(" 9.8", "  9.8"), TABLE.replace("    3", "    3.0"), TABLE[:-1]]
)
def test_a_cell_without_a_declaration_is_exact_to_the_blank(text: str) -> None:
    new, old = [printed(text)], [printed(TABLE)]
    assert settled(new, old, Tolerance(), pictures=True) == new
    lines = [printed(TABLE) | {"text": TABLE.splitlines(keepends=True)}]  # as a file holds it
    assert settled(lines, old, Tolerance(), pictures=True) == old


MOVED = {  # what came out in place of the table, and whether half a point and one count allow it
    "nothing": (TABLE, True),
    "half a point": (TABLE.replace("66.0", "65.5"), True),
    "more": (TABLE.replace("66.0", "65.4"), False),
    "an end of an interval": (TABLE.replace("[61.1%", "[60.6%"), True),
    "a wider number": (TABLE.replace(" 9.8", "10.2"), True),
    "a count": (TABLE.replace(" 3\n", " 4\n"), True),
    "two counts": (TABLE.replace(" 3\n", " 5\n"), False),
    "a word": (TABLE.replace("l1 ", "l3 "), False),
    "a row less": (TABLE.split("\n")[0] + "\n", False),
    "rows in another order": ("".join(reversed(TABLE.splitlines(keepends=True))), False),
    "a percent sign less": (TABLE.replace("66.0%", "66.0 "), False),
    "a line broken": (TABLE.replace("[61", "\n[61"), False),
}


@pytest.mark.parametrize(("text", "allowed"), MOVED.values(), ids=MOVED)
def test_what_moved_is_seen(text: str, allowed: bool) -> None:
    tolerance = Tolerance.of(cell(points=0.5, counts=1))
    old, new = [printed(TABLE)], [printed(text)]
    assert settled(new, old, tolerance, pictures=False) == (old if allowed else new)


def test_numbers_are_of_kinds() -> None:
    text = "l2 of float64: 119 of 200 images, N = 50, 131,774 passes, 1.5e-3, 12 %, [1,2,3]"
    found = moves(text, text)
    assert found is not None
    assert [(move.kind, move.stored) for move in found] == [
        ("counts", 119), ("sizes", 200), ("sizes", 50), ("counts", 131774), ("decimals", 1.5e-3),
        ("points", 12), ("counts", 1), ("counts", 2), ("counts", 3),
    ]  # fmt: skip


def test_sizes_never_move() -> None:
    wide = Tolerance(points=100, counts=1000, decimals=1000, share=1)
    new = [printed("119 of 201 images")]
    assert settled(new, [printed("119 of 200 images")], wide, pictures=False) == new


def test_large_counts_move_by_a_share_of_themselves() -> None:
    tolerance = Tolerance(counts=2, share=0.01)
    old = [printed("broken 86, images seen 13701")]
    for text, allowed in (
        ("broken 88, images seen 13838", True),
        ("broken 89, images seen 13701", False),
        ("broken 86, images seen 13839", False),
    ):
        new = [printed(text)]
        assert settled(new, old, tolerance, pictures=False) == (old if allowed else new)


def test_declared_results_are_shares() -> None:
    old, near, far = (
        [shown(declared={"union": union, "best": "max"}, html="")] for union in (0.4, 0.405, 0.41)
    )
    half = Tolerance(points=0.5)
    assert settled(near, old, half, pictures=False) == old
    assert settled(far, old, half, pictures=False) == far
    turned = [shown(declared={"best": "max", "union": 0.405}, html="")]  # as a file sorts them
    assert settled(turned, old, half, pictures=False) == old
    other = [shown(declared={"union": 0.4, "best": "avg"}, html="")]
    assert settled(other, old, half, pictures=False) == other


def test_pictures_are_not_compared_and_kept_where_asked() -> None:
    old, new = ([shown(png=png, text="<Figure>")] for png in ("old", "new"))
    assert settled(new, old, Tolerance(), pictures=True) == old
    assert settled(new, old, Tolerance(), pictures=False) == new


def test_data_are_compared_number_by_number() -> None:
    assert moves({"z": [[1, 2.0]]}, {"z": [[3, 2.5]]}) == [("counts", 1, 3), ("decimals", 2.0, 2.5)]
    for other in ({"y": [[1, 2.0]]}, {"z": [[1]]}, {"z": [[True, 2.0]]}, {"z": [["1", 2.0]]}, 3):
        assert moves({"z": [[1, 2.0]]}, other) is None


@given(
    st.lists(st.floats(-99, 99).map(lambda x: f"{x:.1f}%") | st.sampled_from("ab l2 [,".split()))
)
def test_a_text_agrees_with_itself(words: list[str]) -> None:
    text = " ".join(words)
    found = moves_of_cell([printed(text)], [printed(text)])
    assert found is not None
    assert len(found) == sum(word.endswith("%") for word in words)
    assert all(map(Tolerance().allows, found))


@pytest.mark.parametrize(
    ("given", "told"),
    [({"point": 1}, r"unknown \['point'\].*points"), ({"points": -1}, "points is -1"),
     ({"points": "1"}, "points is '1'"), ({"counts": True}, "counts is True")],
)  # fmt: skip
def test_a_declaration_of_another_form_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Tolerance.of(cell(**given))


# What the pages declare


def test_pages_declare_no_more_than_twice_what_was_seen() -> None:
    record = json.loads((ROOT / "book" / "results" / "processors.json").read_text())
    declared = 0
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        seen = record["pages"].get(path.stem, {}).get("seen", {})
        moved = {
            number: [far for setting, far in by.items() if setting != "another seed"]
            for number, by in seen.items()
        }
        page = max((far.get("points", 0) for by in moved.values() for far in by), default=0)
        for number, one in enumerate(c for c in cells if c["cell_type"] == "code"):
            by = moved.get(str(number), [])
            for kind, width in asdict(Tolerance.of(one)).items():
                own = max((far.get(kind, 0) for far in by), default=0)
                assert width <= 2 * (page if kind == "points" else own), f"{path.stem} {number}"
                assert width >= own, f"{path.stem} {number} moved further"
                declared += width > 0
    assert declared > 10


# The same through nbval


def page(*cells: tuple[str, list[dict[str, Any]], dict[str, float]]) -> list[dict[str, Any]]:
    """Executed cells: what they do, what is stored of it, and how far it may move."""
    made = []
    for number, (source, outputs, may_move) in enumerate(cells, start=2):
        one = code(source) | {"outputs": outputs, "execution_count": number}
        made.append(one | {"metadata": {"mpkit": {"may_move": may_move}} if may_move else {}})
    return made


DECLARE = "from mpkit.core import records\nrecords.declare(union={})"
NEAR = {"points": 0.5}
CELLS = {
    "the same": ("print('a 66.0%')", [printed("a 66.0%\n")], {}, "passed"),
    "moved as it may": ("print('a 66.0%')", [printed("a 65.5%\n")], NEAR, "passed"),
    "moved too far": ("print('a 66.0%')", [printed("a 65.4%\n")], NEAR, "failed"),
    "moved undeclared": ("print('a 66.0%')", [printed("a 65.9%\n")], {}, "failed"),
    "another word": ("print('a 66.0%')", [printed("b 66.0%\n")], NEAR, "failed"),
    "a row is missing": ("print('a 66.0%')", [printed("a 66.0%\nb\n")], NEAR, "failed"),
    "results as they may": (
        DECLARE.format(0.4), [shown(declared={"union": 0.405}, html="")], NEAR, "passed",
    ),
    "results too far": (
        DECLARE.format(0.4), [shown(declared={"union": 0.41}, html="")], NEAR, "failed",
    ),
}  # fmt: skip


def test_nbval_lets_numbers_move_and_keeps_what_passed(tmp_path: Path) -> None:
    root = toy_book(tmp_path)
    conftest = (ROOT / "book" / "conftest.py").read_text()
    (root / "book" / "conftest.py").write_text(
        conftest.replace("Path(__file__).parents[1]", f"Path({str(ROOT)!r})")
    )
    toy = json.loads((root / "book" / "toy.ipynb").read_text())
    toy["cells"][1]["execution_count"] = 1
    good = [(source, stored, may) for source, stored, may, end in CELLS.values() if end == "passed"]
    for name, cells in (("toy", good), ("all", [one[:3] for one in CELLS.values()])):
        made = {**toy, "cells": [*toy["cells"], *page(*cells)]}
        (root / "book" / f"{name}.ipynb").write_text(json.dumps(made))
    words = ["--nbval", "-v", "-p", "no:cacheprovider", "book"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words],
        cwd=root, env=ENV, capture_output=True, text=True,
    )  # fmt: skip
    ends = re.findall(r"all\S+::Cell \d+ (PASSED|FAILED)", done.stdout)
    assert [end.lower() for end in ends] == ["passed", *(one[3] for one in CELLS.values())]
    (kept,) = (root / "_build" / "executed").glob("*.ipynb")
    executed = json.loads(kept.read_text())
    (output,) = executed["cells"][3]["outputs"]
    assert output["text"] == ["a 66.0%\n"]  # what ran, not what is stored
    counts = [one["execution_count"] for one in executed["cells"] if one["cell_type"] == "code"]
    assert counts == [1, 2, 3, 4]
    assert executed["metadata"]["mpkit"]["parameters"]["radius"] == 0.5
