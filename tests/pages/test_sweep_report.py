"""What chapters declare reaches the table of a sweep, in every form; and shows nowhere else."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from helpers import ROOT
from mpbook.pages.chapters import Chapter, chapters
from mpbook.pages.sweep import Outcome, Point
from mpbook.pages.sweep_report import write_summary
from mpkit.core.records import DECLARED, declare, declared

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
