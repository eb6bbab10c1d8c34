"""The loop: decided by its arguments, resumable to the last bit, honest about what goes wrong."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, fields, replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from training_job import job

from mpkit import checkpoints as checkpoints_module
from mpkit.data import Images, load
from mpkit.loop import Run, generator
from mpkit.models import small_cnn
from mpkit.recipes import SGD, Adam, Constant, Cosine, Steps, Triangle, fingerprint
from mpkit.schemes import Natural, Scheme
from mpkit.train import (
    Bar,
    Checkpoints,
    DamagedCheckpoint,
    Diverged,
    Quiet,
    Recipe,
    Validation,
    accuracy,
    fit,
)

JOB = Path(__file__).with_name("training_job.py")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def tiny(n=48, seed=0) -> Images:
    x = torch.rand(n, 1, 4, 4, generator=rng(seed), dtype=torch.float64)
    return Images(x, (x.mean(dim=(1, 2, 3)) > 0.5).long(), ("dark", "bright"), "tiny")


def linear(seed=0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.rand(p.shape, generator=rng(seed), dtype=torch.float64) - 0.5)
    return model


def trained(recipe, scheme=Natural(), seed=0, **more):  # noqa: B008
    model = linear()
    history = fit(model, tiny(), scheme, recipe, rng(seed), **more)
    return model, history


SHORT = Recipe(epochs=3, batch=16, lr=0.1)


# --- the loop


def test_one_step_of_sgd_is_the_formula():
    recipe = Recipe(epochs=1, batch=48, lr=0.5, optimizer=SGD(0.0, 0.0), schedule=Constant())
    model, history = trained(recipe)
    by_hand = linear()
    loss = nn.functional.cross_entropy(by_hand(tiny().x), tiny().y)
    loss.backward()
    expected = torch.cat([(p - 0.5 * p.grad).detach().flatten() for p in by_hand.parameters()])
    torch.testing.assert_close(weights(model), expected, rtol=1e-13, atol=1e-15)
    assert history[0].loss == pytest.approx(loss.item(), rel=1e-13)
    assert history[0].lr == 0.5 and not model.training


def test_the_generator_decides_everything_and_nothing_global_does():
    first, second, other = (weights(trained(SHORT, seed=s)[0]) for s in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)
    model, state = linear(), torch.random.get_rng_state()
    fit(model, tiny(), Natural(), SHORT, rng())
    assert torch.equal(weights(model), first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_every_image_is_seen_once_an_epoch():
    seen = []

    class Watch(Scheme):
        def __call__(self, model, x, y, rng):
            seen.append(x.flatten(1).sum(dim=1))
            return Natural()(model, x, y, rng)

    trained(Recipe(epochs=2, batch=16), Watch())
    sums = tiny().x.flatten(1).sum(dim=1).sort().values
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert torch.equal(first.sort().values, sums) and torch.equal(second.sort().values, sums)
    assert not torch.equal(first, second)  # in a new order


def test_shards_add_up_to_the_whole_batch():
    whole, parts = (weights(trained(replace(SHORT, shards=n))[0]) for n in (1, 4))
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-14)


def test_clipping_bounds_the_step():
    recipe = Recipe(
        epochs=1, batch=48, lr=1.0, optimizer=SGD(0.0, 0.0), schedule=Constant(), clip=1e-3
    )
    moved = weights(trained(recipe)[0]) - weights(linear())
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_averaging_gives_a_mean_of_the_weights_on_the_way():
    recipe = Recipe(epochs=1, batch=24, lr=0.5, optimizer=SGD(0.0, 0.0), schedule=Constant())
    run = Run(linear(), tiny(), Natural(), recipe, 5)
    order = run._rows(0)
    path = [weights(run.model)]
    for step in range(2):
        run._step(Natural(), 0, step, order[step])
        path.append(weights(run.model))
    averaged = Run(linear(), tiny(), Natural(), replace(recipe, averaging=0.9), 5)
    averaged.stretch({})
    averaged.swap()
    first = 0.1 * path[0] + 0.9 * path[1]  # the decay is 1/10 at step 0 and 2/11 at step 1
    torch.testing.assert_close(weights(averaged.model), 2 / 11 * first + 9 / 11 * path[2])


def test_mixed_precision_and_channels_last_stay_near_the_exact_run():
    images = load("digits").first(320)
    results = []
    for recipe in (
        Recipe(epochs=2, batch=32),
        Recipe(epochs=2, batch=32, compute=torch.bfloat16, layout=torch.channels_last),
    ):
        model = small_cnn(images.shape, 10, rng())
        history = fit(model, images, Natural(), recipe, rng())
        assert weights(model).dtype == torch.float32
        results.append(history[-1].loss)
    assert results[0] != results[1] and abs(results[0] - results[1]) < 0.05 * results[0]


def test_digits_are_learned_in_seconds():
    train, test = (load("digits", split).to(dtype=torch.float64) for split in ("train", "test"))
    model = small_cnn(train.shape, 10, rng()).double()
    fit(model, train, Natural(), Recipe(epochs=10), rng())
    assert accuracy(model, test) >= 0.97


def test_progress_is_told_and_closed():
    told = []

    class Note(Quiet):
        def start(self, total, done):
            told.append((total, done))

        def advance(self, steps, note):
            told.append(steps)

        def close(self):
            told.append("closed")

    trained(Recipe(epochs=2, batch=2), progress=Note())
    assert told == [(48, 0), 20, 4, 20, 4, "closed"]


def test_a_bar_shows_loss_and_time_left():
    file = StringIO()
    trained(Recipe(epochs=2, batch=2), progress=Bar("digits", file))
    assert "digits" in file.getvalue() and "loss" in file.getvalue()


# --- what goes wrong


@dataclass(frozen=True)
class Explodes(Scheme):
    """Natural until an epoch begins, infinite from then on."""

    epoch: int
    factor: float = 1.0

    def at(self, epoch, robust):
        return replace(self, factor=float("inf")) if epoch >= self.epoch else self

    def __call__(self, model, x, y, rng):
        return Natural()(model, x, y, rng) * self.factor


def test_divergence_stops_with_epoch_step_and_remedy():
    with pytest.raises(Diverged, match=r"inf in epoch 2, step 1 of 3; lower lr .* or set clip"):
        trained(SHORT, Explodes(1))


def test_weights_that_are_not_finite_are_never_kept():
    model = linear()
    run = Run(model, tiny(), Natural(), SHORT, 0)
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    with pytest.raises(Diverged, match="a weight is not finite"):
        run.tensors()


def test_outputs_must_fit_the_classes():
    images = replace(tiny(), classes=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"2 outputs, but tiny has 3 classes.*classes=3"):
        fit(linear(), images, Natural(), SHORT, rng())


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"lr": 0.0}, "lr must be positive and finite"),
        ({"lr": float("nan")}, "lr must be positive and finite"),
        ({"clip": 0.0}, "clip must be positive, or None"),
        ({"averaging": 1.0}, r"averaging must be in \[0, 1\)"),
        ({"shards": 3}, "shards must be a divisor of the batch, 64"),
    ],
)
def test_recipes_refuse_numbers_out_of_range(change, rule):
    with pytest.raises(ValueError, match=rule):
        Recipe(**change)


def test_more_shards_than_images():
    with pytest.raises(ValueError, match="64 shards need as many images, got 48"):
        trained(Recipe(batch=64, shards=64))


# --- recipes


def test_schedules_are_what_they_say():
    assert [Steps((0.5, 0.75), 0.1).factor(t) for t in (0, 0.49, 0.5, 0.8)] == pytest.approx(
        [1, 1, 0.1, 0.01]
    )
    assert [Triangle(0.2).factor(t) for t in (0.0, 0.1, 0.2, 0.6)] == pytest.approx(
        [0, 0.5, 1, 0.5]
    )
    assert Triangle(0.0).factor(0.0) == 1
    assert [Cosine().factor(t) for t in (0.0, 0.5)] == pytest.approx([1, 0.5])
    with pytest.raises(ValueError, match="peak"):
        Triangle(1.0)


positive = st.floats(1e-6, 10)
recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 3),
    batch=st.sampled_from([4, 8]),
    lr=st.sampled_from([1, 1.0, 0.1]) | positive,
    optimizer=st.sampled_from([Adam(), Adam(weight_decay=0.1), SGD(), SGD(nesterov=False)]),
    schedule=st.sampled_from([Constant(), Cosine(), Steps(), Steps((0.5, 0.6)), Triangle()]),
    clip=st.none() | positive,
    averaging=st.none() | st.floats(0, 0.9),
    shards=st.sampled_from([1, 2]),
    compute=st.sampled_from([None, torch.bfloat16]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)


@given(a=recipes, b=recipes)
def test_fingerprints_are_equal_exactly_where_recipes_are(a, b):
    assert (fingerprint(a) == fingerprint(b)) == (a == b)
    assert fingerprint(a) == fingerprint(replace(a))


@given(recipe=recipes, name=st.sampled_from([f.name for f in fields(Recipe)]), other=recipes)
def test_changing_any_field_changes_the_fingerprint(recipe, name, other):
    try:
        changed = replace(recipe, **{name: getattr(other, name)})
    except ValueError:
        return
    if getattr(recipe, name) != getattr(other, name):
        assert fingerprint(changed) != fingerprint(recipe)


def test_fingerprints_stay_the_same_from_release_to_release():
    recipe = Recipe(epochs=2, batch=8, lr=0.25, shards=2)
    assert fingerprint(recipe)[:16] == "5e8aee810240a91e"
    assert fingerprint(torch.arange(3.0)) != fingerprint(torch.arange(3.0).double())
    assert fingerprint(torch.zeros(2, 3)) != fingerprint(torch.zeros(3, 2))
    assert fingerprint(1) != fingerprint("1") != fingerprint([1])
    with pytest.raises(TypeError, match="no form for object"):
        fingerprint(object())


def test_positions_have_random_numbers_of_their_own():
    draws = {
        torch.rand((), generator=generator("cpu", *key), dtype=torch.float64).item()
        for key in [(0, 0), (0, 1), (1, 0), (0, 0, 0, 1), (0, 0, 1, 0), (2**61, 0)]
    }
    assert len(draws) == 6


# --- validation


def test_validation_measures_when_due_and_always_at_the_end():
    watch = Validation(tiny(seed=1), {}, every=2)
    model, history = trained(replace(SHORT, epochs=3), validation=watch)
    assert [bool(epoch.robust) for epoch in history] == [False, True, True]
    assert history[-1].robust["clean"] == accuracy(model, watch.images)
    assert history[-1].robust["union"] == history[-1].robust["clean"]


def test_validation_sees_the_averaged_weights_and_leaves_the_others():
    recipe = replace(SHORT, averaging=0.9)
    watch = Validation(tiny(seed=1), {})
    model, history = trained(recipe, validation=watch)
    assert torch.equal(weights(model), weights(trained(recipe)[0]))
    assert history[-1].robust["clean"] == accuracy(model, watch.images)


# --- checkpoints


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
    real = checkpoints_module.write_atomically

    def full(path, write):
        def some_of_it(file):
            write(file)
            raise OSError(errno.ENOSPC, "No space left on device")

        real(path, some_of_it)

    monkeypatch.setattr(checkpoints_module, "write_atomically", full)
    with pytest.raises(OSError, match=r"No space left on device.*so far are kept") as caught:
        trained(recipe, checkpoints=Checkpoints(tmp_path, seconds=0.0))
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(checkpoints_module, "write_atomically", real)
    assert Checkpoints(tmp_path).latest().facts == kept.facts
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".part"]
    again, _ = trained(recipe, checkpoints=Checkpoints(tmp_path))
    assert torch.equal(weights(again), weights(trained(recipe)[0]))


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


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(Diverged):
        trained(SHORT, Explodes(2), checkpoints=Checkpoints(tmp_path, seconds=0.0))
    saved = Checkpoints(tmp_path).latest()
    assert saved.facts["done"] == 6
    assert all(t.isfinite().all() for t in saved.tensors.values())


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
    process = start(str(JOB), str(folder), str(result))
    deadline = time.monotonic() + 120
    while len(list(folder.glob("step-*.safetensors"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not result.exists()
    done = Checkpoints(folder).latest().facts["done"]
    assert 0 < done < 100
    output, _ = (second := start(str(JOB), str(folder), str(result))).communicate(timeout=120)
    assert second.returncode == 0, output
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole, _ = job(None)
    torch.set_num_threads(threads)
    resumed, *_ = torch.load(result, weights_only=True)
    assert all(torch.equal(resumed[name], t) for name, t in whole.state_dict().items())


@pytest.mark.slow
def test_two_processes_equal_one_up_to_rounding(tmp_path):
    result = tmp_path / "result.pt"
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = start(*torchrun, str(JOB), str(tmp_path / "run"), str(result))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    model, history = job(None)
    together, world, robust = torch.load(result, weights_only=True)
    assert world == 2
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(together[name], tensor, rtol=1e-9, atol=1e-11)
    assert robust == history[-1].robust
