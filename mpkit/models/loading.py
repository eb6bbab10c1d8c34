"""Networks from elsewhere: named ones, anybody's factory, weights from safetensors files."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.core.devices import resolve_device
from mpkit.core.files import DataError, unpacked
from mpkit.models.cnn import NETWORKS

OURS = "model/"  # how a checkpoint of mpkit.training.fit marks the network's own tensors


def load_model(
    spec: str, weights: Path | None, shape: tuple[int, int, int], classes: int, device: str = "auto"
) -> nn.Module:
    """Build a network and give it weights; nothing is unpickled.

    Args:
        spec: a key of mpkit.models.NETWORKS, or ``package.module:factory``.
            The factory is called with those of ``shape``, ``classes`` and ``rng`` that it names;
            modules of the current folder are found.
        weights: a safetensors file, a checkpoint of mpkit or plain; None keeps the factory's own.
        shape: (C, H, W) of the images.
        classes: number of classes.
        device: see ``mpkit.core.devices.resolve_device``.

    Returns: the network in eval mode, in float32, on the device.

    Raises:
        ValueError: the factory cannot be found or called, or gives no network.
        DataError: the weights cannot be read or do not fit.
    """
    if spec in NETWORKS and weights is None:
        raise ValueError(
            f"--model: {spec} comes without weights; give a safetensors file with --weights"
        )
    factory: Callable[..., Any] = NETWORKS[spec] if spec in NETWORKS else _factory(spec)
    known = {"shape": shape, "classes": classes, "rng": torch.Generator().manual_seed(0)}
    try:
        named = inspect.signature(factory).parameters
        model = factory(**{name: value for name, value in known.items() if name in named})
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--model: {spec} cannot be called ({error}); every parameter but shape, classes and "
            "rng needs a default"
        ) from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"--model: {spec} gave a {type(model).__name__}; it must return a torch.nn.Module"
        )
    if weights is not None:
        _fill(model, weights)
    return model.to(resolve_device(device), torch.float32).eval()


def _factory(spec: str) -> Callable[..., Any]:
    module, colon, name = spec.partition(":")
    if not colon or not module or not name:
        raise ValueError(
            f"--model: {spec!r} is none of {', '.join(NETWORKS)} and not package.module:factory"
        )
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"--model: {spec} cannot be imported ({error})") from error
    if not callable(found):
        raise ValueError(f"--model: {spec} is a {type(found).__name__}, not a function or class")
    factory: Callable[..., Any] = found
    return factory


def _fill(model: nn.Module, path: Path) -> None:
    """Copy a file's tensors into a network, all of them or none."""
    try:
        tensors, _ = unpacked(path)
    except DataError as error:
        raise DataError(
            f"{error}; save weights with safetensors.torch.save_file(model.state_dict(), path)"
        ) from error
    own = {name.removeprefix(OURS): t for name, t in tensors.items() if name.startswith(OURS)}
    tensors = own or tensors
    problems = _misfits(model.state_dict(), tensors)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(
            f"{path}: does not fit the network: {'; '.join(problems[:3])}{more}; "
            "give the factory that these weights were trained with"
        )
    model.load_state_dict(tensors)


def _misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in wanted if name not in given]
    foreign = [f"{name} is not in the network" for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(given[name].shape)}, the network's is {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    return shapes + missing + foreign
