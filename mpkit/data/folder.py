"""Images from a folder of classes: any picture format, any split, errors that name the file."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from mpkit.core.files import DataError
from mpkit.data.lazy import Rows

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
T = TypeVar("T")
SUFFIXES = tuple(".png .jpg .jpeg .jpe .jfif .bmp .pgm .ppm .tif .tiff .webp .gif".split())
LITTER = ("Thumbs.db", "desktop.ini", "_build", "__MACOSX", "__pycache__")
SPLITS = {"train": ("train", "training"), "test": ("test", "testing", "val", "valid", "validation")}
VALIDATION = ("val", "valid", "validation")  # stand in for a test split where there is none
ORIENTATION, TURNED = 274, 5  # the EXIF tag, and the first value that exchanges the sides
TEST_SHARE = 5  # one image in five is held out where a folder has no split of its own


class Listing(NamedTuple):
    """The files of one split with their class numbers, in a fixed order that mixes the classes."""

    files: list[Path]
    labels: list[int]
    classes: tuple[str, ...]
    others: list[Path]  # those of the other split, which must be pictures of the same form


def list_split(path: Path, split: str) -> Listing:
    """List one split of an image folder.

    ``path/train/<class>/*`` and ``path/test/<class>/*`` are taken as they are, in any case and by
    the usual other names (training, testing, validation). Where a folder
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
    halves = _halves(path)
    base = halves.get(split, path)
    classes = _classes(base)
    if halves and (names := [_classes(half) for half in halves.values()])[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))
        ends = " and ".join(f"{half.name}/" for half in halves.values())
        raise DataError(f"{path}: {ends} differ in their classes: {', '.join(odd)}")
    rows, others = [], []
    for label, name in enumerate(classes):
        files = _pictures(path, base / name, needed=1 if halves else 2)
        if halves:
            other = next(half for half in halves.values() if half != base)
            others += _pictures(path, other / name, needed=1)
        else:
            held_out = -(-len(files) // TEST_SHARE)
            cut = files[:held_out], files[held_out:]
            files, rest = cut if split == "test" else cut[::-1]
            others += rest
        rows += [(_scramble(base, file), file, label) for file in files]
    rows.sort(key=lambda row: row[0])
    return Listing([row[1] for row in rows], [row[2] for row in rows], classes, others)


def _halves(path: Path) -> dict[str, Path]:
    """The folders of a split, ``train`` first, in any case and by any usual name; {} if none."""
    found: dict[str, dict[str, Path]] = {split: {} for split in SPLITS}
    for folder in sorted(p for p in path.iterdir() if p.is_dir()):
        for split, words in SPLITS.items():
            twin = folder.name.lower() in words and found[split].setdefault(
                folder.name.lower(), folder
            )
            if twin and twin != folder:
                raise DataError(f"{twin}, {folder}: two folders of one name; keep one of them")
    chosen = {}
    for split, words in SPLITS.items():
        there = [found[split][word] for word in words if word in found[split]]
        same_word = [one for one in there if one.name.lower() not in VALIDATION]
        if len(same_word) > 1:
            names = ", ".join(one.name for one in same_word)
            raise DataError(f"{path}: {names} could all be the {split} split; keep one of them")
        if there:
            chosen[split] = there[0]
    if len(chosen) == 1:
        (split, half), missing = next(iter(chosen.items())), (set(SPLITS) - set(chosen)).pop()
        raise DataError(
            f"{path / missing}: missing beside {half.name}/; add it, or move the classes up into "
            f"{path}/<class>/ to have one image in five held out"
        )
    return chosen


def _scramble(base: Path, file: Path) -> str:
    return hashlib.sha256(file.relative_to(base).as_posix().encode()).hexdigest()


def _classes(base: Path) -> tuple[str, ...]:
    visible = (p for p in base.iterdir() if not p.name.startswith(".") and p.name not in LITTER)
    there = [_sound(p) for p in visible]
    names = sorted(p.name for p in there if p.is_dir())
    if len(names) < 2:
        raise DataError(
            f"{base}: expected a folder for each of at least two classes, found {len(names)}; "
            f"sort the pictures into {base}/<class>/"
        )
    return tuple(names)


def _sound(path: Path) -> Path:
    """A path whose name is text, and that leads somewhere.

    Raises: DataError: it is not, or does not.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{os.fsencode(path)!r}: its name is not in UTF-8; rename it") from error
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: a link to {path.readlink()}, which is not there; mend it")
    return path


def _pictures(root: Path, folder: Path, needed: int) -> list[Path]:
    there = [file for file in _walked(root, folder) if not file.name.startswith(".")]
    files = [file for file in there if file.suffix.lower() in SUFFIXES]
    skipped = [f for f in there if f.suffix.lower() not in SUFFIXES and f.name not in LITTER]
    if len(files) < needed:
        raise DataError(
            f"{folder}: expected at least {needed} picture(s) ({' '.join(SUFFIXES)}), "
            f"found {len(files)}; add some or remove the folder"
        )
    if skipped:
        warnings.warn(
            f"{folder}: left out {len(skipped)} file(s) of another kind, such as "
            f"{skipped[0].name}; pictures are {' '.join(SUFFIXES)}",
            stacklevel=4,
        )
    return sorted(files, key=lambda file: _scramble(folder, file))


def _walked(root: Path, folder: Path) -> Iterator[Path]:
    """Every file below a folder of a class, through links too, each folder once.

    Raises: DataError: a link leads to nothing, or to pictures of another class.
    """
    seen, home, own = set(), root.resolve(), folder.resolve()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [n for n in folders if not n.startswith(".")]
        real = Path(place).resolve()
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        within = home in real.parents and own != real and own not in real.parents
        if within or real == home or real in home.parents:
            raise DataError(f"{place}: a link to {real}, which holds other classes; remove it")
        yield from (file for name in names if (file := _sound(Path(place, name))).is_file())
        for name in folders:
            _sound(Path(place, name))


def pictures(
    files: Sequence[Path], expect: tuple[int, int, int] | None = None, others: Sequence[Path] = ()
) -> Rows:
    """Pictures as images (N, C, H, W), decoded when they are read.

    C is 1 if every picture is grey and 3 otherwise. Every picture's head is looked at now.

    Args:
        files: the pictures.
        expect: the (C, H, W) that every one must have, if known.
        others: pictures that must be of the same form, those of another split.

    Raises:
        DataError: a file is not a picture or differs in size from the others; while reading, if
            one is cut short.
    """
    everyone = [*files, *others]
    shapes = [_opened(file, _shape) for file in everyone]
    usual = Counter(shape[1:] for shape in shapes).most_common(1)[0][0]
    for file, shape in zip(everyone, shapes, strict=True):
        if shape[1:] != usual:
            size, most = ("x".join(map(str, s[::-1])) for s in (shape[1:], usual))
            raise DataError(
                f"{file}: is {size} pixels, but most pictures are {most}; resize them all "
                f"to one size, for example: mogrify -auto-orient -resize {most}^ -gravity center "
                f"-extent {most} {file.parent}/*"
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
            row[:] = _opened(file, _pixels)
        return torch.from_numpy(stack)

    return Rows(read, torch.Size((len(files), *whole)))


def _opened(file: Path, look: Callable[[Image], T]) -> T:
    """What a look at an opened picture gives."""
    from PIL import Image as pil

    try:
        quiet = warnings.catch_warnings(action="ignore", category=pil.DecompressionBombWarning)
        with quiet, pil.open(file) as picture:
            return look(picture)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    except Exception as error:  # whatever a decoder raises, the file is what matters
        raise DataError(
            f"{file}: not a readable picture ({type(error).__name__}: {error}); expected one of "
            f"{' '.join(SUFFIXES)}; copy it again or remove it"
        ) from error


def _grey(picture: Image) -> bool:
    """Whether a picture is stored as grey, in 8 bits or in more."""
    return picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")


def _shape(picture: Image) -> tuple[int, int, int]:
    """(C, H, W) of a picture whose pixels have one meaning, most often from its head alone.

    Raises: DataError: they have several.
    """
    if picture.mode == "I" and picture.format == "TIFF":
        raise DataError(
            "32-bit integers (mode I) have no usual range; save it with 8 or 16 bits a pixel"
        )
    if picture.mode == "F":
        low, high = picture.getextrema()
        if not (0 <= low <= high <= 1):  # type: ignore[operator]
            raise DataError(
                f"floating point pixels (mode F) from {low:g} to {high:g}; scale them to [0, 1]"
            )
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        low, _ = picture.convert("RGBA").getchannel("A").getextrema()
        if low < 255:  # type: ignore[operator]
            raise DataError(
                f"has transparent pixels (mode {picture.mode}); put it on a background, for "
                "example: mogrify -background white -alpha remove"
            )
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        raise DataError(f"holds {picture.n_frames} pictures; save one of them")  # type: ignore[attr-defined]
    width, height = picture.size
    if picture.getexif().get(ORIENTATION, 1) >= TURNED:
        if picture.format == "TIFF":
            raise DataError("a TIFF that lies on its side; turn it: mogrify -auto-orient")
        width, height = height, width
    return 1 if _grey(picture) else 3, height, width


def _pixels(picture: Image) -> Pixels:
    """(1 or 3, H, W) float32 in [0, 1], upright; only pictures stored as grey keep one channel."""
    from PIL import ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        return np.asarray(picture, dtype=np.float32)[None]
    if picture.mode.startswith("I"):
        whole, stored = 65535, np.asarray(picture)
    else:
        whole, stored = 255, np.asarray(picture.convert("L" if _grey(picture) else "RGB"))
    pixels: Pixels = np.divide(stored, whole, dtype=np.float32)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]
