"""Refusals of what is unfit, for all rooms: a ValueError that says what, where and what to do."""

import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

Radius = float | Tensor
_UNREAD: ContextVar[bool] = ContextVar("unread", default=False)


@contextmanager
def unread() -> Iterator[None]:
    """Within, no check reads values from a GPU, which would make the host wait for it.

    For loops whose images are known to be sound and whose results are looked at later. Shapes,
    types and devices are checked as ever, and on a CPU values too.
    """
    token = _UNREAD.set(True)
    try:
        yield
    finally:
        _UNREAD.reset(token)


def readable(tensor: Tensor) -> bool:
    """Whether a check may read the values of a tensor here (see unread)."""
    return not (tensor.is_cuda and _UNREAD.get())


def ordinary(tensor: Tensor) -> Tensor:
    """A tensor that gradients can be taken through: a copy of one made in inference mode."""
    return tensor.clone() if isinstance(tensor, Tensor) and tensor.is_inference() else tensor


def require_radius(name: str, eps: Radius, rows: int | None = None, argument: str = "eps") -> None:
    """Refuse a radius that is not positive and finite, or not one per row.

    Args:
        name: what to call the owner of the radius in the message.
        eps: a number > 0, or a tensor (B,) of values ≥ 0.
        rows: B, where known.
        argument: what the radius is called there.
    """
    if isinstance(eps, Tensor):
        fine = not readable(eps) or bool((torch.isfinite(eps) & (eps >= 0)).all())
        if eps.dim() > 1 or (eps.dim() == 1 and rows is not None and len(eps) != rows):
            raise ValueError(
                f"{name}: {argument} must be a number or one radius per image ({rows}), got shape "
                f"{tuple(eps.shape)}; reshape it to ({rows},)"
            )
    else:
        fine = math.isfinite(eps) and eps > 0
    if not fine:
        raise ValueError(
            f"{name}: {argument} must be positive and finite, got {eps}; "
            "give a radius in pixel units such as 0.3"
        )


def require_finite(name: str, **tensors: Tensor) -> None:
    """Refuse a tensor that holds NaN or an infinity, naming the argument and the first bad row."""
    for argument, tensor in tensors.items():
        if not readable(tensor):
            continue
        good = torch.isfinite(tensor)
        if not bool(good.all()):
            row = int((~good.reshape(len(good), -1).all(1)).nonzero()[0])
            raise ValueError(
                f"{name}: {argument} holds NaN or infinity in row {row}; "
                "look for a diverged model or an overflow before this call"
            )


def require_sound(name: str, d: Tensor, eps: Radius) -> None:
    """Refuse a bad radius or non-finite entries of d before a projection.

    On a GPU only a radius given as a number is looked at: reading a tensor there would stop the
    stream at every step of an attack, which checks its result once at its end instead.
    """
    if not isinstance(eps, Tensor) or not eps.is_cuda:
        require_radius(name, eps, len(d))
    if not d.is_cuda and not math.isfinite(float(d.detach().sum())):
        require_finite(name, d=d)


def require_positive(name: str, **numbers: float | None) -> None:
    """Refuse a number that is not positive and finite; None stands for a default and passes."""
    for argument, number in numbers.items():
        if number is not None and not (math.isfinite(number) and number > 0):
            raise ValueError(
                f"{name}: {argument} must be positive and finite, got {number}; "
                "give a number above 0"
            )


def require_images(x: Tensor) -> None:
    """Refuse anything but images (B, C, H, W), float32 or float64, with values in [0, 1]."""
    if not isinstance(x, Tensor) or x.dim() != 4 or x.numel() == 0:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        remedy = "skip empty batches"
        if not hasattr(x, "dim"):
            remedy = "make it a tensor with torch.as_tensor(x)"
        elif x.dim() == 3:
            remedy = "grey images (B, H, W) get x[:, None], a single image (C, H, W) gets x[None]"
        elif x.dim() != 4:
            remedy = "reshape it, channels before height and width"
        raise ValueError(
            f"x: must be a batch of images (B, C, H, W) with at least one, got {got}; {remedy}"
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"x: images must be float32 or float64, got {x.dtype}; use x.float(), and for a model "
            "that works in less precision wrap the model, not the images"
        )
    if not readable(x):
        return
    low, high = (float(v) for v in torch.aminmax(x.detach()))
    if math.isnan(low):
        row = int(x.isnan().flatten(1).any(1).nonzero()[0])
        raise ValueError(f"x: holds NaN in image {row}; look at how the images are made")
    if not (low >= 0 and high <= 1):
        remedy = "undo the normalization (it belongs in the model's first layer)"
        if low >= 0 and 1 < high <= 255:
            remedy = "divide by 255"
        elif -1 <= low < 0 and high <= 1:
            remedy = "shift it with (x + 1) / 2 if it lies in [-1, 1], and shift back in the model"
        raise ValueError(
            f"x: pixels must lie in [0, 1], got values from {low:g} to {high:g}; {remedy}"
        )


def require_labels(y: Tensor, x: Tensor) -> None:
    """Refuse labels that are not one int64 ≥ 0 for each image of x, on the same device."""
    if not isinstance(y, Tensor) or y.dtype != torch.int64 or y.shape != (len(x),):
        got = f"{tuple(y.shape)} {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
        remedy = "use y.long()"
        if not hasattr(y, "dim"):
            remedy = "make it a tensor with torch.as_tensor(y)"
        elif y.dim() == 2 and len(y) == len(x):
            remedy = "one-hot labels become numbers with y.argmax(1)"
        elif y.shape != (len(x),):
            remedy = "give as many labels as images"
        raise ValueError(
            f"y: must hold one int64 label for each of the {len(x)} images, got {got}; {remedy}"
        )
    require_device("y", y.device, x.device)
    if readable(y) and int(y.min()) < 0:
        raise ValueError(f"y: labels must be ≥ 0, got {int(y.min())}; number classes from 0")


def require_device(name: str, device: torch.device, wanted: torch.device) -> None:
    """Refuse something that lies on another kind of device than the images."""
    if device.type != wanted.type:
        raise ValueError(
            f"{name}: is on {device}, the images are on {wanted}; move one of them, or for a "
            f"generator make torch.Generator({wanted.type!r})"
        )


def require_fitting(model: object, x: Tensor) -> None:
    """Refuse a model on another device than x, or in the other of float32 and float64."""
    if not isinstance(model, nn.Module):
        return
    weight = next(model.parameters(), None)
    if weight is None:
        return
    require_device("model", weight.device, x.device)
    if weight.dtype in (torch.float32, torch.float64) and weight.dtype != x.dtype:
        raise ValueError(
            f"model: works in {weight.dtype}, the images are {x.dtype}; "
            "convert one of them with .to(dtype)"
        )


def imported(option: str, spec: str) -> Callable[..., Any]:
    """The function or class that ``package.module:name`` names.

    Args:
        option: such as ``--model``, which begins every message.
        spec: the module, a colon, and a name in it; of a class's own with dots.

    Raises: ValueError: it cannot be imported, or is not to be called.
    """
    module, _, name = spec.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{option}: {spec} cannot be imported: {told(error)}") from error
    if not callable(found):
        kind = type(found).__name__
        raise ValueError(f"{option}: {spec} is a {kind}, not a function or class")
    return found


def told(error: BaseException) -> str:
    """Class, first line and place of an error, in one line."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    own = [f for f in frames if not f.filename.startswith((ours, inspect.__file__, "<frozen"))]
    own = [f for f in own if "importlib" not in f.filename]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    words = str(error).splitlines()[0] if str(error) else "without a word"
    return f"{type(error).__name__}: {words}{place}"
