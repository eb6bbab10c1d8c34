"""A table is worked off piece by piece, and nothing is done twice or lost."""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from helpers import ROOT
from mpkit.cli.main import main
from mpkit.core.files import DataError, claimed, file_hash
from mpkit.core.progress import OutOfTime, Quiet
from mpkit.core.records import read_record, write_record
from mpkit.data import Crop, Flip, Images, load
from mpkit.evaluation import EDITION, Budget, suites
from mpkit.models import resnet
from mpkit.sets import L1, Linf, RotationTranslation, threat_model
from mpkit.studies import catalog, recipe_run, zoo
from mpkit.studies import study as module
from mpkit.studies.analysis import bits
from mpkit.studies.catalog import Plan, plan, rows_of
from mpkit.studies.protocol import Protocol, bits_as_text
from mpkit.studies.recipe_run import SHAPES, split, trained
from mpkit.studies.study import Job, Study, work_on
from mpkit.training import Checkpoints, Natural, Recipe


@contextmanager
def small():
    """An epoch on few digits for every recipe, and short attacks."""
    real = catalog.scale_of

    def tiny(data, scale):
        size = real(data, scale)
        short = replace(size.recipe, epochs=1, batch=8)
        return replace(size, recipe=short, tuning=short, steps=1, held_out=30, images=480)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalog, "scale_of", tiny)
        patch.setattr(recipe_run, "speed", lambda model, x: 1000.0)
        patch.setitem(suites.BUDGETS, "quick", Budget(4, 1, 4, 8, 1, (1, 3), 8))
        yield


def table(folder):
    """Natural, l_inf and its fine-tuning on digits."""
    rows = ("natural", "linf", "balanced")
    look = Protocol(points=12, budget="quick", batch=12, affine=False)
    return Study("digits", folder / "records", folder / "work", "cpu", 1, rows, look, "cpu")


@pytest.fixture
def study(tmp_path):
    """A small table of which nothing is done."""
    with small():
        yield table(tmp_path)


@pytest.fixture(scope="module")
def worked(tmp_path_factory):
    """The folder of a small table that is done, and what was said of it."""
    folder, said = tmp_path_factory.mktemp("table"), []
    with small():
        assert work_on(table(folder), quiet, tell=said.append) == 0
    return folder, said


@pytest.fixture
def done(study, worked, tmp_path):
    """A small table that is done."""
    shutil.copytree(worked[0], tmp_path, dirs_exist_ok=True)
    return study


def quiet(label):
    return Quiet()


def test_a_table_is_done_once(done, worked, monkeypatch):
    study, (_, said) = done, worked
    assert said[0] == "0 of 3 networks are there, 3 missing"
    assert said[1] == "digits-natural-seed0: no attack; training 0.0 M gradients, about 0.0 min"
    names = ["digits-balanced-seed0", "digits-linf-seed0", "digits-natural-seed0"]
    assert sorted(path.stem for path in study.folder.glob("*.json")) == names
    again = []
    real = module.do
    monkeypatch.setattr(module, "do", lambda *rest: again.append(rest[1].id) or real(*rest))
    assert work_on(study, quiet) == 0 and again == []
    study.record_of(Job("digits-linf", 0)).unlink()
    assert work_on(study, quiet) == 0 and again == ["digits-linf-seed0"]
    assert work_on(replace(study, seeds=2), quiet) == 0
    assert again[1:] == ["digits-natural-seed1", "digits-linf-seed1", "digits-balanced-seed1"]


def test_a_record_of_another_recipe_or_examination_is_not_taken(done):
    study, path = done, done.record_of(Job("digits-natural", 0))
    record = read_record(path)
    made = plan("digits-natural", (1, 8, 8))
    assert study.done(Job("digits-natural", 0), made)
    write_record(path, record | {"key": "0" * 64})
    assert not study.done(Job("digits-natural", 0), made)
    write_record(path, record)
    other = replace(study, protocol=replace(study.protocol, points=13))
    assert not other.done(Job("digits-natural", 0), made)


def test_a_record_tells_all(done):
    record = read_record(done.record_of(Job("digits-balanced", 0)))
    place = done.place(Job("digits-balanced", 0), plan("digits-balanced", (1, 8, 8)))
    assert record["weights"]["sha256"] == file_hash(place / "weights.safetensors")
    assert record["settings"]["start"] == "digits-linf" and record["seed"] == 0
    assert record["cost"]["gradients"] == 2 * 480 and len(record["history"]) == 1
    accuracy, seen = (record["evaluation"][key] for key in ("accuracy", "first_order"))
    assert accuracy["union norms"][0] <= min(accuracy[key][0] for key in ("linf", "l2", "l1"))
    assert all(accuracy[key][0] <= seen[key][0] for key in seen)
    assert set(record["pictures"]["said"]) == {"clean", "linf", "l2", "l1", "rt"}
    assert {"commit", "versions", "device", "duration_s", "parameters"} <= set(record)


def test_a_table_at_the_radii_of_the_paper_lacks_the_ball_that_it_has_not(study, monkeypatch):
    small = {"linf": Linf(0.1), "l1": L1(1), "rt": RotationTranslation(0.5, 10)}
    monkeypatch.setitem(threat_model.PAPER, "digits", small)
    look = replace(study.protocol, radii="paper", affine=True)
    paper = replace(study, rows=("max", "balanced", "linf"), protocol=look)
    assert work_on(paper, quiet) == 0
    record = read_record(paper.record_of(Job("digits-max", 0)))
    accuracy, standing = record["evaluation"]["accuracy"], record["evaluation"]["standing"]
    assert "l2" not in accuracy and {"linf", "l1", "rt", "affine norms", "union norms"} <= set(
        accuracy
    )
    both = [bits(standing[key]) for key in ("linf", "l1", "union norms")]
    assert torch.equal(both[0] & both[1], both[2])
    assert set(record["pictures"]["said"]) == {"clean", *small}
    assert "eps=0.1" in record["settings"]["scheme"] and "L2" not in record["settings"]["scheme"]
    assert work_on(replace(paper, protocol=replace(look, radii="common")), quiet, 0.0) == 3


def verified(*words):
    """What the command says of a record."""
    return CliRunner().invoke(main, ["verify", *map(str, words)])


def test_the_witnesses_of_a_record_confirm_it(done, tmp_path):
    job = Job("digits-linf", 0)
    path = done.record_of(job)
    weights = done.place(job, plan("digits-linf", (1, 8, 8))) / "weights.safetensors"
    said = verified(path, "--weights", weights)
    assert said.exit_code == 0 and "confirmed: 12 images" in said.output, said.output
    record = read_record(path)
    assert all(key in said.output for key in record["evaluation"]["accuracy"])
    other = done.place(Job("digits-natural", 0), plan("digits-natural", (1, 8, 8)))
    for extra in ((), ("--weights", other / "weights.safetensors")):
        assert f"sha256 {record['weights']['sha256']}" in verified(path, *extra).output
    better = record["evaluation"] | {"accuracy": dict(record["evaluation"]["accuracy"])}
    better["accuracy"]["union norms"] = [0.99, 0.9, 1.0]
    write_record(path, record | {"evaluation": better})
    said = verified(path, "--weights", weights)
    assert said.exit_code == 1 and "union norms: the witnesses give" in said.output
    file = module.witnesses_of(path)
    file.write_bytes(module.witnesses_of(done.record_of(Job("digits-natural", 0))).read_bytes())
    assert "is not the file that the record tells of" in verified(path, *extra).output
    file.unlink()
    assert "holds no witnesses" in verified(path, "--weights", weights).output


RESULTS = ROOT / "book" / "results"
RANKED = [
    path
    for folder in ("mnist", "threshold", "counting", "cifar10", "cifar10-paper")
    for path in sorted((RESULTS / folder).glob("*-seed*.json"))
    if module.witnesses_of(path).is_file()
]
IN_COLOUR = Protocol(points=500, budget="quick")


@pytest.mark.parametrize(
    ("folder", "protocol"),
    [
        ("mnist", Protocol()),
        ("threshold", Protocol(points=300)),
        ("counting", Protocol()),
        ("cifar10", IN_COLOUR),
        ("cifar10-paper", replace(IN_COLOUR, radii="paper")),
    ],
)
def test_every_committed_record_of_a_study_is_of_this_edition(folder, protocol):
    """The key of the common radii is that of records from before there was a choice."""
    paths = list((RESULTS / folder).glob("*-seed*.json"))
    assert paths
    assert {read_record(path)["examination"] for path in paths} == {protocol.key}


@pytest.mark.parametrize("path", RANKED, ids=lambda path: path.stem)
def test_every_number_of_a_committed_record_follows_from_its_witnesses(path):
    record = read_record(path)
    try:
        load(record["parameters"]["data"], "test")
    except (FileNotFoundError, DataError):
        pytest.skip("needs the real images: set MPKIT_DATA")
    if not (zoo.SHIPPED / f"{record['recipe']}.safetensors").is_file() or record["seed"]:
        pytest.skip("its weights do not come with the package")
    said = verified(path)
    assert said.exit_code == 0 and "confirmed: " in said.output, said.output


def test_the_networks_that_the_pages_rank_have_witnesses():
    for name in zoo.names():
        zone = {"0.3": "threshold", "rank20": "counting"}.get(name.partition("@")[2])
        folder = RESULTS / (zone or name.partition("-")[0])
        assert folder / f"{name}-seed0.json" in RANKED, name


def test_every_committed_evaluation_is_of_this_edition():
    folder = RESULTS / "cifar10"
    paths = [*(folder / "paper-radii").iterdir(), *(folder / "standard").iterdir()]
    assert {read_record(path)["parameters"]["edition"] for path in paths} == {EDITION}


@pytest.mark.parametrize("name", ["mnist", "cifar10", "digits"])
def test_a_table_trains_whatever_its_rows_go_on_from(name):
    rows = rows_of(name)
    plans = [plan(f"{name}-{row}", SHAPES[name]) for row in rows]
    assert len({made.key for made in plans}) == len(rows)
    assert {made.start for made in plans} <= {"", *(made.name for made in plans)}


def test_bits_are_packed_first_to_highest():
    assert bits_as_text(torch.tensor([True, False, True])) == {"count": 3, "bits": "oA=="}


def test_time_that_is_over_ends_the_work_and_what_was_done_counts(study):
    assert work_on(study, quiet, end=time.monotonic() - 1) == 3 and not study.folder.exists()
    bars = iter([Quiet(), Quiet(), Dies(0)])
    assert work_on(study, lambda label: next(bars)) == 2
    assert [path.stem for path in study.folder.glob("*.json")] == ["digits-natural-seed0"]
    (clock,) = study.work.glob("digits-linf-seed0-*/seconds.json")
    assert 0 < read_record(clock)["seconds"] < 1000
    write_record(clock, {"seconds": 1000.0})  # so long had the run that was stopped
    assert work_on(study, quiet) == 0
    durations = [read_record(path)["duration_s"] for path in study.folder.glob("*-seed0.json")]
    assert sum(duration >= 1000 for duration in durations) == 1


class Dies(Quiet):
    """Ends a run after so many reports."""

    def __init__(self, left: int) -> None:
        self.left = left

    def advance(self, steps: int, note: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise OutOfTime


@pytest.fixture
def careful(monkeypatch):
    """Checkpoints at every look at the losses."""
    monkeypatch.setattr(recipe_run, "Checkpoints", lambda folder, seconds: Checkpoints(folder, 0.0))


@pytest.mark.parametrize("after", [1, 2])
def test_training_that_was_interrupted_goes_on_to_the_same_bits(study, tmp_path, after, careful):
    made, images = plan("digits-linf", (1, 8, 8)), load("digits")
    whole = trained(made, images, 0, tmp_path / "whole", "cpu")
    with pytest.raises(OutOfTime):
        trained(made, images, 0, tmp_path / "parts", "cpu", Dies(after))
    newest = max((tmp_path / "parts").glob("step-*.safetensors"))
    assert newest.stem == f"step-{20 * (after + 1):08}"  # the last stretch counts, too
    again = trained(made, images, 0, tmp_path / "parts", "cpu")
    files = [tmp_path / name / "weights.safetensors" for name in ("whole", "parts")]
    assert file_hash(files[0]) == file_hash(files[1])
    pairs = zip(whole.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not list((tmp_path / "parts").glob("step-*"))


def test_normalization_over_the_batch_is_kept_through_a_stop_and_in_the_file(
    tmp_path, monkeypatch, careful
):
    """The large network's running means and step counts, here with few channels, in two steps."""
    monkeypatch.setattr(resnet, "WIDE", (4, 8))
    x = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = Images(x, torch.arange(12) % 2, ("a", "b"), "toy")
    recipe = Recipe(epochs=2, batch=8, augment=(Crop(1), Flip()))
    made = Plan("cifar10-natural", "preact_resnet18", Natural(), recipe, held_out=2, images=8)
    whole = trained(made, images, 0, tmp_path / "whole", "cpu")
    with pytest.raises(OutOfTime):
        trained(made, images, 0, tmp_path / "parts", "cpu", Dies(1))
    assert list((tmp_path / "parts").glob("step-*.safetensors"))
    again = trained(made, images, 0, tmp_path / "parts", "cpu")
    read = trained(made, images, 0, tmp_path / "parts", "cpu")
    states = [model.state_dict() for model in (whole, again, read)]
    assert all(torch.equal(states[0][k], state[k]) for state in states[1:] for k in states[0])
    assert {int(t) for k, t in states[0].items() if k.endswith("tracked")} == {2}
    assert read_record(tmp_path / "whole" / "training.json")["settings"]["images"] == 8


@given(st.integers(1, 40), st.integers(0, 39), st.booleans())
def test_held_out_images_are_never_trained_on(n, count, spread):
    images = Images(torch.arange(n).view(-1, 1, 1, 1) / n, torch.arange(n) % 2, ("a", "b"), "toy")
    made = Plan("x-natural", "small_cnn", Natural(), Recipe(), (), min(count, n - 1), spread=spread)
    seen, held = split(images, made)
    every = torch.cat([seen.x, held.x]) if made.held_out else held.x
    assert torch.equal(every.flatten().sort().values, images.x.flatten())
    gaps = (held.x.flatten() * n).round().diff()
    if made.held_out and spread:  # evenly, the first image among them
        assert held.x[0] == 0 and set(gaps.int().tolist()) <= {
            n // made.held_out,
            n // made.held_out + 1,
        }
    elif made.held_out:
        assert set(gaps.int().tolist()) <= {1} and held.x[-1] == images.x[-1]


def test_the_folder_of_another_run_is_refused(study, tmp_path):
    made, images = plan("digits-natural", (1, 8, 8)), load("digits")
    trained(made, images, 0, tmp_path / "run", "cpu")
    with pytest.raises(ValueError, match=r"holds another run, digits-natural with seed 0"):
        trained(made, images, 1, tmp_path / "run", "cpu")


def test_what_is_missing_is_said(study, tmp_path):
    images = load("digits")
    with pytest.raises(DataError, match=r"goes on from digits-linf.*train digits-linf"):
        trained(plan("digits-balanced", (1, 8, 8)), images, 0, tmp_path / "run", "cpu")
    with pytest.raises(ValueError, match=r"has 20 images, and the recipe holds 30"):
        trained(plan("digits-natural", (1, 8, 8)), images.first(20), 0, tmp_path / "few", "cpu")
    with pytest.raises(ValueError, match=r"seeds must be at least 1"):
        replace(study, seeds=0)


def test_a_claim_is_held_by_one(tmp_path):
    path = tmp_path / "job" / "claim"
    with claimed(path) as first, claimed(path) as second:
        assert (first, second) == (True, False)
    with claimed(path) as again:
        assert again


@pytest.mark.slow
def test_a_killed_command_is_continued_to_the_same_bits(tmp_path):
    code = (
        "from mpkit.studies import recipe_run\nfrom mpkit.training.checkpoints import Checkpoints\n"
        "recipe_run.Checkpoints = lambda folder, seconds: Checkpoints(folder, 0.2)\n"
        "from mpkit.cli.main import main\nmain()"
    )

    def start(folder):
        words = ["train", "digits-linf", "--device", "cpu", "--out", str(folder)]
        env = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", code, *words], env=env)

    process, deadline = start(tmp_path / "killed"), time.monotonic() + 120
    while not list((tmp_path / "killed").glob("step-*.safetensors")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    assert start(tmp_path / "killed").wait(240) == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trained(plan("digits-linf", (1, 8, 8)), load("digits"), 0, tmp_path / "whole", "cpu")
    torch.set_num_threads(threads)
    files = [tmp_path / name / "weights.safetensors" for name in ("killed", "whole")]
    assert file_hash(files[0]) == file_hash(files[1])
