"""Images of one's own in a file of arrays, or as a function gives them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpkit.core.checks import imported, told
from mpkit.core.files import DataError, unpacked
from mpkit.data.lazy import Rows

ARRAYS = (".npz", ".safetensors")
MOST = 100_000  # classes; a larger label is no class number
ROOM = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # bytes
FORM = "return an iterable of pairs (x, y), x (B, C, H, W) in [0, 1] and y (B,)"


class Own(NamedTuple):
    """Images (N, C, H, W) in [0, 1], labels (N,) int64, and the names of the classes."""

    x: Rows
    y: Tensor
    classes: tuple[str, ...]


def is_own(name: str) -> bool:
    """Whether a name of a data set is a file of arrays, or ``package.module:factory``."""
    return not name.startswith("folder:") and (name.lower().endswith(ARRAYS) or ":" in name)


def read_own(name: str, split: str, first: int | None = None) -> Own:
    """Arrays from a file, or from a function, see :func:`mpkit.data.stored`.

    Raises: DataError: the file or the function does not give fitting images and labels.
    """
    if name.lower().endswith(ARRAYS):
        path = Path(name).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such file; expected arrays x (N, C, H, W) and y (N,)")
        arrays, names = _npz(path) if path.suffix.lower() == ".npz" else _tensors(path)
        if missing := [key for key in ("x", "y") if key not in arrays]:
            raise DataError(
                f"{path}: has no array {', '.join(missing)}, only {', '.join(arrays) or 'none'}; "
                "save images as x (N, C, H, W) and labels as y (N,)"
            )
        return _checked(str(path), arrays["x"], arrays["y"], names)
    factory = imported("--data", name)
    try:
        given = factory(split=split) if _takes_split(factory) else factory()
        xs, ys = _batches(given, first)
    except (Exception, SystemExit) as error:
        raise DataError(
            f"--data: {name} gives no batches of images and labels ({told(error)}); {FORM}"
        ) from error
    return _checked(name, xs, ys, getattr(given, "classes", None))


def _batches(given: Any, first: int | None) -> tuple[Tensor, Tensor]:
    """All images and labels, or enough of them."""
    xs: list[Tensor] = []
    ys: list[Tensor] = []
    count = held = 0
    for batch in [given] if hasattr(given, "x") else given:
        x, y = (batch.x, batch.y) if hasattr(batch, "x") else (batch[0], batch[1])
        x, y = torch.as_tensor(x).detach().cpu(), torch.as_tensor(y).detach().cpu()
        xs.append(x)
        ys.append(y)
        count += 1 if y.dim() == 0 else len(x)
        held += x.numel() * x.element_size()
        if held > ROOM:
            raise ValueError(
                f"{count:,} images fill half of the memory; is there an end? See --points"
            )
        if first is not None and count >= first:
            break
    if not xs:
        raise ValueError("there is none")
    if ys[0].dim() == 0:  # a data set of single images
        return torch.stack(xs), torch.stack(ys)
    return torch.cat(xs), torch.cat(ys)


def _takes_split(factory: Any) -> bool:
    import inspect

    try:
        return "split" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def _npz(path: Path) -> tuple[dict[str, Tensor], Any]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays["classes"].tolist() if "classes" in arrays.files else None
            others = [name for name in arrays.files if arrays[name].dtype.kind in "?iufc"]
            return {name: torch.from_numpy(arrays[name]) for name in others}, names
    except Exception as error:  # a broken archive has many ways to fail
        raise DataError(
            f"{path}: cannot be read as arrays ({type(error).__name__}: {error}); save it with "
            "numpy.savez(path, x=images, y=labels)"
        ) from error


def _tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    tensors, words = unpacked(path)
    with suppress(ValueError):
        return tensors, json.loads(words.get("classes", "null"))
    return tensors, None


def _checked(name: str, x: Tensor, y: Tensor, names: Any) -> Own:
    """Images as float32, 8-bit ones divided by 255.

    Raises: DataError: shapes, types or ranges do not fit.
    """
    held, labels = _images(name, x), _labels(name, y, len(x))
    highest = int(labels.max()) + 1
    if isinstance(names, str | bytes) or not isinstance(names, Sequence):
        names = range(int(names)) if isinstance(names, int) else range(highest)
    if len(names) < highest:
        raise DataError(f"{name}: y goes up to {highest - 1}, but there are {len(names)} classes")
    return Own(Rows(lambda a, b: held[a:b].clone(), held.shape), labels, tuple(map(str, names)))


def _images(name: str, x: Tensor) -> Tensor:
    if x.layout != torch.strided:
        x = x.to_dense()
    got = f"got {tuple(x.shape)} {str(x.dtype).removeprefix('torch.')}"
    if x.dtype == torch.uint8:
        x = x.float() / 255
    if not x.is_floating_point():
        remedy = "write (x / 255).astype('float32') where they go up to 255"
        raise DataError(f"{name}: x must be uint8 or floating point, {got}; {remedy}")
    if x.dim() != 4 or not x.numel():
        remedy = "; grey images get their channel with x[:, None]" if x.dim() == 3 else ""
        raise DataError(f"{name}: x must be images (N, C, H, W), {got}{remedy}")
    if x.shape[1] > 4 and x.shape[3] in (1, 3, 4):
        raise DataError(
            f"{name}: x looks like (N, H, W, C), {got}; expected (N, C, H, W), write "
            "x.transpose(0, 3, 1, 2)"
        )
    x = x.float()
    if bool((odd := ~x.isfinite().flatten(1).all(1)).any()):
        raise DataError(
            f"{name}: x holds NaN or infinity in image {int(odd.int().argmax())}; look at how the "
            "images are made"
        )
    low, high = (float(v) for v in x.aminmax())
    if not (low >= 0 and high <= 1):
        scale = "(x + 1) / 2" if -1 <= low < 0 and high <= 1 else "x / 255"
        raise DataError(
            f"{name}: pixels must lie in [0, 1], got values from {low:g} to {high:g}; "
            f"write {scale} if that is their range"
        )
    return x


def _labels(name: str, y: Tensor, count: int) -> Tensor:
    got = f"got {tuple(y.shape)} {str(y.dtype).removeprefix('torch.')}"
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.dim() != 1 or len(y) != count:
        remedy = "; one-hot labels become numbers with y.argmax(1)" if y.dim() == 2 else ""
        raise DataError(f"{name}: y must be {count} labels, one for each image, {got}{remedy}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise DataError(f"{name}: y must be class numbers, {got}; write y.astype(int)")
    y = y.long()
    if int(y.min()) < 0 or int(y.max()) >= MOST:
        raise DataError(
            f"{name}: y must be class numbers from 0, got {int(y.min())} to {int(y.max())}; "
            "number the classes 0, 1, 2, ..."
        )
    return y
