"""Images from a folder of classes: any picture format, any split, errors that name the file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from mpkit.core.files import DataError
from mpkit.data.lazy import Rows

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.unsignedinteger[Any]]]
T = TypeVar("T")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp", ".gif")
TEST_SHARE = 5  # one image in five is held out where a folder has no split of its own


class Listing(NamedTuple):
    """The files of one split with their class numbers, in a fixed order that mixes the classes."""

    files: list[Path]
    labels: list[int]
    classes: tuple[str, ...]


def list_split(path: Path, split: str) -> Listing:
    """List one split of an image folder.

    ``path/train/<class>/*`` and ``path/test/<class>/*`` are taken as they are. Where a folder
    holds the classes directly, one image in five of every class, chosen by the hash of its
    name, is the test set. The order depends on the names alone, so it is the same everywhere.

    Args:
        path: the folder.
        split: ``"train"`` or ``"test"``.

    Raises:
        DataError: the folder is missing, has half a split, fewer than two classes, or a class
            with too few images.
    """
    if not path.is_dir():
        raise DataError(
            f"{path}: no such folder; expected {path}/train/<class>/*.png and "
            f"{path}/test/<class>/*.png, or {path}/<class>/*.png"
        )
    halves = [name for name in ("train", "test") if (path / name).is_dir()]
    if len(halves) == 1:
        missing = ({"train", "test"} - set(halves)).pop()
        raise DataError(
            f"{path / missing}: missing beside {halves[0]}/; add it, or move the classes up into "
            f"{path}/<class>/ to have one image in five held out"
        )
    base = path / split if halves else path
    classes = _classes(base)
    for half in halves:
        if odd := sorted(set(classes) ^ set(_classes(path / half))):
            raise DataError(f"{path}: train/ and test/ differ in their classes: {', '.join(odd)}")
    rows = []
    for label, name in enumerate(classes):
        files = _pictures(base / name, needed=1 if halves else 2)
        if not halves:
            held_out = -(-len(files) // TEST_SHARE)
            files = files[:held_out] if split == "test" else files[held_out:]
        rows += [(_scramble(base, file), file, label) for file in files]
    rows.sort(key=lambda row: row[0])
    return Listing([row[1] for row in rows], [row[2] for row in rows], classes)


def _scramble(base: Path, file: Path) -> str:
    return hashlib.sha256(file.relative_to(base).as_posix().encode()).hexdigest()


def _classes(base: Path) -> tuple[str, ...]:
    names = sorted(p.name for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))
    if len(names) < 2:
        raise DataError(
            f"{base}: expected a folder for each of at least two classes, found {len(names)}; "
            f"sort the pictures into {base}/<class>/"
        )
    return tuple(names)


def _pictures(folder: Path, needed: int) -> list[Path]:
    files = [
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES and not p.name.startswith(".") and p.is_file()
    ]
    if len(files) < needed:
        raise DataError(
            f"{folder}: expected at least {needed} picture(s) ({' '.join(SUFFIXES)}), "
            f"found {len(files)}; add some or remove the folder"
        )
    return sorted(files, key=lambda file: _scramble(folder, file))


def pictures(files: Sequence[Path], expect: tuple[int, int, int] | None = None) -> Rows:
    """Pictures as images (N, C, H, W), decoded when they are read.

    C is 1 if every picture is grey and 3 otherwise. Every picture's head is looked at now.

    Args:
        files: the pictures.
        expect: the (C, H, W) that every one must have, if known.

    Raises:
        DataError: a file is not a picture or differs in size from the others; while reading, if
            one is cut short.
    """
    shapes = [_opened(file, _shape) for file in files]
    usual = Counter(shape[1:] for shape in shapes).most_common(1)[0][0]
    for file, shape in zip(files, shapes, strict=True):
        if shape[1:] != usual:
            size, others = ("x".join(map(str, s[::-1])) for s in (shape[1:], usual))
            raise DataError(
                f"{file}: is {size} pixels, but most pictures are {others}; resize them all "
                f"to one size, for example: mogrify -resize {others}! {file.parent}/*"
            )
    whole = (max(shape[0] for shape in shapes), *usual)
    if expect is not None and whole != expect:
        raise DataError(
            f"{files[0].parent}: expected pictures of shape {expect} (channels, height, width), "
            f"found {whole}; these are not the files of this data set"
        )

    def read(start: int, stop: int) -> Tensor:
        stack = np.empty((stop - start, *whole), dtype=np.float32)
        for row, file in zip(stack, files[start:stop], strict=True):
            array = _opened(file, _pixels)
            np.divide(array, np.iinfo(array.dtype).max, out=row, dtype=np.float32)
        return torch.from_numpy(stack)

    return Rows(read, torch.Size((len(files), *whole)))


def _opened(file: Path, look: Callable[[Image], T]) -> T:
    """What a look at an opened picture gives."""
    from PIL import Image as pil

    try:
        with pil.open(file) as picture:
            return look(picture)
    except (OSError, SyntaxError, pil.DecompressionBombError) as error:
        raise DataError(
            f"{file}: not a readable picture ({error}); expected one of "
            f"{' '.join(SUFFIXES)}; copy it again or remove it"
        ) from error


def _grey(picture: Image) -> bool:
    """Whether a picture is stored as grey, in 8 bits or in more."""
    return picture.mode in ("1", "L", "LA") or picture.mode.startswith("I")


def _shape(picture: Image) -> tuple[int, int, int]:
    """(C, H, W), from the head of the file alone."""
    width, height = picture.size
    return 1 if _grey(picture) else 3, height, width


def _pixels(picture: Image) -> Pixels:
    """(1 or 3, H, W) unsigned integers; only pictures stored as grey keep one channel."""
    if picture.mode.startswith("I"):
        return np.asarray(picture).astype(np.uint16)[None]
    if _grey(picture):
        return np.asarray(picture.convert("L"))[None]
    return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)
