"""Devices by name."""

from __future__ import annotations

import torch


def resolve_device(name: str) -> torch.device:
    """The device that a name stands for.

    Args:
        name: ``auto`` (a GPU if there is one), ``cpu``, ``cuda``, or ``cuda:1``.

    Raises: ValueError: unknown name, or a GPU that is not there; nothing falls back silently.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or not (index.isdecimal() or name == kind):
        raise ValueError(f"device: use auto, cpu, cuda or cuda:1, got {name!r}")
    if kind == "cuda" and int(index or 0) >= available:
        raise ValueError(
            f"device: {name} was asked for, but {available or 'no'} CUDA device(s) can be used "
            "here; take 'auto' or 'cpu', or install a driver and a CUDA build of torch"
        )
    return torch.device(name)
