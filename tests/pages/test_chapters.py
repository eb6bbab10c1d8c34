"""The committed chapters, the rules that they keep, and proof that a bad page is noticed."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from helpers.notebook_rules import complaints
from helpers.toybook import ENV
from mpbook.pages.chapters import ChapterError, Interval, Parameter, chapter, chapters, profile
from mpkit.core.records import DECLARED
from mpkit.studies.analysis import standing

PATHS = sorted((ROOT / "book").glob("**/*.ipynb"))
Notebook = dict[str, Any]


def load(path: Path) -> Notebook:
    return dict(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_chapter_keeps_the_rules(path: Path) -> None:
    assert complaints(load(path)) == []


def test_every_notebook_is_in_the_table_of_contents() -> None:
    assert PATHS
    assert {found.path for found in chapters(ROOT)} == set(PATHS)


def test_quick_profile_is_what_is_committed() -> None:
    assert set(profile(ROOT, "quick")) == {path.stem for path in PATHS}
    assert all(not values for values in profile(ROOT, "quick").values())


def test_the_findings_on_the_first_page_are_those_of_the_records() -> None:
    words, results = (ROOT / "book" / "intro.md").read_text(), ROOT / "book" / "results"
    rows = [json.loads(path.read_text()) for path in (results / "mnist").glob("*-seed*.json")]
    assert {row["seed"] for row in rows} == {0} and len(rows) == 17
    best = max(row["evaluation"]["accuracy"]["union norms"][0] for row in rows)
    assert f"keeps **{best:.1%}**".replace("%", " %") in words
    bench = json.loads((results / "bench" / "autoattack.json").read_text())
    both = bench["networks"]["mnist-tuned-on"]
    theirs, ours = (
        100 * both[suite]["accuracy"]["union"] for suite in ("AutoAttack", "standard, each set")
    )
    assert f"leaves **{theirs:.1f} %** of {bench['parameters']['points']} images" in words
    assert f"leaves **{ours:.1f} %**" in words
    zone = json.loads((results / "threshold" / "mnist-random@0.3-seed0.json").read_text())
    made = zone["evaluation"]
    kept, points = made["accuracy"]["union norms"][0], made["points"]
    assert f"leave **{100 * kept:.1f} %** of {points} test images" in words
    others = [standing(row, "union norms")[:points].double().mean() for row in rows]
    assert "twenty points or more above each of the seventeen" in words
    assert kept - max(others) >= 0.2
    ranked = json.loads((results / "rank-zone.json").read_text())
    unions: dict[int, list[float]] = {}
    for row in ranked["test"]:
        share = 100 * row["accuracy"]["union"][0]
        unions.setdefault(row["standing"]["count"], []).append(share)
    few, every = unions[1000], unions[10000]
    assert len(few) == 3 and len(every) == 1
    assert f"keep **{min(few):.1f} to {max(few):.1f} %** of the first 1,000 test images" in words
    assert f"one of them **{every[0]:.1f} %** of all 10,000" in words
    near = json.loads((results / "neighbours.json").read_text())["black and white"]
    assert f"**{100 * near['certified'][0]:.1f} %** have a certificate" in words
    exact = json.loads((results / "exact.json").read_text())
    missed = [row["misses"]["standard"]["union"][0] for row in exact["networks"].values()]
    assert len(missed) == 5 and max(missed) * exact["parameters"]["points"] == 1
    assert "at most **one image of 200**" in words


@pytest.mark.parametrize(
    "path", sorted((ROOT / "book/profiles").glob("*.yml")), ids=lambda p: p.stem
)
def test_profiles_fit_the_chapters(path: Path) -> None:
    profile(ROOT, path.stem)


def code_cells(page: Notebook) -> list[Any]:
    return [cell for cell in page["cells"] if cell["cell_type"] == "code"]


def without_outputs(page: Notebook) -> None:
    for cell in code_cells(page):
        cell["outputs"], cell["execution_count"] = [], None


def unknown_tag(page: Notebook) -> None:
    code_cells(page)[-1]["metadata"]["tags"] = ["NBVAL_IGNORE_OUTPUT"]


def without_parameters(page: Notebook) -> None:
    (cell,) = [c for c in code_cells(page) if "parameters" in c["metadata"].get("tags", [])]
    cell["metadata"]["tags"] = []


def executed_out_of_order(page: Notebook) -> None:
    code_cells(page)[1]["execution_count"] = 99


def untyped_parameter(page: Notebook) -> None:
    code_cells(page)[0]["source"] = "seed = 0  # of every draw"


def with_an_error(page: Notebook) -> None:
    output = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
    code_cells(page)[-1]["outputs"].append(output)


def uncommitted(page: Notebook) -> None:
    page["metadata"]["mpkit"]["commit"] += "+"


def without_results(page: Notebook) -> None:
    for cell in code_cells(page):
        cell["outputs"] = [out for out in cell["outputs"] if DECLARED not in out.get("data", {})]


def without_alt(page: Notebook) -> None:
    for cell in code_cells(page):
        cell["metadata"].get("mystnb", {}).pop("image", None)


def with_a_solution_beside_its_exercise(page: Notebook) -> None:
    boxes = [cell for cell in page["cells"] if "{solution}" in "".join(cell["source"])]
    boxes[0]["source"] = ["```{exercise} Both\n", "```\n", *boxes[0]["source"]]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (without_outputs, "no cell has a stored output"),
        (unknown_tag, "unknown tag"),
        (without_parameters, "the tag 'parameters'"),
        (executed_out_of_order, "executed in order"),
        (untyped_parameter, "not 'name: type"),
        (with_an_error, "ValueError"),
        (uncommitted, "uncommitted code"),
        (without_alt, "text alternative"),
        (without_results, "0 results"),
        (with_a_solution_beside_its_exercise, "cells of their own"),
    ],
)
def test_a_spoiled_page_is_noticed(spoil: Callable[[Notebook], None], told: str) -> None:
    page = copy.deepcopy(load(ROOT / "book" / "start.ipynb"))
    spoil(page)
    assert any(told in words for words in complaints(page)), complaints(page)


@pytest.mark.slow
def test_an_edited_stored_output_is_noticed(tmp_path: Path) -> None:
    """The comparison of the gate, run on a page as it is and with one printed digit changed."""

    def compare(page: Notebook) -> subprocess.CompletedProcess[str]:
        (tmp_path / "page.ipynb").write_text(json.dumps(page))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--nbval",
            "-q",
            "-p",
            "no:cacheprovider",
            "page.ipynb",
        ]
        return subprocess.run(command, cwd=tmp_path, env=ENV, capture_output=True, text=True)

    page = load(ROOT / "book" / "start.ipynb")
    cells = code_cells(page)
    printed = next(cell for cell in cells if any("text" in out for out in cell["outputs"]))
    page["cells"] = cells[: cells.index(printed) + 1]
    assert compare(page).returncode == 0
    (output, *_) = [out for out in printed["outputs"] if "text" in out]
    text = "".join(output["text"])
    digit = next(letter for letter in text if letter.isdigit())
    output["text"] = text.replace(digit, str((int(digit) + 1) % 10), 1)
    edited = compare(page)
    assert edited.returncode == 1
    assert "failed" in edited.stdout


@given(
    st.floats(-100, 100), st.floats(-100, 100), st.floats(-100, 100), st.sampled_from("[("),
    st.sampled_from("])"),
)  # fmt: skip
def test_interval_agrees_with_its_text(
    low: float, high: float, value: float, left: str, right: str
) -> None:
    interval = Interval.parse(f"steps of each attack, a [test] {left}{low!r}, {high!r}{right}")
    assert interval is not None
    above = value >= low if left == "[" else value > low
    below = value <= high if right == "]" else value < high
    assert (value in interval) == (above and below)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [("int", "12", 12), ("float", "1e-3", 1e-3), ("bool", "True", True), ("str", "a b", "a b")],
)
def test_parameter_takes_the_type_it_names(kind: str, text: str, value: object) -> None:
    default = {"int": 1, "float": 1.0, "bool": False, "str": ""}[kind]
    found = Parameter("it", kind, default, "what it is").check(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [("int", "1.5"), ("int", "True"), ("float", "inf"), ("float", "x"), ("bool", "1")],
)
def test_parameter_refuses_another_type(kind: str, text: str) -> None:
    with pytest.raises(ChapterError, match="'it'"):
        Parameter("it", kind, 1, "what it is").check(text)


def test_an_unknown_chapter_names_the_known_ones() -> None:
    with pytest.raises(ChapterError, match="start"):
        chapter(ROOT, "strat")
