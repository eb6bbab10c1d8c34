"""Data sets as one pair of tensors: digits, MNIST, CIFAR-10, or a folder of your own pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpkit.core.files import DataError
from mpkit.data import torchvision_sets
from mpkit.data.folder import list_split, pictures
from mpkit.data.lazy import Rows, Stored
from mpkit.data.own import ARRAYS, is_own, read_own

__all__ = ["DataError", "Images", "Stored", "download", "load", "stored", "where"]

DIGITS_TEST = 500


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Labelled images.

    Args:
        x: (N, C, H, W) floating point, every value in [0, 1].
        y: (N,) int64, the index into ``classes``.
        classes: the name of every class.
        name: where the images come from, for tables and records.

    Raises: ValueError: there is no image, or shapes, types or ranges are not as above.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        for name, value in (("x", self.x), ("y", self.y)):
            if not isinstance(value, Tensor):
                raise ValueError(
                    f"Images: {name} must be a tensor, got a {type(value).__name__}; make it one "
                    "with torch.as_tensor"
                )
        if self.x.ndim != 4 or not self.x.is_floating_point():
            raise ValueError(
                f"Images: x must be (N, C, H, W) floating point, got {tuple(self.x.shape)} "
                f"{self.x.dtype}; convert with x.float() / 255 and x.unsqueeze(1)"
            )
        if self.y.dtype != torch.int64 or self.y.shape != self.x.shape[:1]:
            raise ValueError(
                f"Images: y must be ({len(self.x)},) int64, got {tuple(self.y.shape)} "
                f"{self.y.dtype}; give one class number per image"
            )
        if len(self.x) == 0:
            raise ValueError(f"Images: {self.name} is empty; give at least one image")
        low, high = self.x.aminmax()
        if not (low >= 0 and high <= 1):
            scaled = -1 <= low < 0 and high <= 1
            remedy = "write (x + 1) / 2" if scaled else "divide 8-bit pixels by 255"
            remedy = "NaN is no pixel" if bool(self.x.isnan().any()) else remedy
            raise ValueError(
                f"Images: x must lie in [0, 1], got [{low.item():g}, {high.item():g}]; {remedy}"
            )
        if self.y.min() < 0 or self.y.max() >= len(self.classes):
            raise ValueError(
                f"Images: y must lie in 0..{len(self.classes) - 1}, got "
                f"{int(self.y.min())}..{int(self.y.max())}; name every class in classes"
            )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return (
            f"Images({self.name}: {len(self)} of shape {self.shape}, "
            f"{len(self.classes)} classes, {str(self.x.dtype).removeprefix('torch.')})"
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def first(self, n: int) -> Images:
        """The first n images, or all where there are fewer."""
        return replace(self, x=self.x[:n], y=self.y[:n])

    def subset(self, n: int, rng: torch.Generator) -> Images:
        """A sample of n images without repetition, or all in a new order where there are fewer."""
        order = torch.randperm(len(self), generator=rng, device=rng.device)[:n].to(self.x.device)
        return replace(self, x=self.x[order], y=self.y[order])

    def balanced(self, n: int) -> Images:
        """The first images of every class, equally many of each and n in all, in their order.

        Raises:
            ValueError: n is no positive multiple of the number of classes, or a class has fewer.
        """
        each, rest = divmod(n, len(self.classes))
        if each < 1 or rest:
            raise ValueError(
                f"Images.balanced: n must be a positive multiple of the {len(self.classes)} "
                f"classes, got {n}"
            )
        members = [(self.y == k).nonzero().squeeze(1)[:each] for k in range(len(self.classes))]
        if short := [self.classes[k] for k, rows in enumerate(members) if len(rows) < each]:
            raise ValueError(
                f"Images.balanced: {self.name} has fewer than {each} images of {', '.join(short)}; "
                "ask for fewer"
            )
        rows = torch.cat(members).sort().values
        return replace(self, x=self.x[rows], y=self.y[rows])

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Images:
        """The same images on another device or in another floating point type."""
        return replace(self, x=self.x.to(device=device, dtype=dtype), y=self.y.to(device=device))


def load(name: str, split: str = "train", root: str | Path | None = None) -> Images:
    """Load one split of a data set, in float32 on the CPU; nothing is downloaded.

    Args:
        name: ``digits`` (8 x 8, comes with scikit-learn), ``mnist``, ``cifar10``, or your own:
            ``folder:PATH`` of pictures, see :func:`mpkit.data.folder.list_split`; ``PATH.npz`` or
            ``PATH.safetensors`` with arrays ``x`` (N, C, H, W), uint8 or in [0, 1], and ``y`` (N,);
            ``package.module:factory``, a function that gives pairs of such batches, and that gets
            the ``split`` if it names it. Names of classes may be beside them, as ``classes``.
        split: ``train`` or ``test``.
        root: the folder that holds MNIST and CIFAR-10; without it the environment variable
            MPKIT_DATA, and then the user's cache folder, is looked in.

    Raises:
        DataError: a file is missing, truncated or foreign; the message says what mends it.
        ValueError: unknown name or split.
    """
    found = stored(name, split, root)
    return Images(found.x[:], found.y, found.classes, name)


def stored(
    name: str, split: str = "train", root: str | Path | None = None, first: int | None = None
) -> Stored:
    """One split of a data set, whose images are read a batch at a time.

    For evaluations of more images than memory should hold; see :func:`load` for the arguments.
    ``first`` is how many are needed at most: a function may have no end.

    Raises:
        DataError: a file is missing or foreign; while reading, if a picture is cut short.
        ValueError: unknown name or split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"load: split must be 'train' or 'test', got {split!r}")
    if is_own(name):
        own = Stored(*read_own(name, split, first), name)
        return own if first is None else own.first(first)
    folder = where(name, root)
    if name == "digits":
        found = Stored(*_digits(split), name)
    elif name in torchvision_sets.PLACES:
        found = Stored(*torchvision_sets.read(name, split, _root(root)), name)
    else:
        listing = list_split(folder, split)
        rows = pictures(listing.files, others=listing.others)
        found = Stored(rows, torch.tensor(listing.labels), listing.classes, name)
    return found if first is None else found.first(first)


def where(name: str, root: str | Path | None = None) -> Path:
    """The folder where a data set is looked for, whether or not it is there; see :func:`load`.

    Raises: ValueError: unknown name.
    """
    if is_own(name):
        return Path(name).expanduser()
    if name.startswith("folder:") and name != "folder:":
        return Path(name.removeprefix("folder:")).expanduser()
    if name in torchvision_sets.PLACES:
        return torchvision_sets.place(name, _root(root))
    if name == "digits":
        spec = find_spec("sklearn")
        return Path(spec.origin if spec and spec.origin else "sklearn").parent / "datasets"
    if name.endswith(ARRAYS):
        return Path(name).expanduser()
    raise ValueError(
        f"unknown data set {name!r}; use digits, mnist, cifar10 or folder:PATH, a file of arrays "
        "(.npz, .safetensors) or package.module:factory"
    )


def download(name: str, root: str | Path | None = None) -> Path:
    """Fetch MNIST or CIFAR-10 through torchvision, verify it, and only then put it in place.

    Files that are there and whole are kept, damaged ones are replaced. Several processes may
    do this at once.

    Args:
        name: ``mnist`` or ``cifar10``.
        root: see :func:`load`.

    Returns: the folder that now holds the files.

    Raises:
        DataError: no network, a damaged transfer, or a folder that cannot be written.
        ValueError: any other data set; those need no download.
    """
    if name not in torchvision_sets.PLACES:
        raise ValueError(f"download: only mnist and cifar10 can be downloaded, got {name!r}")
    return torchvision_sets.fetch(name, _root(root))


def _root(root: str | Path | None) -> Path:
    """One place to look: the argument, MPKIT_DATA, the user's cache folder."""
    chosen = root or os.environ.get("MPKIT_DATA")
    if not chosen:
        from platformdirs import user_cache_dir

        chosen = user_cache_dir("mpkit")
    return Path(chosen).expanduser()


def _digits(split: str) -> torchvision_sets.Split:
    """1,797 images; 50 of every class, spread evenly over the file, are the test set."""
    from sklearn.datasets import load_digits

    source = load_digits()
    y = torch.from_numpy(source.target.astype(np.int64))
    x = torch.from_numpy((source.images / 16).astype(np.float32)).unsqueeze(1)
    held_out = torch.zeros(len(y), dtype=torch.bool)
    for label in range(10):
        members = (y == label).nonzero().squeeze(1)
        held_out[members[torch.arange(DIGITS_TEST // 10) * len(members) * 10 // DIGITS_TEST]] = True
    chosen = held_out if split == "test" else ~held_out
    x = x[chosen]
    return Rows(lambda start, stop: x[start:stop], x.shape), y[chosen], torchvision_sets.DIGITS
