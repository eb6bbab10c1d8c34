"""Sweeps with real processes: equal to serial runs, killed and gone on with, bad input refused."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from helpers.clusters import wait_for
from helpers.toybook import mpkit, start, toy_book
from mpbook.pages import chapters
from mpbook.pages.execution import execute
from mpbook.pages.sweep import points_of
from mpkit.cli.main import main
from mpkit.core.records import VOLATILE, declare, declared

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

DRAW = (
    "import random\n"
    "value = random.Random(seed).random() ** radius\n"
    "print(value, f'rounded {value:.4g}')"
)
TENSORS = (
    "import torch\n"
    "draw = torch.rand(999, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)\n"
    "value = float((draw @ draw) ** radius)\n"
    "print(value, f'rounded {value:.4g}')"
)
DECLARE = "from mpkit.core import records\nrecords.declare(value=value, kind=norm)"
COUNT = (
    "from pathlib import Path\n"
    "with Path('../ran.txt').open('a') as log:\n"
    "    log.write(f'{radius} {seed}\\n')"
)
FAIL = "assert radius < 0.7, 'the radius is too large'"
GRID = ("--grid", "radius=0.25,0.5", "--grid", "seed=1,2")
SEEDS = ("--grid", "seed=1,2,3")


def folder_of(root: Path) -> Path:
    (found,) = (root / "_build" / "sweeps").iterdir()
    return found


def settled(path: Path) -> dict[str, Any]:
    """A notebook without what may differ between two equal runs."""
    content = json.loads(path.read_text())
    for name in (*VOLATILE, "profile"):
        content["metadata"]["mpkit"].pop(name)
    return content


def serial(root: Path, words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The points of a grid one after the other in this process's children, without Dask."""
    chapter = chapters.chapter(root, "toy")
    grid = [(name, values.split(",")) for name, values in (word.split("=") for word in words[1::2])]
    points = points_of(chapter, {}, grid)
    done = [execute(chapter, point.parameters, root / "serial") for point in points]
    return {path.name: settled(path) for path in done}


def stored(root: Path) -> dict[str, dict[str, Any]]:
    return {path.name: settled(path) for path in (root / "_build/executed").glob("*.ipynb")}


def test_a_sweep_equals_serial_runs_and_is_not_done_twice(tmp_path: Path) -> None:
    root = toy_book(tmp_path, COUNT, TENSORS, DECLARE)
    done = mpkit(root, "sweep", "toy", *GRID, "--workers", "2", "--no-pages")
    assert done.returncode == 0, done.stderr
    assert "4 points: 4 done" in done.stdout
    ran = (root / "ran.txt").read_text()
    assert sorted(ran.splitlines()) == ["0.25 1", "0.25 2", "0.5 1", "0.5 2"]
    assert stored(root) == serial(root, GRID)
    (root / "ran.txt").write_text(ran)
    folder = folder_of(root)
    table = (folder / "table.csv").read_text()
    rows = list(csv.DictReader(table.splitlines()))
    assert [row["radius"] + " " + row["seed"] for row in rows] == sorted(ran.splitlines())
    points = json.loads((folder / "table.json").read_text())["points"]
    for row, point in zip(rows, points, strict=True):
        assert float(row["value"]) == point["results"]["value"]
        assert row["kind"] == point["record"]["parameters"]["norm"] == "linf"
        assert (folder / point["notebook"]).is_file()
    again = mpkit(root, "sweep", "toy", *GRID, "--no-pages")
    assert again.returncode == 0
    assert (root / "ran.txt").read_text() == ran
    assert (folder / "table.csv").read_text() == table


def test_the_summary_links_to_the_page_of_every_run(tmp_path: Path) -> None:
    root = toy_book(tmp_path, DRAW, DECLARE)
    words = ("sweep", "toy", "--grid", "norm=linf,l2", "--output", "mine", "-p")
    done = mpkit(root, *words, "radius=0.25", "--workers", "2")
    assert done.returncode == 0, done.stderr
    page = (root / "mine" / "pages" / "book" / "summary.html").read_text()
    points = json.loads((root / "mine" / "table.json").read_text())["points"]
    assert len(points) == 2
    for point in points:
        assert f'href="{Path(point["page"]).name}"' in page
        assert str(point["results"]["value"]) in (root / "mine" / point["page"]).read_text()
    runs = [(root / "mine" / point["page"]) for point in points]
    for run, other in (runs, runs[::-1]):
        body = run.read_text().partition("<article")[2].partition("</article>")[0]
        assert other.name not in body.partition('class="prev-next')[0]
    assert "book/summary.html" in (root / "mine" / "pages" / "index.html").read_text()
    assert not list((root / "mine").glob(".*-*"))
    other = mpkit(root, *words, "radius=0.5")
    assert other.returncode == 1
    assert "another folder" in other.stderr


def test_a_point_that_fails_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    root = toy_book(tmp_path, COUNT, DRAW, FAIL, DECLARE)
    words = ("--grid", "radius=0.5,0.8", "--workers", "2", "--no-pages")
    done = mpkit(root, "sweep", "toy", *words)
    assert done.returncode == 1
    assert "2 points: 1 done, 1 failed" in done.stdout
    assert "AssertionError: the radius is too large" in done.stdout
    assert "Traceback" not in done.stderr
    assert sorted((root / "ran.txt").read_text().splitlines()) == ["0.5 0", "0.8 0"]
    folder = folder_of(root)
    assert "the radius is too large" in (folder / "summary.md").read_text()
    (log,) = (folder / "logs").iterdir()
    assert "Traceback" in log.read_text()
    again = mpkit(root, "sweep", "toy", *words)
    assert again.returncode == 1
    assert (root / "ran.txt").read_text().count("0.5 0") == 1


KILL = (
    "import os, signal\n"
    "from pathlib import Path\n"
    "def parent(pid):\n"
    "    return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])\n"
    "mark = Path('../killed')\n"
    "if seed == 2 and not mark.exists():\n"
    "    mark.touch()\n"
    "    os.kill(parent(os.getppid()), signal.SIGKILL)\n"
    "    import time\n"
    "    time.sleep(60)"
)


def test_a_killed_worker_is_replaced_and_the_end_is_the_same(tmp_path: Path) -> None:
    root = toy_book(tmp_path, KILL, DRAW, DECLARE)
    done = mpkit(root, "sweep", "toy", *SEEDS, "--workers", "2", "--no-pages")
    assert done.returncode == 0, done.stderr
    assert (root / "killed").exists()
    assert stored(root) == serial(root, SEEDS)


GATE = (
    "import time\n"
    "from pathlib import Path\n"
    "while seed != 1 and not Path('../open').exists():\n"
    "    time.sleep(0.05)"
)


def below(pid: int) -> list[int]:
    """A process's children, theirs, and so on."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    own = [child for child, parent in pairs if parent == pid]
    return own + [deeper for child in own for deeper in below(child)]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_sweep_that_was_stopped_goes_on(tmp_path: Path, how: signal.Signals) -> None:
    root = toy_book(tmp_path, GATE, COUNT, DRAW, DECLARE)
    words = ("sweep", "toy", *SEEDS, "--workers", "2", "--no-pages")
    client = start(root, *words)
    wait_for(lambda: len(list((root / "_build").glob("executed/*.ipynb"))) >= 1)
    family = below(client.pid)
    os.kill(client.pid, how)
    _, told = client.communicate(timeout=60)
    wait_for(lambda: all(gone(pid) for pid in family))
    if how == signal.SIGINT:
        assert client.returncode == 130
        assert "Interrupted" in told
        assert "Traceback" not in told
    before = stored(root)
    assert len(before) == 1
    assert not list(root.glob("_build/**/*.part"))
    assert not (folder_of(root) / "summary.md").exists()
    (root / "open").touch()
    done = mpkit(root, *words)
    assert done.returncode == 0, done.stderr
    ran = (root / "ran.txt").read_text().splitlines()
    assert sorted(ran) == ["0.5 1", "0.5 2", "0.5 3"]
    assert stored(root) == serial(root, SEEDS)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nosuch", "--grid", "radius=0.1"], ["no chapter 'nosuch'"]),
        (["toy", "--grid", "raduis=0.1"], ["no parameter 'raduis'", "radius"]),
        (["toy", "--grid", "radius=0.1,7"], ["'radius'", "'7'", "(0, 1]"]),
        (["toy", "--grid", "radius=0.1,0.10"], ["radius has a value twice"]),
        (["toy", "--grid", "seed=1", "--grid", "seed=2"], ["seed twice"]),
        (["toy", "--grid", "seed=1", "-p", "seed=2"], ["-p both give seed"]),
        (["toy", "--grid", "seed=1", "-p", "norm=l2", "-p", "norm=l2"], ["norm twice"]),
        (["toy"], ["nothing to sweep"]),
        (["toy", "--grid", "radius=,"], ["nothing to sweep"]),
        (["toy", "--grid", "radius"], ["'radius' is not name=value"]),
        (["toy", "--grid", "device=cpu,cuda"], ["device cannot be swept"]),
        (["toy", "--grid", "seed=1", "-p", "device=cuda:99"], ["cuda:99"]),
        (["toy", "--grid", "seed=1", "--profile", "nosuch"], ["no profile 'nosuch'"]),
        (["toy", "--grid", "seed=1", "--scheduler", "here"], ["'here' is no address"]),
        (["toy", "--grid", "seed=1", "--scheduler", "tcp://a:1", "--workers", "2"], ["--workers"]),
        (["toy", "--grid", "seed=1", "--output", "book"], ["holds files"]),
    ],
)
def test_bad_requests_are_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: list[str]
) -> None:
    root = toy_book(tmp_path, COUNT)
    monkeypatch.chdir(root)
    done = CliRunner().invoke(main, ["sweep", *words])
    assert done.exit_code in (1, 2)
    assert all(word in done.stderr for word in told), done.stderr
    assert "Traceback" not in done.stderr
    assert not (root / "ran.txt").exists()


def test_results_are_plain_numbers() -> None:
    for bad in (float("nan"), torch.zeros(2), torch.tensor(torch.inf), None):
        with pytest.raises(ValueError, match=r"union is .*, expected a finite number"):
            declare(union=bad)
    assert declared({"cells": [{"cell_type": "markdown"}, {"outputs": [{"name": "stdout"}]}]}) == {}
