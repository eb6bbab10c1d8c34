"""Networks from elsewhere: named ones, anybody's factory, weights from safetensors files."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.core.checks import imported, told
from mpkit.core.devices import resolve_device
from mpkit.core.files import DataError, unpacked
from mpkit.models.cnn import NETWORKS, ZONE, network
from mpkit.models.robustbench import PREFIX, of_robustbench

OURS = "model/"  # how a checkpoint of mpkit.training.fit marks the network's own tensors
PREFIXES = ("module.", "_orig_mod.")  # of data parallel and of compiled networks
PICKLES = (b"PK\x03\x04", *(bytes((0x80, n)) for n in range(2, 6)))  # also of TorchScript


def load_model(
    spec: str, weights: Path | None, shape: tuple[int, int, int], classes: int, device: str = "auto"
) -> nn.Module:
    """Build a network and give it weights; nothing is unpickled.

    Args:
        spec: a key of mpkit.models.NETWORKS, such as small_cnn, or small_cnn@0.3 with a dead zone
            in front, or ``robustbench:NAME``, or ``package.module:factory``.
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
    if spec.startswith(PREFIX):
        if weights is not None:
            raise ValueError(
                f"--model: {spec} has weights of its own, got --weights {weights}; leave them out, "
                "or name the network as package.module:factory"
            )
        model = of_robustbench(spec, shape, classes)
        return model.to(resolve_device(device), torch.float32).eval()
    if spec.partition(ZONE)[0] in NETWORKS and weights is None:
        raise ValueError(
            f"--model: {spec} comes without weights; give a safetensors file with --weights"
        )
    factory: Callable[..., Any] = _factory(spec)
    known = {"shape": shape, "classes": classes, "rng": torch.Generator().manual_seed(0)}
    named: Mapping[str, inspect.Parameter] = {}
    with suppress(TypeError, ValueError):  # of a builtin, which does not tell
        named = inspect.signature(factory).parameters
    given = {name: value for name, value in known.items() if name in named}
    needed = [n for n, p in named.items() if n not in given and _required(p)]
    if needed:
        raise ValueError(
            f"--model: {spec} cannot be called (it needs {', '.join(needed)}); every parameter but "
            "shape, classes and rng needs a default"
        )
    try:
        model = factory(**given)
    except (Exception, SystemExit) as error:
        raise ValueError(f"--model: {spec} raised {told(error)}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"--model: {spec} gave a {type(model).__name__}; it must return a torch.nn.Module"
        )
    if weights is not None:
        _fill(model, weights)
    return model.to(resolve_device(device), torch.float32).eval()


def _factory(spec: str) -> Callable[..., Any]:
    if spec.partition(ZONE)[0] in NETWORKS:
        try:
            return network(spec)
        except ValueError as error:
            raise ValueError(f"--model: {spec!r}: {error}") from error
    module, colon, name = spec.partition(":")
    if not colon or not module or not name:
        raise ValueError(
            f"--model: {spec!r} is none of {', '.join(NETWORKS)}, not robustbench:NAME and not "
            "package.module:factory"
        )
    return imported("--model", spec)


def _required(parameter: inspect.Parameter) -> bool:
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is parameter.empty and parameter.kind not in several


def _fill(model: nn.Module, path: Path) -> None:
    """Copy a file's tensors into a network, all of them or none."""
    if path.is_file():
        with path.open("rb") as file:
            start = file.read(64)
            if start.startswith(b"PK") and b".npy" in start:
                raise DataError(
                    f"{path}: holds arrays of numpy; write them with "
                    "safetensors.numpy.save_file(dict(numpy.load(path)), new_path)"
                )
            if start.startswith(PICKLES):
                raise DataError(
                    f"{path}: is a pickle, as of torch.save, or TorchScript, and could run code; "
                    "nothing is unpickled here. Where you trust it: "
                    "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)"
                )
    try:
        tensors, _ = unpacked(path)
    except DataError as error:
        raise DataError(
            f"{error}; save weights with safetensors.torch.save_file(model.state_dict(), path)"
        ) from error
    own = {name.removeprefix(OURS): t for name, t in tensors.items() if name.startswith(OURS)}
    wanted = model.state_dict()
    tensors = _tied(path, wanted, _bare(path, wanted, own or tensors))
    problems = _misfits(wanted, tensors)
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise DataError(
            f"{path}: does not fit the network: {'; '.join(problems[:3])}{more}; "
            "give the factory that these weights were trained with"
        )
    model.load_state_dict(tensors)


def _bare(path: Path, wanted: Mapping[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without the prefix that a wrapper gave to all their names, which is said."""
    prefix = ""
    while found := [p for p in PREFIXES if given and all(n.startswith(p) for n in given)]:
        if set(given) & set(wanted):
            break
        given = {name.removeprefix(found[0]): tensor for name, tensor in given.items()}
        prefix += found[0]
    if prefix:
        warnings.warn(f"{path}: took {prefix!r} off the names of its tensors", stacklevel=4)
    return given


def _tied(path: Path, wanted: Mapping[str, Tensor], given: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, and again under the further names of those that the network shares."""
    places = {name: (t.data_ptr(), t.shape, t.stride()) for name, t in wanted.items() if t.numel()}
    held: dict[Any, Tensor] = {}
    for name, tensor in given.items():
        first = held.setdefault(places[name], tensor) if name in places else tensor
        if first is not tensor and not torch.equal(first, tensor):  # a NaN is no other value
            raise DataError(
                f"{path}: holds two values of {name}, which the network shares with another "
                "tensor; give a network that shares nothing there, or tie them in the file"
            )
    shared = {n: held[place] for n, place in places.items() if n not in given and place in held}
    return given | shared


def _misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in wanted if name not in given]
    foreign = [f"{name} is not in the network" for name in given if name not in wanted]
    shapes = [
        f"{name} is {tuple(given[name].shape)}, the network's is {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    kinds = [
        f"{name} is {given[name].dtype}, the network's is {wanted[name].dtype}"
        for name in wanted
        if name in given and given[name].is_floating_point() != wanted[name].is_floating_point()
    ]
    return shapes + kinds + missing + foreign
