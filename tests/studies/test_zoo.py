"""Networks that come with the package: the right files, or a clear word."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from helpers import ROOT
from mpkit import data
from mpkit.core import processor
from mpkit.core.files import DataError, file_hash
from mpkit.core.records import read_record, write_record
from mpkit.models import read_weights, small_cnn, write_weights
from mpkit.models.weights import rounded_to_half
from mpkit.studies import zoo
from mpkit.studies.recipe_run import SHAPES


@pytest.fixture
def network():
    return rounded_to_half(small_cnn((1, 8, 8), 10, torch.Generator().manual_seed(3)))


@pytest.fixture
def shelf(tmp_path, network, monkeypatch):
    """A zoo of one network."""
    weights = tmp_path / "run" / "weights.safetensors"
    sha256 = write_weights(weights, network, "small_cnn", (1, 8, 8), 10)
    record = {
        "recipe": "digits-max",
        "about": "worst of three",
        "seed": 0,
        "settings": {},
        "parameters": {"data": "digits"},
        "cost": {"gradients": 1},
        "evaluation": {"accuracy": {"clean": [1.0, 0.9, 1.0]}, "budget": "quick", "points": 9},
        "commit": "0123456789",
        "commit_date": "2026-01-01",
        "weights": {"sha256": sha256},
    }
    write_record(tmp_path / "record.json", record)
    monkeypatch.setattr(zoo, "SHIPPED", tmp_path / "zoo")
    zoo.ship(tmp_path / "record.json", weights, tmp_path / "zoo")
    return tmp_path / "zoo"


def test_a_network_comes_back_to_the_bit(shelf, network):
    assert zoo.names() == ["digits-max"]
    loaded = zoo.load("digits-max")
    assert not loaded.training
    pairs = zip(network.state_dict().values(), loaded.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert zoo.card("digits-max").accuracy["clean"] == [1.0, 0.9, 1.0]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-5], lambda b: b[:-1] + b"\x07", lambda b: b"", lambda b: b + b"\x00"]
)
def test_a_damaged_file_is_refused_with_its_hash(shelf, damage):
    path = shelf / "digits-max.safetensors"
    good = file_hash(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"sha256 is {file_hash(path)}, expected {good}"):
        zoo.load("digits-max")
    path.unlink()
    with pytest.raises(DataError, match=r"digits-max.safetensors: no such file"):
        zoo.load("digits-max")


def test_an_unknown_name_lists_the_others(shelf):
    with pytest.raises(ValueError, match=r"no network 'mnist-best'; there are digits-max"):
        zoo.load("mnist-best")


def test_only_the_weights_of_the_record_are_shipped(shelf, tmp_path, network):
    other = tmp_path / "other.safetensors"
    write_weights(other, torch.nn.Linear(2, 2), "small_cnn", (1, 8, 8), 10)
    with pytest.raises(DataError, match=r"damaged or foreign"):
        zoo.ship(tmp_path / "record.json", other, shelf)


def test_foreign_files_are_no_networks(tmp_path, network):
    path = tmp_path / "x.safetensors"
    path.write_bytes(b"not a network")
    with pytest.raises(DataError, match=r"is no network that can be read"):
        read_weights(path)
    write_weights(path, network, "small_cnn", (1, 16, 16), 10)
    with pytest.raises(DataError, match=r"is no network that can be read"):
        read_weights(path)


def test_what_comes_with_the_package_is_whole_and_small():
    names = [path.stem for path in zoo.SHIPPED.glob("*.json")]
    for name in names:
        assert zoo.load(name)(torch.rand(2, *SHAPES[zoo.card(name).data])).shape == (2, 10)
        assert {"clean", "union norms"} <= set(zoo.card(name).accuracy)
    files = list(zoo.SHIPPED.iterdir()) if names else []
    assert sum(path.stat().st_size for path in files) < 20e6


def test_the_digits_networks_of_the_book_come_with_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    test = data.load("digits", "test").to("cpu", torch.float64)
    folders = list((zoo.SHIPPED / "digits").iterdir())
    assert len(folders) == 10
    for folder in folders:
        network = zoo.digits(folder.name.removeprefix("digits-"))
        assert (network(test.x).argmax(1) == test.y).double().mean() > 0.9
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not processor.settings({}), reason="equal bits are promised with AVX2 only")
def test_a_network_that_comes_with_the_package_is_what_its_recipe_makes():
    """It draws among the searches in all three balls."""
    command = [sys.executable, "-m", "benchmarks.training.digits", "random"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr}: run benchmarks.training.digits --keep"
    )
    assert done.stdout.split() == ["digits-random", "the", "same"]


def test_digits_are_trained_once_and_again_when_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = zoo.digits("natural", 1)
    assert next(first.parameters()).dtype == torch.float64
    (path,) = tmp_path.rglob("weights.safetensors")
    made, record = file_hash(path), read_record(path.with_name("training.json"))
    again = zoo.digits("natural", 1)
    pairs = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    path.write_bytes(path.read_bytes()[:-3])
    zoo.digits("natural", 1)
    assert file_hash(path) == made == record["weights"]["sha256"]


def test_networks_of_another_code_or_arithmetic_are_others(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folders = []
    monkeypatch.setattr(zoo, "trained", lambda *words, **_: folders.append(words[3]))
    for _ in range(2):
        zoo.digits("natural", 1)
    monkeypatch.setenv("MKL_CBWR", "some other")
    zoo.digits("natural", 1)
    monkeypatch.setattr(zoo, "source_texts", list)
    zoo.digits("natural", 1)
    assert folders[0] == folders[1] and len(set(folders)) == 3


def test_workers_that_want_the_same_network_wait_for_one_training(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    working, most = [], []

    def train(*words, **options):
        working.append(1)
        most.append(len(working))
        time.sleep(0.2)
        working.pop()

    monkeypatch.setattr(zoo, "trained", train)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(zoo.digits, ["natural"] * 3, [1] * 3))
    assert most == [1, 1, 1]
