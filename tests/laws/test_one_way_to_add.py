"""A new ball and a new attack get everything from one file, a line in the face and a row."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from click.testing import CliRunner

from helpers import ROOT, every
from helpers.toys import generator
from mpbook import figures
from mpkit.cli.main import main
from mpkit.evaluation import evaluate, standard
from mpkit.masking import Effort, diagnose
from mpkit.models import small_cnn, write_weights
from mpkit.sets import Linf, parse_threat
from mpkit.sets.base import KNOWN


@pytest.fixture
def toy():
    """The toy kinds for one test; afterwards nobody knows of them."""
    kept = [dict(table) for table in (every.SETS, every.ATTACKS, KNOWN)]
    from helpers import toy_kinds

    KNOWN["fading"] = toy_kinds.Fading
    yield toy_kinds
    for table, was in zip((every.SETS, every.ATTACKS, KNOWN), kept, strict=True):
        table.clear()
        table.update(was)


@pytest.mark.slow
def test_the_laws_run_on_them_and_hold() -> None:
    words = [
        "-m",
        "pytest",
        "-p",
        "helpers.toy_kinds",
        "-p",
        "no:cacheprovider",
        "-v",
        "tests/laws",
    ]
    done = subprocess.run(
        [sys.executable, *words, "-k", "laws_of and (fading or one_step or l2)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'tests'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        },
    )
    assert done.returncode == 0, done.stdout[-3000:]
    laws = Counter[str]()
    for law, case in re.findall(r"::(\w+)\[(.+?)\] PASSED", done.stdout):
        laws[re.sub(r"-dtype\d|dtype\d-", "", case)] += 1
        assert law
    assert laws["fading"] == laws["l2"] >= 10  # as many as the l_2 ball
    assert laws["one_step"] >= laws["square l2"] - 1 >= 9  # the same but for a linear optimum


def test_they_have_suites_ledger_and_figures(toy) -> None:
    model, x, y = every.problem()
    threat = parse_threat("fading:0.3 + linf:0.1")
    assert threat.sets == (toy.Fading(0.3), Linf(0.1))
    suite = standard(threat, "quick", classes=4)
    mine = [entry.name for entry in suite if entry.name.endswith(" fading:0.3")]
    others = [entry.name for entry in suite if entry.name.endswith(" linf:0.1")]
    assert len(mine) == len(others) >= 7
    ledger = evaluate(model, x, y, [*suite, toy.OneStep(toy.Fading(0.3))], generator())
    assert ledger.sets == ("fading:0.3", "linf:0.1")
    assert ledger.names[-1] == "OneStep fading:0.3"
    assert ledger.accuracy("fading:0.3").value < ledger.accuracy("linf:0.1").value
    picture = figures.ledger_bars(ledger)
    assert any(
        "fading" in text.get_text()
        for text in picture.axes[0].get_yticklabels() + picture.axes[0].get_xticklabels()
    )


def test_the_doctor_examines_them(toy) -> None:
    rng = generator(1)
    model = small_cnn((1, 8, 8), 4, rng).double()
    x = torch.rand(40, 1, 8, 8, generator=rng, dtype=torch.float64)
    with torch.no_grad():
        y = model(x).argmax(1)
    effort = Effort(steps=8, queries=40, estimates=4, directions=8, draws=2, decisions=4)
    report = diagnose(model, x, y, toy.Fading(0.05), rng, effort)
    assert "fading" in report.sets and "under first-order attacks" in report.text()


def test_the_command_line_takes_them(toy, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = small_cnn((1, 8, 8), 10, generator())
    write_weights(tmp_path / "w.safetensors", model, "small_cnn", (1, 8, 8), 10)
    words = "evaluate --model small_cnn --weights w.safetensors --threat fading:0.1 --points 20"
    done = CliRunner().invoke(main, [*words.split(), "--budget", "quick", "--output", "out"])
    assert done.exit_code == 0, done.output
    assert "fading:0.1" in done.output and (tmp_path / "out" / "accuracy.png").is_file()


def test_nothing_else_knows_of_them() -> None:
    """One file for both, and no word of them in any other but this test."""
    done = subprocess.run(
        ["git", "-C", ROOT, "grep", "-lE", r"\b(Fading|OneStep)\b"], capture_output=True, text=True
    )
    if done.returncode > 1:
        pytest.skip("not a git checkout")
    assert set(done.stdout.split()) <= {
        "tests/helpers/toy_kinds.py",
        "tests/laws/test_one_way_to_add.py",
    }
