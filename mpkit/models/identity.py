"""Which network this is: a hash of all that it computes with, and its answers on a probe.

Two networks may share their weights and differ in a number, an activation or a closure. What has
been measured on one must never be taken for the other's.
"""

from __future__ import annotations

import functools
import hashlib
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpkit.core.memory import in_pieces

Facts = dict[str, Any]
Model = Callable[[Tensor], Tensor]
ABSENT = -1e30  # in place of NaN, which records do not hold
CLOSE = 0.02
"""Answers of one network on two devices differ by less, as a share of the largest logit."""

OWN = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks")
"""What counts of the attributes that torch gives to every module."""

PLAIN = (bool, int, float, complex, str, tuple, list, dict, Tensor, types.FunctionType)
LIBRARIES = ("builtins", "abc", "torch", "numpy", "functools", "collections", "typing")
MANY = 1000  # things that hold no networks, such as a list of images
REGISTERED = frozenset(vars(nn.Module()))
BOOKKEEPING = frozenset(vars(nn.Module())) - set(OWN)


def identity(model: Model, image: Tensor, ask: Model | None = None) -> Facts:
    """What tells a network from every other one, as plain data.

    Args:
        model: images to logits (B, K), in the mode that it is measured in.
        image: (1, C, H, W), one of those that it is made for; shape, type and device count.
        ask: what is asked in its place, such as the same model behind checks.

    Returns: ``model``, a hash of weights and code; ``settings``, a hash of all else that it holds;
        ``answers``, logits on a fixed probe, or None where two questions get two answers.
    """
    probe = _probe(image)
    first, again = (_asked(ask or model, probe) for _ in range(2))
    steady = first.shape == again.shape and torch.equal(first.nan_to_num(), again.nan_to_num())
    if steady and not networks(model) and not close(_asked(ask or model, probe[:2]), first[:2]):
        warnings.warn(
            "model: its answers depend on the other images of the batch; if a network in training "
            "mode is behind it, call its eval() first",
            stacklevel=5,
        )
    told = dict(_leaves(model, "", {}))
    solid = {k: v for k, v in told.items() if k.endswith(" code") or "._parameters." in k}
    return {
        "model": _hash(solid),
        "settings": _hash({k: v for k, v in told.items() if k not in solid}),
        "answers": first.double().nan_to_num(ABSENT).tolist() if steady else None,
    }


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two identities are those of one network, asked on the same machine or on two."""
    if one["model"] != other["model"]:
        return False
    if one["answers"] is None or other["answers"] is None:
        return bool(one["settings"] == other["settings"] and one["answers"] == other["answers"])
    a, b = (torch.tensor(each["answers"], dtype=torch.float64) for each in (one, other))
    if a.shape != b.shape or not close(a, b):
        return False
    return torch.equal(a.nan_to_num(), b.nan_to_num()) or bool(one["settings"] == other["settings"])


def close(a: Tensor, b: Tensor) -> bool:
    """Whether numbers are the same but for rounding, as a share of the largest."""
    a, b = a.detach().nan_to_num(), b.detach().nan_to_num()
    size = float(torch.maximum(a.abs().max(), b.abs().max())) if a.numel() else 0.0
    return float((a - b).abs().max()) <= CLOSE * size if size else True


def networks(model: Any) -> list[nn.Module]:
    """The networks in a model: itself, or those that a function, method or object holds.

    Looked for in closures, defaults, arguments of partial functions, attributes, lists, and the
    module's variables that a function names.
    """
    found: list[nn.Module] = []
    seen: dict[int, Any] = {}
    left = [model]
    while left:
        value = left.pop()
        if id(value) not in seen:
            seen[id(value)] = value
            if isinstance(value, nn.Module):
                found.append(value)
                seen |= {id(one): one for one in value.modules()}
            left += _held(value)
    return found


def _held(value: Any) -> Iterable[Any]:
    """What may lead from a value to a network."""
    if isinstance(value, nn.Module):
        return [v for m in value.modules() for k, v in vars(m).items() if k not in REGISTERED]
    if isinstance(value, Mapping):
        return value.values() if len(value) <= MANY else ()
    if isinstance(value, list | tuple | set):
        return value if len(value) <= MANY else ()
    if isinstance(value, functools.partial):
        return (value.func, *value.args, *value.keywords.values())
    if isinstance(value, types.MethodType):
        return (value.__self__,)
    if isinstance(value, types.FunctionType):
        if value.__module__.partition(".")[0] in LIBRARIES:
            return ()
        known = (value.__globals__.get(name) for name in value.__code__.co_names)
        return (*_function(value)["closure"].values(), *(value.__defaults__ or ()), *known)
    return vars(value).values() if callable(value) and hasattr(value, "__dict__") else ()


def _probe(image: Tensor) -> Tensor:
    """Noise of several strengths, flat images and a ramp: (8, C, H, W), always the same."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(4, *image.shape[1:], generator=rng)
    flat = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, *image.shape[1:])
    ramp = torch.linspace(0, 1, image[0].numel()).view(1, *image.shape[1:])
    return torch.cat([noise, flat, ramp]).to(image)


@torch.no_grad()
def _asked(model: Model, probe: Tensor) -> Tensor:
    """Logits, with the global random numbers at a fixed place and put back afterwards."""
    devices = [probe.device] if probe.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(0)
        pieces = in_pieces("identity", lambda rows: model(probe[rows].clone()), n := len(probe), n)
    return torch.cat(pieces).detach().cpu()


def _hash(parts: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(parts.items())).encode()).hexdigest()


def _leaves(value: Any, path: str, seen: dict[int, Any]) -> Iterator[tuple[str, str]]:
    """Everything that a value holds, with the way to it: numbers, tensors, code; each once."""
    if isinstance(value, Tensor | np.ndarray):
        array = value.detach().cpu().contiguous() if isinstance(value, Tensor) else value
        yield f"{path} tensor", _bytes(array)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        yield path, repr(value)
    elif id(value) not in seen and not isinstance(value, torch.Generator | torch.device):
        seen[id(value)] = value  # kept, so that its number is not given again
        for name, part in _parts(value).items():
            yield from _leaves(part, f"{path}.{name}", seen)


def _bytes(array: Any) -> str:
    flat = array.flatten().view(torch.uint8).numpy() if isinstance(array, Tensor) else array
    content = hashlib.sha256(f"{array.dtype} {tuple(array.shape)}".encode())
    content.update(np.ascontiguousarray(flat).tobytes())
    return content.hexdigest()


def _parts(value: Any) -> dict[str, Any]:
    """What an object is made of, by name."""
    if isinstance(value, torch.jit.ScriptModule):
        return {"code code": str(value.graph), **value.state_dict()}
    if isinstance(value, nn.Module):
        held = {k: v for k, v in vars(value).items() if k not in BOOKKEEPING}
        return {**_class(type(value)), **held}
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        ordered = value if isinstance(value, list | tuple) else sorted(value, key=repr)
        return {str(number): part for number, part in enumerate(ordered)}
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, types.MethodType):
        return {"self": value.__self__, "func": value.__func__}
    if isinstance(value, types.FunctionType):
        return _function(value)
    if isinstance(value, type | types.BuiltinFunctionType | types.ModuleType | torch.dtype):
        return {"name code": getattr(value, "__qualname__", str(value))}
    return {**_class(type(value)), **getattr(value, "__dict__", {})}


def _class(kind: type) -> dict[str, Any]:
    """The name of a class, its methods and its numbers, unless a library wrote it."""
    found: dict[str, Any] = {"class code": f"{kind.__module__}.{kind.__qualname__}"}
    for base in kind.__mro__:
        if base.__module__.partition(".")[0] not in LIBRARIES:
            for name, value in vars(base).items():
                value = getattr(value, "__func__", getattr(value, "fget", value))
                if isinstance(value, PLAIN) and not name.startswith("__module"):
                    found.setdefault(name, value)
    return found


def _function(function: types.FunctionType) -> dict[str, Any]:
    code = function.__code__
    cells = {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not filled yet
            cells[name] = None
    known = {n: function.__globals__[n] for n in code.co_names if n in function.__globals__}
    return {
        "name code": function.__qualname__,
        "body code": repr(_of_code(code)),
        "defaults": function.__defaults__,
        "keywords": function.__kwdefaults__,
        "closure": cells,
        "globals": {
            name: value
            for name, value in known.items()
            if isinstance(value, nn.Module)
            or (isinstance(value, PLAIN) and _module(value) in (None, function.__module__))
        },
    }


def _module(value: Any) -> str | None:
    return getattr(value, "__module__", None)


def _of_code(code: types.CodeType) -> tuple[Any, ...]:
    """The instructions of a function, its constants and those of the functions within."""
    inner = [_of_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return code.co_code.hex(), inner, code.co_names, code.co_varnames
