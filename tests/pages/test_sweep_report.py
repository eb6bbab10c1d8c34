"""What chapters declare reaches the table of a sweep, in every form; and shows nowhere else."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from helpers import ROOT
from mpbook.pages.chapters import Chapter, chapters
from mpbook.pages.sweep import Outcome, Point
from mpbook.pages.sweep_report import relabelled, write_summary
from mpkit.core.records import DECLARED, claim, claimed, declare, declared

CHAPTERS = chapters(ROOT)


def written(chapter: Chapter, folder: Path) -> dict[str, int | float | str]:
    """The summary of a sweep of one point, which ran to what is committed; what it declares."""
    one = Outcome(Point({"seed": 0}, {"seed": 0}), "key", chapter.path)
    write_summary(chapter, "mpkit sweep ...", [one], folder)
    return declared(json.loads(chapter.path.read_text()))


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.id)
def test_the_table_of_a_sweep_carries_what_the_chapter_declares(
    chapter: Chapter, tmp_path: Path
) -> None:
    found = written(chapter, tmp_path)
    (row,) = csv.DictReader((tmp_path / "table.csv").read_text().splitlines())
    assert row == {"seed": "0", "state": "done"} | {k: str(v) for k, v in found.items()}
    (point,) = json.loads((tmp_path / "table.json").read_text())["points"]
    assert point["results"] == found
    table = [line for line in (tmp_path / "summary.md").read_text().splitlines() if "|" in line]
    head, _, cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    shown = dict(zip(head, cells, strict=True))
    assert shown["run"] == f"[done]({chapter.id}.ipynb)"
    assert {name: shown[name] for name in found} == {k: f"{v:.6g}" for k, v in found.items()}


@pytest.fixture
def shell() -> Any:
    InteractiveShell.clear_instance()
    yield InteractiveShell.instance()
    InteractiveShell.clear_instance()


def test_what_is_declared_is_rounded_and_shows_nothing(shell: Any) -> None:
    with capture_output() as seen:
        declare(union=torch.tensor(1 / 3), images=7, word="linf", least=1.23456e-7)
    (output,) = seen.outputs
    assert output.data.pop(DECLARED) == {
        "union": 0.3333,
        "images": 7,
        "word": "linf",
        "least": 1.235e-07,
    }
    assert output.data == {"text/html": ""}
    assert not seen.stdout


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.id)
def test_runs_in_one_site_have_labels_of_their_own(chapter: Chapter) -> None:
    text = chapter.path.read_text()
    copies = [json.loads(relabelled(text, number)) for number in (0, 1)]
    own = labels_of(json.loads(text))
    assert own, "every chapter has exercises"
    for number, copy in enumerate(copies):
        assert labels_of(copy) == {f"{label}-{number}" for label in own}
        prose, before = prose_of(copy), prose_of(json.loads(text))
        for label in own:
            used = re.compile(rf"`{label}`|<{label}>|solution\}} {label}$", re.MULTILINE)
            assert not used.search(prose)
            mine = re.compile(used.pattern.replace(label, f"{label}-{number}"), re.MULTILINE)
            assert len(mine.findall(prose)) == len(used.findall(before))


def prose_of(notebook: dict[str, Any]) -> str:
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    return "\n".join("".join(cell["source"]) for cell in cells)


def labels_of(notebook: dict[str, Any]) -> set[str]:
    """Every label that a page defines: of directives, targets, equations and figures."""
    prose = prose_of(notebook)
    found = set(re.findall(r":label: ([\w-]+)|^\(([\w-]+)\)=", prose, re.MULTILINE))
    found |= {("", label) for label in re.findall(r"\$\$ \(([\w-]+)\)", prose)}
    named = [cell["metadata"].get("mystnb", {}).get("figure", {}) for cell in notebook["cells"]]
    figures = {figure["name"] for figure in named if "name" in figure}
    return figures | {label for pair in found for label in pair if label}


def test_a_claim_says_whether_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    claim("one is less than two", torch.tensor(1) < 2)
    claim("two is less than one", 2 < 1)
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].startswith("does not hold")
    output = {"output_type": "stream", "name": "stdout", "text": printed}
    notebook = {"cells": [{"cell_type": "markdown"}, {"outputs": [output]}]}
    assert claimed(notebook) == {"one is less than two": True, "two is less than one": False}
    with pytest.raises(RuntimeError):
        claim("all of them", torch.tensor([True, True]))
