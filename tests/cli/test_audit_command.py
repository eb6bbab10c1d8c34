"""``mpkit audit``: exit codes, the table, findings with their input, and the record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpkit.audit import OBSERVATIONS, VIOLATIONS
from mpkit.cli.audit import LIBRARIES
from mpkit.cli.main import main

MINE = """
import torch
from mpbook.teaching.faulty import attack, closed_form

right, long, told = attack(), attack("ball"), attack("clean errors")

def shapeless(model, x, y, task):
    return x.flatten()

def quitting(model, x, y, task):
    raise SystemExit(3)
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "audited_here.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def told(*words: str, norm: str = "linf") -> Result:
    given = ["audit", "--norm", norm, "--exact", "--seeds", "1", "--steps", "10", *words]
    return CliRunner().invoke(main, given)


def test_a_clean_attack_ends_with_0() -> None:
    done = told("--attack", "audited_here:right")
    assert done.exit_code == 0, done.output
    assert "1 attack: no violation, 0 observations" in done.output


def test_a_violation_ends_with_1_and_is_written_down(tmp_path: Path) -> None:
    file = tmp_path / "audit.json"
    done = told("--attack", "audited_here:long", "--output", str(file))
    assert done.exit_code == 1
    line = "own long (linf): violation ball: linf length 0.150015 for radius 0.15"
    assert line in done.output and "; on 1 image 1x2x2 (row " in done.output
    record = json.loads(file.read_text())
    assert record["checks"] == {"violations": VIOLATIONS, "observations": OBSERVATIONS}
    assert record["violations"] == 1 and record["commit"] and record["versions"]["torch"]
    (attack,) = record["attacks"]
    assert {"library", "attack", "norm", "findings", "measures", "seconds"} == set(attack)
    (finding,) = attack["findings"]
    assert finding["check"] == "ball" and finding["kind"] == "violation"
    assert finding["value"] == pytest.approx(1e-4, rel=0.05)
    assert len(finding["input"]["x"][0]) == 4 and finding["input"]["eps"] == 0.15
    assert (finding["shown"], finding["runs"]) == (4, 4)


def test_observations_end_with_0_unless_strict() -> None:
    assert told("--attack", "audited_here:told").exit_code == 0
    done = told("--attack", "audited_here:told", "--strict")
    assert done.exit_code == 1 and "observation clean errors: 1 of 1" in done.output


def test_an_attack_that_ends_the_process_is_a_finding() -> None:
    done = told("--attack", "audited_here:quitting")
    assert done.exit_code == 1 and "violation raises: SystemExit: 3" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--attack", "audited_here:shapeless"), "shapeless: returned (40,) for images"),
        (("--attack", "audited_here:none"), "write def none(model, x, y, task)"),
        (("--attack", "audited_here"), "is not package.module:function"),
        ((), "nothing to audit; give --library or --attack"),
        (("--library", "mpkit", "--only", "nosuch"), "fits --norm and --only"),
        (("--library", "nosuch"), "'nosuch' is not one of"),
        (("--attack", "audited_here:right", "--steps", "3"), "needs steps ≥ 10"),
    ],
)
def test_bad_input_ends_with_2(words: tuple[str, ...], message: str) -> None:
    done = told(*words)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())


def test_an_attack_of_ones_own_needs_its_norm() -> None:
    done = CliRunner().invoke(main, ["audit", "--attack", "audited_here:right"])
    assert done.exit_code == 2 and "give --norm too" in done.output


def test_a_library_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpkit.audit.libraries.installed", lambda library: False)
    done = told("--library", "cleverhans")
    assert done.exit_code == 2 and "pip install 'mpkit[compare]'" in done.output


def test_the_libraries_of_the_command_are_those_of_the_room() -> None:
    from mpkit.audit.libraries import PACKAGES

    assert list(LIBRARIES) == list(PACKAGES)
    done = CliRunner().invoke(main, ["audit", "--help"])
    assert "def pgd(model, x, y, task):" in done.output


def test_ours_by_the_command() -> None:
    done = told("--library", "mpkit", "--only", "PGD")
    assert done.exit_code == 0, done.output
    assert "3 attacks" in done.output or "4 attacks" in done.output
