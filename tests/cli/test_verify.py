"""``mpkit verify``: a record is confirmed, or the command says what speaks against it."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpkit.cli.main import main
from mpkit.studies.zoo import SHIPPED

WEIGHTS = SHIPPED / "digits" / "digits-max" / "weights.safetensors"
OTHER = SHIPPED / "digits" / "digits-avg" / "weights.safetensors"


def told(*words: str | Path) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify") / "evaluation"
    options = "--budget quick --points 24 --threat linf:0.1+l1:0.5+rt:1px,10deg --witnesses".split()
    model = ("--model", "small_cnn", "--weights", WEIGHTS)
    done = told("evaluate", *model, *options, "--output", folder)
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def copy(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "copy"))


def test_a_record_is_confirmed(copy: Path) -> None:
    done = told("verify", copy, "--weights", WEIGHTS)
    assert done.exit_code == 0, done.output
    assert "confirmed: 24 images, no attack run" in done.output
    accuracy = json.loads((copy / "record.json").read_text())["ledger"]["accuracy"]
    for name in accuracy:
        assert name in done.output or name == "average"


def test_other_weights_and_none_are_refused(copy: Path) -> None:
    for given in ((), ("--weights", OTHER)):
        done = told("verify", copy, *given)
        assert done.exit_code == 1
        assert "weights.safetensors was evaluated, sha256 " in done.output


def test_another_file_of_witnesses_is_refused(copy: Path) -> None:
    file = copy / "witnesses.safetensors"
    content = bytearray(file.read_bytes())
    content[-10] ^= 1
    file.write_bytes(content)
    done = told("verify", copy, "--weights", WEIGHTS)
    assert done.exit_code == 1 and "is not the file that the record tells of" in done.output


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda r: r["parameters"].update(threat="linf:0.2+l1:0.5+rt:1px,10deg"),
            "not of linf:0.2",
        ),
        (lambda r: r["ledger"]["accuracy"]["linf:0.1"].__setitem__(0, 0.99), "the record 99.0 %"),
        (lambda r: r["parameters"].update(points=23), "other images or labels"),
        (lambda r: r.pop("witnesses"), "evaluate with --witnesses"),
    ],
)
def test_a_changed_record_is_not_confirmed(copy: Path, change, words: str) -> None:
    record = json.loads((copy / "record.json").read_text())
    change(record)
    (copy / "record.json").write_text(json.dumps(record))
    done = told("verify", copy, "--weights", WEIGHTS)
    assert done.exit_code == 1 and words in done.output, done.output


def test_witnesses_are_of_one_process(tmp_path: Path) -> None:
    options = ("--witnesses", "--shards", "2", "--output", tmp_path / "e")
    done = told("evaluate", "--model", "small_cnn", "--weights", WEIGHTS, *options)
    assert done.exit_code == 1 and "of one process" in done.output
