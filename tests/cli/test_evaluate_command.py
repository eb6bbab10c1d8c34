"""The command that evaluates: anybody's network, bad input named, a killed run that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import nn

from mpkit.cli.main import main
from mpkit.evaluation import Ledger
from mpkit.models import small_cnn

FACTORY = """
import torch
from torch import nn
def net(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
def zoned(classes):
    from mpkit.models import RankRule, RankZone
    return nn.Sequential(RankZone(RankRule(5)), net(classes))
def needy(width):
    return net(width)
def no_network():
    return 3
net_object = 4
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    name = f"nets_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    rng = torch.Generator().manual_seed(0)
    save_file(small_cnn((1, 8, 8), 10, rng).state_dict(), tmp_path / "cnn.safetensors")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    save_file(flat.state_dict(), tmp_path / "flat.safetensors")
    save_file(nn.Sequential(nn.Identity(), flat).state_dict(), tmp_path / "zoned.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "module").write_text(name)
    return tmp_path


def command(folder: Path, *words: str, model: str = "small_cnn", weights: str = "cnn") -> Result:
    spec = model.replace("nets:", (folder / "module").read_text() + ":")
    given = ["--model", spec, "--points", "20", "--batch", "10", "--budget", "quick"]
    given += ["--threat", "linf:0.1 + l1:1", *words]
    given += ["--weights", f"{weights}.safetensors"] if weights else []
    return CliRunner().invoke(main, ["evaluate", *given])


def test_a_network_of_ours(folder: Path) -> None:
    done = command(folder, "--output", "out")
    assert done.exit_code == 0, done.output
    record = json.loads((folder / "out" / "record.json").read_text())
    ledger = Ledger.load(folder / "out" / "ledger.safetensors")
    assert record["ledger"]["examples"] == len(ledger) == 20
    assert set(record["ledger"]["accuracy"]) == {"clean", "linf:0.1", "l1:1", "union", "average"}
    value, low, high = record["ledger"]["accuracy"]["union"]
    assert (value, low, high) == tuple(ledger.union_accuracy())
    assert f"{100 * value:.1f} %" in done.output
    assert (folder / "out" / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert record["parameters"]["threat"] == "linf:0.1 + l1:1"


def test_anybody_s_network_and_the_same_again(folder: Path) -> None:
    done = command(folder, "--output", "out", model="nets:net", weights="flat")
    assert done.exit_code == 0, done.output
    content = (folder / "out" / "ledger.safetensors").read_bytes()
    again = command(folder, "--output", "out", model="nets:net", weights="flat")
    assert again.exit_code == 0
    assert (folder / "out" / "ledger.safetensors").read_bytes() == content
    other = command(folder, "--output", "out", "--seed", "1", model="nets:net", weights="flat")
    assert other.exit_code == 1
    assert "holds another evaluation" in other.output


def test_a_zone_in_anybody_s_network_is_known(folder: Path) -> None:
    done = command(folder, "--output", "out", model="nets:zoned", weights="zoned")
    assert done.exit_code == 0, done.output
    names = Ledger.load(folder / "out" / "ledger.safetensors").names
    assert any(name.startswith("below-0 ") for name in names)


def test_a_pilot_tells_what_it_left_out(folder: Path) -> None:
    words = ("--pilot", "30", "--goal", "union", "--threat", "linf:1e-7")
    done = command(folder, "--output", "out", "--points", "60", "--batch", "30", *words)
    assert done.exit_code == 0, done.output
    ledger = Ledger.load(folder / "out" / "ledger.safetensors")
    assert (missed := ledger.left_out(30))
    assert f"left out after 30 images, of which they broke none: {missed}" in done.output
    record = json.loads((folder / "out" / "record.json").read_text())
    assert record["parameters"]["pilot"] == 30


BAD = {
    "pilot of shards": (
        {"words": ["--pilot", "10", "--shards", "2"]},
        "--pilot are of one process; leave out --shards",
    ),
    "threat": ({"words": ["--threat", "l5:1"]}, "'l5:1' cannot be read"),
    "model": ({"model": "vgg"}, "'vgg' is none of small_cnn, wide_cnn"),
    "module": ({"model": "not.there:net"}, "not.there:net cannot be imported"),
    "name": ({"model": "nets:other"}, "cannot be imported"),
    "no function": ({"model": "nets:net_object"}, "is a int, not a function"),
    "needs arguments": ({"model": "nets:needy"}, "every parameter but shape, classes and rng"),
    "no network": ({"model": "nets:no_network"}, "must return a torch.nn.Module"),
    "foreign weights": ({"weights": "flat"}, "; 0.mean is missing"),
    "other shape": (
        {"model": "nets:net", "weights": "cnn"},
        "1.weight is (16, 1, 3, 3), the network's is (10, 64)",
    ),
    "junk": ({"weights": "junk"}, "cannot be read as safetensors"),
    "missing": ({"weights": "nothing"}, "cannot be read as safetensors"),
    "no weights": ({"weights": ""}, "comes without weights"),
    "device": ({"words": ["--device", "tpu"]}, "use auto, cpu, cuda or cuda:1, got 'tpu'"),
    "data": ({"words": ["--data", "svhn"]}, "unknown data set 'svhn'"),
}


@pytest.mark.parametrize(("given", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_named_and_leaves_no_file(folder: Path, given, words: str) -> None:
    before = set(folder.iterdir())
    done = command(
        folder, *given.get("words", []), **{k: v for k, v in given.items() if k != "words"}
    )
    assert done.exit_code == 1, done.output
    assert words in done.output
    assert "Traceback" not in done.output
    assert {path for path in folder.iterdir() if path.name != "__pycache__"} <= before


def test_a_killed_run_goes_on_and_ends_bit_identical(folder: Path) -> None:
    code = "from mpkit.cli.main import main; main()"
    call = [sys.executable, "-c", code, "evaluate", "--model", "small_cnn"]
    call += ["--weights", "cnn.safetensors", "--points", "30", "--batch", "10", "--budget", "quick"]
    call += ["--threat", "linf:0.1 + l2:0.3", "--output"]
    file = folder / "cut" / "ledger.safetensors"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*call, "cut"], cwd=folder, env=environment, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert "units done" in Ledger.load(file).facts
    for name in ("cut", "whole"):
        subprocess.run([*call, name], cwd=folder, env=environment, check=True, capture_output=True)
    assert file.read_bytes() == (folder / "whole" / "ledger.safetensors").read_bytes()
