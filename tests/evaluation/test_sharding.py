"""Evaluation in shards: the same ledger bit for bit, lost workers, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from helpers.clusters import scheduler, worker
from mpkit.cli.main import main
from mpkit.core import workers
from mpkit.core.progress import Quiet
from mpkit.data import load
from mpkit.evaluation import EachSet, merged, standard
from mpkit.evaluation.sharding import Request, cut, evaluate_here, evaluate_shard
from mpkit.models import small_cnn
from mpkit.sets import parse_threat

WORDS = ["evaluate", "--budget", "quick", "--points", "30", "--batch", "10"]
WORDS += ["--threat", "linf:0.1 + l1:1", "--weights", "w.safetensors"]
MORTAL = """
import os, signal
from pathlib import Path
from mpkit.models import small_cnn
def net(shape, classes, rng):
    try:
        from distributed import get_worker
        get_worker()
    except (ImportError, ValueError):
        return small_cnn(shape, classes, rng)
    try:
        Path("killed").touch(exist_ok=False)
    except FileExistsError:
        return small_cnn(shape, classes, rng)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    net = small_cnn((1, 8, 8), 10, torch.Generator().manual_seed(0))
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    (tmp_path / "mortal.py").write_text(MORTAL)
    return tmp_path


def evaluate(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "mpkit", *WORDS, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The same in this process, and with less patience."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(workers, "PATIENCE", 2.0)
    return lambda *words: CliRunner().invoke(main, [*WORDS, *words])


@given(st.integers(1, 500), st.integers(1, 100), st.data())
def test_shards_are_whole_batches_and_all_examples_once(examples, batch, data) -> None:
    batches = -(-examples // batch)
    shards = data.draw(st.one_of(st.none(), st.integers(1, batches)))
    pieces = cut(examples, batch, shards)
    assert [i for piece in pieces for i in range(examples)[piece]] == list(range(examples))
    assert all(piece.start % batch == 0 and piece.start < piece.stop for piece in pieces)
    sizes = [-(-(piece.stop - piece.start) // batch) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1
    assert len(pieces) == (shards or batches)
    with pytest.raises(ValueError, match=f"give 1 to {batches} shards, got {batches + 1}"):
        cut(examples, batch, batches + 1)


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_merged_shards_are_the_ledger_bit_for_bit(folder: Path, shards: int) -> None:
    images = load("digits", "test").first(50)
    entries = standard(parse_threat("linf:0.1 + l2:0.5"), "quick")
    request = Request("small_cnn", images.shape, 10, entries, EachSet(), 20, 7, "cpu")
    here = evaluate_here(request, folder / "w.safetensors", images, folder / "out", Quiet()).ledger
    content = save(small_cnn((1, 8, 8), 10, torch.Generator().manual_seed(0)).state_dict())
    parts = [
        evaluate_shard(request, content, images.x[piece], images.y[piece], piece.start)
        for piece in cut(50, 20, shards)
    ]
    assert merged(parts) == here
    assert here.broken[1:].any()


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(folder: Path) -> None:
    whole = evaluate(folder, "--model", "mortal:net", "--output", "whole")
    assert whole.returncode == 0, whole.stderr
    words = ("--model", "mortal:net", "--output", "cut", "--shards", "3", "--workers", "2")
    done = evaluate(folder, *words)
    assert done.returncode == 0, done.stderr
    assert (folder / "killed").exists()
    assert "Traceback" not in done.stderr
    ledgers = [(folder / name / "ledger.safetensors").read_bytes() for name in ("whole", "cut")]
    assert ledgers[0] == ledgers[1]
    records = [json.loads((folder / name / "record.json").read_text()) for name in ("whole", "cut")]
    for record in records:
        record.pop("duration_s")
    assert records[0] == records[1]
    kept = sorted((folder / "cut" / "shards").iterdir())
    assert len(kept) == 3
    (folder / "cut" / "ledger.safetensors").unlink()
    kept[0].unlink()
    ages = [file.stat().st_mtime_ns for file in kept[1:]]
    assert evaluate(folder, *words).returncode == 0
    assert (folder / "cut" / "ledger.safetensors").read_bytes() == ledgers[0]
    assert [file.stat().st_mtime_ns for file in kept[1:]] == ages
    other = evaluate(folder, *words, "--seed", "1")
    assert other.returncode == 1
    assert "holds another evaluation" in other.stderr


def test_nobody_answers(folder: Path, here: Callable[..., Result]) -> None:
    begun = time.monotonic()
    done = here("--model", "small_cnn", "--scheduler", "tcp://127.0.0.1:9")
    assert done.exit_code == 1
    assert "no scheduler answers at tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - begun < 120
    assert not (folder / "evaluation").exists()


@pytest.mark.slow
def test_workers_that_would_give_other_results_are_refused(
    folder: Path, here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = folder / "other"
    (other / "numpy-0.1.dist-info").mkdir(parents=True)
    (other / "numpy-0.1.dist-info" / "METADATA").write_text("Name: numpy\nVersion: 0.1\n")
    with scheduler(folder) as address:
        words = ("--model", "small_cnn", "--scheduler", address)
        idle = here(*words)
        assert idle.exit_code == 1
        assert f"the scheduler at {address} has no workers" in idle.stderr
        monkeypatch.setattr(workers, "PATIENCE", 60.0)
        with worker(address, folder):
            gpu = here(*words, "--gpu")
            assert gpu.exit_code == 1
            assert "none of the 1 workers offers a GPU" in gpu.stderr
            fine = here(*words)
            assert fine.exit_code == 0, fine.stderr
        with worker(address, folder, path=other):
            mixed = here(*words, "--output", "mixed")
            assert mixed.exit_code == 1, mixed.stdout
            assert "numpy 0.1 there" in mixed.stderr
            assert "Traceback" not in mixed.stderr
    assert not (folder / "mixed").exists()


def test_without_dask_one_line_says_what_to_install(
    here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    done = here("--model", "small_cnn", "--shards", "2")
    assert done.exit_code == 1
    assert done.stderr.strip().splitlines()[-1].endswith("pip install 'mpkit[distributed]'")
    assert "Traceback" not in done.stderr
