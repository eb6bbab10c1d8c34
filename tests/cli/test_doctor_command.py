"""The command that diagnoses: a table for people, a record for programs, and named mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from mpkit.cli.main import main
from mpkit.data import load
from mpkit.masking import Effort, Evidence, Report, Verdict, Weight
from mpkit.models import small_cnn
from mpkit.training import Natural, Recipe, fit

FACTORY = """
from mpbook.teaching import obfuscated
from mpkit import models
def hidden(shape, classes, rng):
    return obfuscated.Detached(models.small_cnn(shape, classes, rng))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "cnn.safetensors"
    learn, rng = load("digits"), torch.Generator().manual_seed(0)
    model = small_cnn(learn.shape, 10, rng)
    fit(model, learn, Natural(), Recipe(epochs=3), rng)
    save_file(model.state_dict(), path)
    inside = {f"network.{name}": tensor for name, tensor in model.state_dict().items()}
    save_file(inside, path.with_name("hidden.safetensors"))
    return path


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor of the command tries for a shorter time; how well it finds is tested elsewhere."""
    effort = Effort(steps=12, queries=80, estimates=8, directions=20, draws=4, decisions=4)
    monkeypatch.setattr("mpkit.masking.doctor.Effort", lambda: effort)


def doctor(*words: object) -> Result:
    return CliRunner().invoke(main, ["doctor", *map(str, words)])


def test_an_honest_network(weights: Path) -> None:
    words = ("--model", "small_cnn", "--weights", weights, "--points", 20, "--threat", "l2:0.3")
    done = doctor(*words)
    assert done.exit_code == 0, done.output
    assert "No sign of masking" in done.stdout
    assert doctor(*words).stdout == done.stdout


def test_the_help_is_enough_for_a_newcomer() -> None:
    told = doctor("--help").output
    words = ("no sign", "suspicious", "masked", "pip install foolbox", "Examples:", "factory")
    assert all(word in told for word in words)


def test_a_network_that_hides_and_a_record_of_it(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hiding_nets.py").write_text(FACTORY)
    path = weights.with_name("hidden.safetensors")
    words = ("--model", "hiding_nets:hidden", "--weights", path, "--points", 24)
    done = doctor(*words, "--threat", "linf:0.15 + rt:0.5px,10deg", "--json", "out/report.json")
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[1] == "Likely cause"
    assert "masked" in done.output
    assert "Advice: " in done.output
    record = json.loads(Path("out/report.json").read_text())
    assert record["report"]["sets"]["linf"]["verdict"] == "masked"
    assert record["report"]["sets"]["rt"]["accuracy"].keys() == {"first-order", "everything"}
    assert record["parameters"]["threat"] == "linf:0.15 + rt:0.5px,10deg"
    for limit in ("suspicious", "masked"):
        failed = doctor(*words, "--threat", "linf:0.15", "--active", "--fail-on", limit)
        assert failed.exit_code == 3, failed.output
        assert "planted examples the attack finds" in failed.output
    assert doctor(*words, "--threat", "linf:0.15", "--active").exit_code == 0


def test_the_exit_code_is_that_of_the_verdict(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("--model", "small_cnn", "--weights", weights, "--threat", "l2:0.3", "--points", 12)
    codes = {}
    for verdict in Verdict:
        told = Report(12, 12, (Evidence("sign", "seen", Weight(max(0, verdict + 1))),), {})
        monkeypatch.setattr(Report, "verdict", verdict)
        monkeypatch.setattr("mpkit.masking.diagnose", lambda *_, told=told, **__: told)
        codes[verdict.words] = [
            doctor(*words, "--fail-on", limit).exit_code
            for limit in ("never", "suspicious", "masked")
        ]
    expected = {"no sign": [0, 0, 0], "suspicious": [0, 3, 0], "masked": [0, 3, 3]}
    assert codes == expected


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--threat", "l3:1"), "l3:1"),
        (("--data", "letters"), "letters"),
        (("--weights", "nowhere.safetensors"), "nowhere.safetensors"),
        (("--points", "5"), "at least 10"),
        (("--threat", "linf:-0.1"), "'linf:-0.1' has no radius"),
        (("--device", "gpu"), "gpu"),
        (("--model", "paper_mnist"), "does not fit the network"),
        (("--model", "no_such_nets:factory"), "cannot be imported"),
        (("--root", "/", "--data", "mnist"), "mpkit data mnist --download"),
    ],
)
def test_mistakes_are_named(weights: Path, words: tuple[str, ...], named: str) -> None:
    done = doctor("--model", "small_cnn", "--weights", weights, *words)
    assert done.exit_code == 1
    assert named in done.output
    assert "Traceback" not in done.output
