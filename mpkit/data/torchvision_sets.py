"""MNIST and CIFAR-10 as their authors published them: verify, read, fetch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpkit.core.files import DataError, file_hash, scratch
from mpkit.data.folder import list_split, pictures
from mpkit.data.lazy import Rows, of_array, of_file

PLACES = {"mnist": Path("MNIST", "raw"), "cifar10": Path("cifar-10-batches-py")}
PNG_PLACE = Path("cifar10")
CIFAR10_COUNTS = {"train": 50000, "test": 10000}
DIGITS = tuple("0123456789")
MNIST_PREFIX = {"train": "train", "test": "t10k"}

# file: (magic number, how many, bytes in all, md5)
MNIST_FILES = {
    "train-images-idx3-ubyte": (2051, 60000, 47040016, "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": (2049, 60000, 60008, "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": (2051, 10000, 7840016, "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": (2049, 10000, 10008, "27ae3e4e09519cfbb04c329615203637"),
}

Split = tuple[Rows, Tensor, tuple[str, ...]]


def place(name: str, root: Path) -> Path:
    """The folder below ``root`` where ``mnist`` or ``cifar10`` is looked for."""
    official, pngs = root / PLACES[name], root / PNG_PLACE
    unpacked = name == "cifar10" and any((pngs / s).is_dir() for s in CIFAR10_COUNTS)
    return pngs if unpacked and not official.is_dir() else official


def read(name: str, split: str, root: Path) -> Split:
    """Images (N, C, H, W) on disk, labels (N,) int64 and class names of one split.

    Raises: DataError: a file is missing, truncated or foreign.
    """
    if name == "mnist":
        return _read_mnist(place(name, root), MNIST_PREFIX[split])
    if place(name, root).name == PNG_PLACE.name:
        return _read_cifar10_pngs(place(name, root), split)
    return _read_cifar10_batches(root, split)


def _read_mnist(folder: Path, prefix: str) -> Split:
    images, labels = (f"{prefix}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    for name in (images, labels):
        _check_idx(folder, name)
    y = np.fromfile(folder / labels, np.uint8, offset=8).astype(np.int64)
    return of_file(folder / images, 16, (len(y), 1, 28, 28)), torch.from_numpy(y), DIGITS


def _check_idx(folder: Path, name: str) -> None:
    path = folder / name
    magic, count, size, md5 = MNIST_FILES[name]
    _require(path, "mnist", f"{size} bytes, md5 {md5}")
    if (found := path.stat().st_size) != size:
        raise DataError(f"{path}: has {found} bytes, expected {size}{_remedy('mnist', folder)}")
    with path.open("rb") as file:
        header = tuple(int(n) for n in np.frombuffer(file.read(8), dtype=">u4"))
    if header != (magic, count):
        raise DataError(
            f"{path}: not this idx file: it begins with magic number and count {header}, "
            f"expected {(magic, count)}{_remedy('mnist', folder)}"
        )
    _check_md5(path, md5, "mnist")


def _check_md5(path: Path, md5: str, name: str) -> None:
    if (found := file_hash(path, "md5")) != md5:
        raise DataError(
            f"{path}: damaged or foreign: md5 is {found}, expected {md5}"
            f"{_remedy(name, path.parent)}"
        )


def _require(path: Path, name: str, expected: str) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file, expected {expected}{_remedy(name, path.parent)}")


def _remedy(name: str, folder: Path) -> str:
    root = folder.parents[len(PLACES[name].parts) - 1]
    text = f"; to mend it: MPKIT_DATA={root} mpkit data {name} --download"
    if name == "cifar10":
        text += f" (or unpack the images as {root / PNG_PLACE}/train/<class>/*.png and test/)"
    return text


def _check_cifar10(folder: Path) -> None:
    from torchvision.datasets import CIFAR10

    meta = (CIFAR10.meta["filename"], CIFAR10.meta["md5"])
    for name, md5 in (*CIFAR10.train_list, *CIFAR10.test_list, meta):
        _require(folder / name, "cifar10", f"md5 {md5}")
        _check_md5(folder / name, md5, "cifar10")


def _read_cifar10_batches(root: Path, split: str) -> Split:
    from torchvision.datasets import CIFAR10

    _check_cifar10(root / PLACES["cifar10"])
    batches = CIFAR10(root, train=split == "train")
    return of_array(batches.data), torch.tensor(batches.targets), tuple(batches.classes)


def _read_cifar10_pngs(folder: Path, split: str) -> Split:
    listing = list_split(folder, split)
    expected = CIFAR10_COUNTS[split]
    if (len(listing.files), len(listing.classes)) != (expected, 10):
        raise DataError(
            f"{folder / split}: has {len(listing.files)} pictures in {len(listing.classes)} "
            f"classes, expected {expected} in 10; unpack the images again, or remove {folder} and "
            f"run: MPKIT_DATA={folder.parent} mpkit data cifar10 --download"
        )
    x = pictures(listing.files, expect=(3, 32, 32))
    return x, torch.tensor(listing.labels), listing.classes


def check(name: str, folder: Path) -> None:
    """Verify every file of ``mnist`` or ``cifar10`` in the authors' form.

    Raises: DataError: a file is missing, truncated or foreign.
    """
    if name == "cifar10":
        _check_cifar10(folder)
        return
    for file in MNIST_FILES:
        _check_idx(folder, file)


def fetch(name: str, root: Path) -> Path:
    """Download ``mnist`` or ``cifar10`` into ``root`` unless it is there and whole.

    torchvision downloads into a temporary folder beside the target; the files are verified
    there and moved into place one by one, so that several processes may do this at once and an
    interrupted one leaves only a hidden ``.download-*`` folder.

    Raises: DataError: no network, a damaged transfer, or a folder that cannot be written.
    """
    target = root / PLACES[name]
    try:
        check(name, target)
    except DataError:
        try:
            _fetch_into(target, name, root)
        except (OSError, RuntimeError) as error:
            raise DataError(
                f"{target}: the download failed ({error}); check the network and that {root} can "
                f"be written, or copy the files there from another machine"
            ) from error
    return target


def _fetch_into(target: Path, name: str, root: Path) -> None:
    from torchvision import datasets

    source = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    with scratch(root) as place:
        source(place, download=True)
        fresh = place / PLACES[name]
        check(name, fresh)
        target.mkdir(parents=True, exist_ok=True)
        for file in fresh.iterdir():
            if file.suffix != ".gz":
                file.replace(target / file.name)
