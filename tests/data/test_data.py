"""Images that are whole, or an error that names the file and what mends it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from mpkit.core.files import DataError, file_hash, write_atomically
from mpkit.data import Images, download, load, torchvision_sets, where

SHARED = os.environ.get("MPKIT_DATA", "")
needs_mnist = pytest.mark.skipif(
    not Path(SHARED, "MNIST", "raw").is_dir() or not SHARED, reason="MPKIT_DATA holds no MNIST"
)


def picture(path: Path, size=(6, 5), mode="L", value=51) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)
    return path


def folder(root: Path, count=10, **kind) -> Path:
    for name in ("ant", "bee"):
        for i in range(count):
            picture(root / name / f"{i}.png", **kind)
    return root


def images(n=4, **change) -> Images:
    parts = {
        "x": torch.linspace(0, 1, n * 12, dtype=torch.float64).view(n, 1, 3, 4),
        "y": torch.arange(n) % 2,
        "classes": ("a", "b"),
        "name": "toy",
    }
    return Images(**parts | change)


# --- Images


def test_first_keeps_the_order_and_takes_all_where_there_are_fewer():
    all_of_them = images(4)
    assert torch.equal(all_of_them.first(2).x, all_of_them.x[:2])
    assert len(all_of_them.first(9)) == 4


def test_subset_draws_without_repetition_from_its_generator_alone():
    whole = images(20)
    parts = [whole.subset(7, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    assert torch.equal(parts[0].x, parts[1].x)
    assert not torch.equal(parts[0].x, parts[2].x)
    assert len(parts[0].x.flatten(1).unique(dim=0)) == 7
    everything = whole.subset(99, torch.Generator().manual_seed(0))
    assert torch.equal(everything.x.flatten().sort().values, whole.x.flatten())


def test_balanced_takes_the_first_of_every_class_and_keeps_their_order():
    labels = torch.tensor([0, 0, 1, 0, 1, 1, 0])
    x = torch.arange(7.0).view(7, 1, 1, 1) / 10
    taken = Images(x, labels, ("a", "b"), "toy").balanced(4)
    assert taken.y.tolist() == [0, 0, 1, 1]
    assert (10 * taken.x).flatten().tolist() == [0, 1, 2, 4]
    some = load("digits").balanced(200)
    assert torch.bincount(some.y).tolist() == [20] * 10


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (5, "positive multiple of the 2 classes, got 5"),
        (0, "got 0"),
        (8, "fewer than 4 images of b"),
    ],
)
def test_balanced_says_what_cannot_be(n, said):
    toy = Images(torch.zeros(7, 1, 1, 1), torch.tensor([0] * 4 + [1] * 3), ("a", "b"), "toy")
    with pytest.raises(ValueError, match=said):
        toy.balanced(n)


def test_to_changes_type_and_keeps_labels():
    moved = images().to(dtype=torch.float32, device="cpu")
    assert moved.x.dtype == torch.float32 and moved.y.dtype == torch.int64
    assert repr(moved) == "Images(toy: 4 of shape (1, 3, 4), 2 classes, float32)"


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"x": torch.zeros(4, 3, 4)}, r"\(N, C, H, W\)"),
        ({"x": torch.zeros(4, 1, 3, 4, dtype=torch.uint8)}, "255"),
        ({"x": torch.full((4, 1, 3, 4), 1.5)}, r"\[0, 1\]"),
        ({"x": torch.full((4, 1, 3, 4), float("nan"))}, r"\[0, 1\]"),
        ({"y": torch.zeros(3, dtype=torch.int64)}, "one class number per image"),
        ({"y": torch.zeros(4)}, "int64"),
        ({"y": torch.full((4,), 2)}, "classes"),
        ({"y": torch.full((4,), -1)}, "classes"),
        ({"x": torch.zeros(0, 1, 3, 4), "y": torch.zeros(0, dtype=torch.int64)}, "empty"),
    ],
)
def test_images_refuse_what_they_cannot_be(change, remedy):
    with pytest.raises(ValueError, match=remedy):
        images(**change)


# --- digits


def test_digits_are_split_once_and_for_all():
    train, test = load("digits", "train"), load("digits", "test")
    assert (len(train), len(test)) == (1297, 500)
    assert train.shape == (1, 8, 8) and train.x.dtype == torch.float32
    assert torch.bincount(test.y).tolist() == [50] * 10
    assert torch.equal(train.x * 16, (train.x * 16).round()) and train.x.max() == 1
    both = torch.cat([train.x, test.x]).flatten(1)
    assert abs(both.sum().item() * 16 - 561718) < 1  # every image of the file, once
    assert test.y[:10].tolist() == list(range(10))


def test_import_is_light():
    code = (
        "import sys, mpkit.data.images; print([m for m in sys.modules if m in "
        + repr(["torchvision", "sklearn", "platformdirs", "PIL", "scipy"])
        + "])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# --- one place to look


def test_the_argument_comes_before_the_environment_before_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("MPKIT_DATA", str(tmp_path / "env"))
    assert where("mnist", tmp_path / "argument") == tmp_path / "argument" / "MNIST" / "raw"
    assert where("mnist") == tmp_path / "env" / "MNIST" / "raw"
    monkeypatch.delenv("MPKIT_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if sys.platform == "linux":
        assert where("mnist") == tmp_path / "cache" / "mpkit" / "MNIST" / "raw"
    assert where("folder:some/where") == Path("some/where")


@pytest.mark.parametrize("name", ["mnsit", "", "folder:", "imagenet"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match="digits, mnist, cifar10 or folder:PATH"):
        load(name)


def test_unknown_split():
    with pytest.raises(ValueError, match="'train' or 'test', got 'validation'"):
        load("digits", "validation")


# --- folders


def test_folder_with_its_own_split(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "test", count=3)
    train, test = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", "test")
    assert (len(train), len(test)) == (20, 6)
    assert train.shape == (1, 5, 6) and train.classes == ("ant", "bee")
    torch.testing.assert_close(train.x.unique(), torch.tensor([0.2]), rtol=0, atol=1e-7)
    assert train.y.float().mean() == 0.5
    assert train.y[:10].unique().tolist() == [0, 1]  # the order mixes the classes


def test_folder_without_a_split_holds_out_one_in_five(tmp_path):
    for name in ("ant", "bee"):
        for i in range(12):
            picture(tmp_path / name / f"{i}.png", value=i * 10 + 100 * (name == "bee"))
    train, test = load(f"folder:{tmp_path}"), load(f"folder:{tmp_path}", "test")
    assert (len(train), len(test)) == (18, 6)
    assert torch.bincount(test.y).tolist() == [3, 3]
    values = torch.cat([train.x, test.x])[:, 0, 0, 0]
    assert len(values.unique()) == 22  # 100 and 110 occur in both classes: nothing lost or doubled
    again = load(f"folder:{tmp_path}")
    assert torch.equal(again.x, train.x) and torch.equal(again.y, train.y)


@pytest.mark.parametrize(
    ("mode", "channels"), [("1", 1), ("L", 1), ("LA", 1), ("I;16", 1), ("RGB", 3), ("P", 3)]
)
def test_grey_stays_one_channel_and_all_else_is_rgb(tmp_path, mode, channels):
    folder(tmp_path, count=2, mode=mode, value=(1, 255) if mode == "LA" else 1)
    x = load(f"folder:{tmp_path}").x
    assert x.shape[1:] == (channels, 5, 6)
    if mode == "I;16":
        torch.testing.assert_close(x, torch.full_like(x, 1 / 65535))


def test_a_mixed_folder_is_rgb(tmp_path):
    folder(tmp_path, count=2)
    picture(tmp_path / "ant" / "colour.png", mode="RGB", value=(255, 0, 51))
    assert load(f"folder:{tmp_path}").shape == (3, 5, 6)


def test_other_files_are_left_alone(tmp_path):
    folder(tmp_path, count=2)
    (tmp_path / "ant" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "ant" / "._0.png").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    assert len(load(f"folder:{tmp_path}")) == 2


def test_differing_sizes_name_the_odd_file(tmp_path):
    folder(tmp_path / "train")
    folder(tmp_path / "test")
    odd = picture(tmp_path / "train" / "bee" / "odd.png", size=(9, 5))
    with pytest.raises(DataError, match="is 9x5 pixels, but most pictures are 6x5") as caught:
        load(f"folder:{tmp_path}")
    assert str(odd) in str(caught.value)


@pytest.mark.parametrize("content", [b"not a picture", b""])
def test_foreign_pictures_are_named(tmp_path, content):
    folder(tmp_path / "train", count=2)
    folder(tmp_path / "test", count=2)
    bad = tmp_path / "train" / "ant" / "bad.png"
    bad.write_bytes(content)
    with pytest.raises(DataError, match="not a readable picture") as caught:
        load(f"folder:{tmp_path}")
    assert str(bad) in str(caught.value)


def test_truncated_pictures_are_named(tmp_path):
    folder(tmp_path / "train", count=2, size=(40, 40))
    folder(tmp_path / "test", count=2)
    bad = tmp_path / "train" / "ant" / "0.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    Image.fromarray(noise).save(bad)
    bad.write_bytes(bad.read_bytes()[:-300])
    with pytest.raises(DataError, match="truncated") as caught:
        load(f"folder:{tmp_path}")
    assert str(bad) in str(caught.value)


def test_folders_that_are_not_a_data_set(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        load(f"folder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="at least two classes, found 0"):
        load(f"folder:{tmp_path}")
    folder(tmp_path / "train")
    with pytest.raises(DataError, match="test: missing beside train"):
        load(f"folder:{tmp_path}")
    folder(tmp_path / "test")
    (tmp_path / "test" / "cat").mkdir()
    with pytest.raises(DataError, match="differ in their classes: cat"):
        load(f"folder:{tmp_path}")
    (tmp_path / "train" / "cat").mkdir()
    with pytest.raises(DataError, match=r"cat: expected at least 1 picture"):
        load(f"folder:{tmp_path}")


# --- MNIST


@pytest.fixture
def tiny_mnist(tmp_path, monkeypatch):
    """The layout of MNIST with 3 training and 2 test images, and checksums to match."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    table = {}
    for name, (magic, *_) in torchvision_sets.MNIST_FILES.items():
        count = 3 if name.startswith("train") else 2
        shape = (magic, count, 28, 28) if magic == 2051 else (magic, count)
        body = np.arange(count * 784 if magic == 2051 else count) % 10
        (raw / name).write_bytes(
            np.array(shape, dtype=">u4").tobytes() + body.astype(np.uint8).tobytes()
        )
        table[name] = (magic, count, (raw / name).stat().st_size, file_hash(raw / name, "md5"))
    monkeypatch.setattr(torchvision_sets, "MNIST_FILES", table)
    return tmp_path


def test_idx_files_are_read_as_they_are(tiny_mnist):
    train, test = load("mnist", "train", tiny_mnist), load("mnist", "test", tiny_mnist)
    assert train.x.shape == (3, 1, 28, 28) and len(test) == 2
    assert train.y.tolist() == [0, 1, 2]
    expected = (torch.arange(3 * 784) % 10).float() / 255
    assert torch.equal(train.x.flatten(), expected)


LABELS = "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda raw: (raw / LABELS).unlink(), "no such file, expected 11 bytes, md5"),
        (lambda raw: (raw / LABELS).write_bytes(b"short"), "has 5 bytes, expected 11"),
        (lambda raw: (raw / LABELS).write_bytes(b"<html></htm"), "magic number and count"),
        (
            lambda raw: (raw / LABELS).write_bytes((raw / LABELS).read_bytes()[:-1] + b"\x07"),
            "damaged or foreign: md5 is",
        ),
    ],
)
def test_damaged_mnist_names_file_expectation_and_remedy(tiny_mnist, damage, said):
    damage(tiny_mnist / "MNIST" / "raw")
    with pytest.raises(DataError, match=said) as caught:
        load("mnist", "train", tiny_mnist)
    assert LABELS in str(caught.value)
    assert f"MPKIT_DATA={tiny_mnist} mpkit data mnist --download" in str(caught.value)
    assert len(load("mnist", "test", tiny_mnist)) == 2  # the other split is still whole


@needs_mnist
def test_real_mnist():
    train, test = load("mnist", "train"), load("mnist", "test")
    assert (len(train), len(test)) == (60000, 10000)
    assert train.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert abs(train.x.mean(dtype=torch.float64).item() - 0.1307) < 1e-4
    other = datasets.MNIST(SHARED, train=False)
    assert torch.equal(test.x, other.data[:, None] / 255) and torch.equal(test.y, other.targets)


# --- download


class Source:
    """Stands in for torchvision's class: "downloads" by copying what the test prepared."""

    def __init__(self, origin: Path, files=None):
        self.origin, self.files, self.calls = origin, files, 0

    def __call__(self, root, download):
        self.calls += 1
        raw = Path(root, "MNIST", "raw")
        raw.mkdir(parents=True)
        for file in (self.origin / "MNIST" / "raw").iterdir():
            (raw / file.name).write_bytes(file.read_bytes())
        (raw / "train-images-idx3-ubyte.gz").write_bytes(b"packed")


def visible(root: Path):
    return sorted(p.name for p in root.rglob("*") if p.is_file())


def test_download_verifies_and_then_moves(tiny_mnist, tmp_path_factory, monkeypatch):
    target = tmp_path_factory.mktemp("fresh") / "data"
    source = Source(tiny_mnist)
    monkeypatch.setattr(datasets, "MNIST", source)
    assert download("mnist", target) == target / "MNIST" / "raw"
    assert visible(target) == sorted(torchvision_sets.MNIST_FILES)
    assert len(load("mnist", "train", target)) == 3
    (target / "MNIST" / "raw" / LABELS).write_bytes(b"rotten")
    download("mnist", target)
    assert len(load("mnist", "train", target)) == 3
    download("mnist", target)
    assert source.calls == 2  # what is whole is not fetched again


def test_a_download_that_fails_or_is_foreign_leaves_nothing(tiny_mnist, tmp_path, monkeypatch):
    target = tmp_path / "data"

    def no_network(root, download):
        Path(root, "half").write_bytes(b"half")
        raise OSError("no route to host")

    monkeypatch.setattr(datasets, "MNIST", no_network)
    with pytest.raises(DataError, match=r"no route to host.*copy the files there"):
        download("mnist", target)
    assert visible(target) == []
    (tiny_mnist / "MNIST" / "raw" / LABELS).write_bytes(b"rotten")
    monkeypatch.setattr(datasets, "MNIST", Source(tiny_mnist))
    with pytest.raises(DataError, match="expected 11"):
        download("mnist", target)
    assert visible(target) == []


def test_digits_need_no_download():
    with pytest.raises(ValueError, match="only mnist and cifar10"):
        download("digits")


# --- CIFAR-10


def test_cifar10_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"data_batch_1: no such file, expected md5 c99c") as caught:
        load("cifar10", "train", tmp_path)
    assert "mpkit data cifar10 --download" in str(caught.value)
    assert f"{tmp_path}/cifar10/train/<class>" in str(caught.value)


def test_cifar10_batches_are_verified(tmp_path):
    batches = tmp_path / "cifar-10-batches-py"
    batches.mkdir()
    (batches / "data_batch_1").write_bytes(b"foreign")
    with pytest.raises(DataError, match=r"data_batch_1: damaged or foreign: md5 is"):
        load("cifar10", "train", tmp_path)


def test_cifar10_as_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision_sets, "CIFAR10_COUNTS", {"train": 20, "test": 10})
    for i in range(30):
        split = "train" if i < 20 else "test"
        picture(
            tmp_path / "cifar10" / split / f"c{i % 10}" / f"{i}.png", (32, 32), "RGB", (i, 0, 255)
        )
    train = load("cifar10", "train", tmp_path)
    assert train.x.shape == (20, 3, 32, 32) and len(train.classes) == 10
    reds = (train.x[:, 0, 0, 0] * 255).round().long()
    assert torch.equal(reds % 10, train.y)  # every label still belongs to its picture
    (tmp_path / "cifar10" / "train" / "c3" / "3.png").unlink()
    with pytest.raises(DataError, match=r"train: has 19 pictures in 10 classes, expected 20"):
        load("cifar10", "train", tmp_path)
    picture(tmp_path / "cifar10" / "train" / "c3" / "3.png", (32, 31), "RGB", (3, 0, 0))
    with pytest.raises(DataError, match=r"3\.png: is 32x31 pixels"):
        load("cifar10", "train", tmp_path)


# --- writing


def test_a_write_that_fails_leaves_the_old_file_and_no_scrap(tmp_path):
    path = tmp_path / "kept"
    write_atomically(path, lambda file: file.write(b"old"))

    def full_disk(file):
        file.write(b"new and too lo")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, full_disk)
    assert path.read_bytes() == b"old" and visible(tmp_path) == ["kept"]
