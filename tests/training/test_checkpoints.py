"""An interrupted run goes on to the same bits, whatever happened to it or to its files."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import ROOT
from helpers.small_runs import SHORT, Explodes, linear, tiny, trained, weights
from helpers.training_job import job
from mpkit.core import files
from mpkit.core.progress import OutOfTime, Quiet
from mpkit.training import SGD, Checkpoints, Diverged, Natural, Recipe, checkpoints, data_parallel
from mpkit.training.checkpoints import DamagedCheckpoint
from mpkit.training.run import Run

JOB = ROOT / "tests" / "helpers" / "training_job.py"


def interrupted(tmp_path, after: int, recipe=SHORT):
    """Run until so many stretches are done, as if the process had died there."""

    class Dies(Quiet):
        left = after

        def advance(self, steps, note):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained(recipe, progress=Dies(), checkpoints=Checkpoints(tmp_path, seconds=0.0))


@settings(max_examples=12, deadline=None)
@given(
    after=st.integers(0, 5),
    recipe=st.sampled_from(
        [
            Recipe(epochs=3, batch=2, lr=0.1),
            Recipe(epochs=3, batch=2, lr=0.1, optimizer=SGD(), averaging=0.9, clip=0.5),
            Recipe(epochs=3, batch=2, lr=0.1, optimizer=SGD(momentum=0.0), shards=2),
        ]
    ),
)
def test_resuming_changes_no_bit(tmp_path_factory, after, recipe):
    folder = tmp_path_factory.mktemp("run")
    model, history = trained(recipe)
    interrupted(folder, after, recipe)
    again, its_history = trained(recipe, checkpoints=Checkpoints(folder))
    assert torch.equal(weights(again), weights(model)) and its_history == history
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["loss"] for line in lines] == [epoch.loss for epoch in history]


def test_a_finished_run_is_not_run_again(tmp_path):
    model, history = trained(SHORT, checkpoints=Checkpoints(tmp_path))
    again, its_history = trained(SHORT, Natural(), checkpoints=Checkpoints(tmp_path))
    assert torch.equal(weights(again), weights(model)) and its_history == history
    assert its_history[0].seconds == history[0].seconds


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-7]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x00"),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_suffix(".sha256").unlink(),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage):
    recipe = Recipe(epochs=3, batch=2, lr=0.1)
    interrupted(tmp_path, 4, recipe)
    store = Checkpoints(tmp_path)
    before, newest = store.paths()
    damage(newest)
    with pytest.warns(DamagedCheckpoint, match=newest.name):
        assert store.latest().facts["done"] == int(before.stem.removeprefix("step-"))
    with pytest.warns(DamagedCheckpoint):
        again, _ = trained(recipe, checkpoints=store)
    assert torch.equal(weights(again), weights(trained(recipe)[0]))


def test_a_full_disk_keeps_the_earlier_checkpoint(tmp_path, monkeypatch):
    recipe = Recipe(epochs=3, batch=2, lr=0.1)
    interrupted(tmp_path, 2, recipe)
    kept = Checkpoints(tmp_path).latest()
    real = files.write_atomically

    def full(path, write):
        def some_of_it(file):
            write(file)
            raise OSError(errno.ENOSPC, "No space left on device")

        real(path, some_of_it)

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    with pytest.raises(OSError, match=r"No space left on device.*so far are kept") as caught:
        trained(recipe, checkpoints=Checkpoints(tmp_path, seconds=0.0))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(checkpoints, "write_atomically", real)
    assert Checkpoints(tmp_path).latest().facts == kept.facts
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]
    again, _ = trained(recipe, checkpoints=Checkpoints(tmp_path))
    assert torch.equal(weights(again), weights(trained(recipe)[0]))


def test_a_file_that_ends_half_way_keeps_the_earlier_checkpoint(tmp_path):
    resource = pytest.importorskip("resource")
    recipe = Recipe(epochs=3, batch=2, lr=0.1)
    interrupted(tmp_path, 2, recipe)
    kept, newest = Checkpoints(tmp_path).latest(), Checkpoints(tmp_path).paths()[-1]
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (newest.stat().st_size // 2, usual[1]))
    try:
        with pytest.raises(OSError, match=r"not written .*so far are kept") as caught:
            trained(recipe, checkpoints=Checkpoints(tmp_path, seconds=0.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert caught.value.errno == errno.EFBIG
    assert Checkpoints(tmp_path).latest().facts == kept.facts
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]


def test_the_checkpoints_of_another_run_are_refused(tmp_path):
    trained(SHORT, checkpoints=Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"holds another run: recipe differ"):
        trained(replace(SHORT, lr=0.2), checkpoints=Checkpoints(tmp_path))
    with pytest.raises(ValueError, match=r"holds another run: seed differ"):
        trained(SHORT, seed=1, checkpoints=Checkpoints(tmp_path))


def test_only_the_newest_are_kept_and_their_hashes_are_the_usual_ones(tmp_path):
    trained(Recipe(epochs=3, batch=2), checkpoints=Checkpoints(tmp_path, seconds=0.0, keep=3))
    names = sorted(p.name for p in tmp_path.iterdir())
    assert len([n for n in names if n.endswith(".safetensors")]) == 3
    assert names[0] == "metrics.jsonl" and len(names) == 7
    line = (tmp_path / "step-00000072.sha256").read_text()
    assert line.split()[1] == "step-00000072.safetensors" and len(line.split()[0]) == 64


def test_every_process_looks_at_the_weights_not_only_the_one_that_keeps_them(monkeypatch):
    """One that stops by itself would leave the others waiting for its gradients."""
    run = Run(linear(), tiny(), Natural(), SHORT, 5)
    monkeypatch.setattr(data_parallel, "together", lambda: True)
    monkeypatch.setattr(data_parallel, "rank", lambda: 1)
    run.check(0, 1)
    with torch.no_grad():
        run.weights[0][0, 0] = torch.inf
    with pytest.raises(Diverged, match="a weight is not finite"):
        run.check(0, 1)


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(Diverged):
        trained(SHORT, Explodes(2), checkpoints=Checkpoints(tmp_path, seconds=0.0))
    saved = Checkpoints(tmp_path).latest()
    assert saved.facts["done"] == 6
    assert all(t.isfinite().all() for t in saved.tensors.values())


def test_what_was_done_when_the_time_is_over_is_kept(tmp_path):
    class Over(Quiet):
        def advance(self, steps, note):
            raise OutOfTime

    keep = Checkpoints(tmp_path, seconds=1e9)
    for commands in (1, 2):  # as many as it takes, each as short as this
        with pytest.raises(OutOfTime):
            trained(SHORT, checkpoints=keep, progress=Over())
        assert keep.latest().facts["done"] == 3 * commands
    model, history = trained(SHORT, checkpoints=keep)
    whole, its_history = trained(SHORT)
    assert torch.equal(weights(model), weights(whole)) and len(history) == len(its_history)


# --- other processes


def start(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_killed_process_is_continued_to_the_same_bits(tmp_path):
    folder, result = tmp_path / "run", tmp_path / "result.pt"
    words = (str(JOB), str(folder), str(result), "small_cnn")
    process = start(*words)
    deadline = time.monotonic() + 120
    while len(list(folder.glob("step-*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not result.exists()
    done = Checkpoints(folder).latest().facts["done"]
    assert 0 < done < 100
    output, _ = (second := start(*words)).communicate(timeout=120)
    assert second.returncode == 0, output
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole, _ = job(None)
    torch.set_num_threads(threads)
    resumed, *_ = torch.load(result, weights_only=True)
    assert all(torch.equal(resumed[name], t) for name, t in whole.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("network", ["small_cnn", "normalized"])
def test_two_processes_equal_one_up_to_rounding(tmp_path, network):
    result = tmp_path / "result.pt"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start(*torchrun, str(JOB), str(tmp_path / "run"), str(result), network)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    model, history = job(None, network)
    together, world, robust = torch.load(result, weights_only=True)
    assert world == 2
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-9, atol=1e-11)
    assert robust == history[-1].robust
