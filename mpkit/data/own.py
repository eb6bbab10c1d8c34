"""Images of one's own in a file of arrays, or as a function gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mpkit.core.checks import imported
from mpkit.core.files import DataError, unpacked
from mpkit.data.lazy import Rows

ARRAYS = (".npz", ".safetensors")


class Own(NamedTuple):
    """Images (N, C, H, W) in [0, 1], labels (N,) int64, and the names of the classes."""

    x: Rows
    y: Tensor
    classes: tuple[str, ...]


def is_own(name: str) -> bool:
    """Whether a name of a data set is a file of arrays, or ``package.module:factory``."""
    return name.endswith(ARRAYS) or (":" in name and not name.startswith("folder:"))


def read_own(name: str, split: str) -> Own:
    """Arrays from a file, or from a function, see :func:`mpkit.data.load`.

    Raises: DataError: the file or the function does not give fitting images and labels.
    """
    if name.endswith(ARRAYS):
        path = Path(name).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such file; expected arrays x (N, C, H, W) and y (N,)")
        tensors = _npz(path) if path.suffix == ".npz" else unpacked(path)[0]
        if missing := [key for key in ("x", "y") if key not in tensors]:
            raise DataError(
                f"{path}: has no array {', '.join(missing)}, only {', '.join(tensors) or 'none'}; "
                "save images as x (N, C, H, W) and labels as y (N,)"
            )
        return _checked(str(path), tensors["x"], tensors["y"])
    factory = imported("--data", name)
    try:
        given = factory(split) if _takes_split(factory) else factory()
        batches = [given] if hasattr(given, "x") else list(given)
        pairs = [(b.x, b.y) if hasattr(b, "x") else (b[0], b[1]) for b in batches]
        xs, ys = ([torch.as_tensor(one) for one in part] for part in zip(*pairs, strict=True))
        if xs[0].dim() == 3:  # a data set of single images
            xs, ys = [torch.stack(xs)], [torch.stack(ys)]
        return _checked(name, torch.cat(xs), torch.cat([y.reshape(-1) for y in ys]))
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"--data: {name} gives no batches of images and labels "
            f"({type(error).__name__}: {error}); return an iterable of pairs (x, y), "
            "x (B, C, H, W) in [0, 1] and y (B,)"
        ) from error


def _takes_split(factory: Any) -> bool:
    import inspect

    try:
        return "split" in inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return False


def _npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # a broken archive has many ways to fail
        raise DataError(
            f"{path}: cannot be read as arrays ({type(error).__name__}: {error}); save it with "
            "numpy.savez(path, x=images, y=labels)"
        ) from error


def _checked(name: str, x: Tensor, y: Tensor) -> Own:
    """Images as float32, 8-bit ones divided by 255.

    Raises: DataError: shapes, types or ranges do not fit.
    """
    if x.dtype == torch.uint8:
        x = x.float() / 255
    if x.dim() != 4 or not x.is_floating_point() or not len(x):
        raise DataError(
            f"{name}: x must be images (N, C, H, W), uint8 or floating point, got "
            f"{tuple(x.shape)} {x.dtype}; grey images get their channel with x[:, None]"
        )
    if y.shape != x.shape[:1] or y.is_floating_point() or y.is_complex() or int(y.min()) < 0:
        raise DataError(
            f"{name}: y must be {len(x)} class numbers from 0, got {tuple(y.shape)} {y.dtype}; "
            "one-hot labels become numbers with y.argmax(1)"
        )
    low, high = (float(v) for v in x.aminmax())
    if not (low >= 0 and high <= 1):
        raise DataError(f"{name}: pixels must lie in [0, 1], got values from {low:g} to {high:g}")
    held, labels = x.float(), y.long()
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return Own(Rows(lambda a, b: held[a:b].clone(), held.shape), labels, classes)
