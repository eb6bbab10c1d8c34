"""Devices by name, and how exactly and how quickly a GPU multiplies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

UNFIT = {
    "mps": "it has no float64, in which every example that counts is checked",
    "xpu": "nothing was ever tried on it",
}
"""Devices that torch may know and that are refused, and why."""


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for.

    Args:
        name: ``auto`` (a CUDA GPU if there is one, else the CPU), ``cpu``, ``cuda``, or ``cuda:1``.

    Raises: ValueError: unknown name, or a GPU that is not there; nothing falls back silently.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    kind, _, index = name.partition(":")
    if kind in UNFIT:
        raise ValueError(
            f"device: {name} cannot be used ({UNFIT[kind]}); take cpu, or a machine with CUDA"
        )
    if kind not in ("cpu", "cuda") or not (index.isdecimal() or name == kind):
        raise ValueError(f"device: use auto, cpu, cuda or cuda:1, got {name!r}")
    if kind == "cuda" and int(index or 0) >= available:
        raise ValueError(
            f"device: {name} was asked for, but {available or 'no'} CUDA device(s) can be used "
            "here; take 'auto' or 'cpu', or install a driver and a CUDA build of torch"
        )
    return torch.device(name)


def chosen() -> str:
    """What ``auto`` stands for here, in words, and what it passes by."""
    device = resolve_device("auto")
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    there = torch.accelerator.current_accelerator()
    kind = there.type if there is not None else ""
    return f"cpu ({kind} is not used: {UNFIT[kind]})" if kind in UNFIT else "cpu"


@contextmanager
def full_precision() -> Iterator[None]:
    """Within, float32 is multiplied as float32, not as tf32 whose mantissa has ten bits.

    On GPUs torch takes tf32 for convolutions unless it is told otherwise: an image that stands by
    it may fall by the network as it is. What was set before is set again afterwards.
    """
    cuda: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    newer = (cuda, cudnn.conv, cudnn.rnn)
    before = [kind.fp32_precision for kind in newer]
    try:
        older = cuda.allow_tf32, cudnn.allow_tf32
        cuda.allow_tf32 = cudnn.allow_tf32 = False
    except RuntimeError:  # set in the newer way, which the older one cannot tell
        older = None
        for kind in newer:
            kind.fp32_precision = "ieee"
    try:
        yield
    finally:
        if older is not None:
            cuda.allow_tf32, cudnn.allow_tf32 = older
        for kind, value in zip(newer, before, strict=True):
            kind.fp32_precision = value


@contextmanager
def tuned(device: torch.device) -> Iterator[None]:
    """Within, convolutions on a GPU take the quickest way, tried out once for each shape.

    Nothing changes where the same bits at every run are asked for.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark
    exact = cudnn.deterministic or torch.are_deterministic_algorithms_enabled()
    cudnn.benchmark = before or (device.type == "cuda" and not exact)
    try:
        yield
    finally:
        cudnn.benchmark = before
