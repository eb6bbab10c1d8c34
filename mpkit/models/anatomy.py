"""What any object is made of, by name: code, weights, settings, and the networks behind it."""

from __future__ import annotations

import functools
import hashlib
import re
import sys
import types
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OWN = ("_parameters", "_buffers", "_modules", *HOOKS)
"""What counts of the attributes that torch gives to every module."""

KNOWN = frozenset(vars(nn.Module()))
BOOKKEEPING = KNOWN - set(OWN)
LIBRARIES = frozenset({"torch", "numpy", "mpkit", *sys.stdlib_module_names})
"""Whose code is known by its version; of others every line counts."""

PLAIN = (type(None), bool, int, float, complex, str, bytes)
NAMED = (type, types.BuiltinFunctionType, types.ModuleType, torch.dtype, torch.device)
UNSEEN = {"__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "_abc_impl"}
UNSEEN |= {"__abstractmethods__", "__firstlineno__", "__static_attributes__", "__slots__"}
MANY = 1000  # things that hold no networks, such as a list of images
DEEP = 60  # levels, beyond which nothing tells two networks apart


def leaves(value: Any) -> dict[str, str]:
    """Everything that a value holds, by the way to it: numbers as words, tensors as hashes.

    What is met a second time is told by a hash of what it was found to hold. Ways to code end in
    ``code``; what cannot be opened is told by its class.
    """
    found: dict[str, str] = {}
    _walk(value, "", {}, found, 0)
    return found


def _walk(value: Any, path: str, seen: dict[int, Any], found: dict[str, str], depth: int) -> str:
    """Enter what a value holds in ``found``, and give a hash of it all."""
    if type(value) in PLAIN:
        found[path] = repr(value)
        return repr(value)
    if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and not value.dtype.hasobject):
        found[f"{path} tensor"] = told = _bytes(value)
        return told
    if isinstance(value, torch.Generator) or depth > DEEP or len(seen) > 50 * MANY:
        return ""
    if id(value) in seen:
        found[f"{path} again"] = told = str(seen[id(value)][1])
        return told
    seen[id(value)] = (value, "itself")  # kept, so that its number is not given again
    parts = [
        (name, _walk(part, f"{path}.{name}", seen, found, depth + 1))
        for name, part in opened(value).items()
    ]
    seen[id(value)] = (value, told := hash_of(parts))
    return told


def hash_of(value: Any) -> str:
    """A hash of plain data."""
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _bytes(array: Tensor | np.ndarray[Any, Any]) -> str:
    """A hash of numbers, with their type and shape, however they lie in memory."""
    if isinstance(array, Tensor):
        if array.is_meta or array.is_nested:
            return f"{array.dtype} without one shape"
        plain = array.detach().to_dense() if array.layout != torch.strided else array.detach()
        plain = plain.dequantize() if plain.is_quantized else plain
        plain = plain.resolve_conj().resolve_neg().cpu().contiguous()
        shape, flat = tuple(plain.shape), plain.flatten().view(torch.uint8).numpy()
    else:
        shape, flat = array.shape, np.ascontiguousarray(array)
    content = hashlib.sha256(f"{array.dtype} {shape}".encode())
    content.update(flat.tobytes())
    return content.hexdigest()


def opened(value: Any) -> dict[str, Any]:
    """What an object is made of, by name; its class alone where it cannot be opened."""
    try:
        return _parts(value)
    except Exception:  # objects of strangers may raise anything
        return {"class code": f"{type(value).__module__}.{type(value).__qualname__}"}


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, torch.jit.ScriptModule):
        graph = torch._C._jit_pass_canonicalize(value.inlined_graph.copy())
        plain = re.sub(r"___torch_mangle_\d+\.| *#.*", "", str(graph))
        return {"graph code": plain, **value.state_dict()}
    if isinstance(value, nn.Module):
        held = {k: v for k, v in vars(value).items() if k not in BOOKKEEPING}
        hooks = {k: list(held[k].values()) for k in HOOKS if k in held}
        return {**_class(type(value)), **held, **hooks}
    if isinstance(value, Mapping):
        return {_key(number, key): part for number, (key, part) in enumerate(value.items())}
    if isinstance(value, list | tuple):
        return {str(number): part for number, part in enumerate(value)}
    if isinstance(value, set | frozenset):
        words = sorted(hash_of(sorted(leaves(part).items())) for part in value)
        return {str(number): word for number, word in enumerate(words)}
    if isinstance(value, functools.partial):
        return {"func": value.func, "args": value.args, "keywords": value.keywords}
    if isinstance(value, types.MethodType):
        return {"self": value.__self__, "func": value.__func__}
    if isinstance(value, types.FunctionType):
        return _function(value)
    if isinstance(value, weakref.ReferenceType):
        return {"to": value()}
    if isinstance(value, type) and not _of_library(value):
        return _class(value)
    if isinstance(value, NAMED):
        return {"name code": getattr(value, "__qualname__", None) or str(value)}
    if hasattr(value, "__wrapped__"):
        return {"wrapped": value.__wrapped__}
    if isinstance(value, property | functools.cached_property):
        return {"of": getattr(value, "fget", getattr(value, "func", None))}
    if isinstance(value, classmethod | staticmethod):
        return {"of": value.__func__}
    return {**_class(type(value)), **_reduced(value)}


def _key(number: int, key: Any) -> str:
    """A word for a key; its place for one whose own words may hold an address."""
    plain = isinstance(key, str | bytes | int | float | None)
    return f"{type(key).__name__} {key if plain else number}"


def _reduced(value: Any) -> dict[str, Any]:
    """What pickle would write of an object; nothing is called but its own methods for that."""
    made = value.__reduce_ex__(4)
    if isinstance(made, str):
        return {"name": made}
    names = ("how", "args", "state", "items", "keys")
    parts = dict(zip(names, made, strict=False))
    parts["items"], parts["keys"] = (list(parts.get(k) or ()) for k in ("items", "keys"))
    parts["how"] = getattr(parts["how"], "__qualname__", "")
    if isinstance(parts.get("state"), dict):
        parts |= parts.pop("state")
    return parts


def _of_library(value: Any) -> bool:
    module = getattr(value, "__module__", None) or "builtins"
    return _installed(str(module).partition(".")[0])


@functools.cache
def _installed(package: str) -> bool:
    """Whether a package is one of the libraries, or lies where packages are installed."""
    if package == "__main__":  # a notebook's own, though the kernel is a library's
        return False
    module = sys.modules.get(package)
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    where = any({"site-packages", "dist-packages"} & set(Path(p).parts) for p in places)
    return package in LIBRARIES or where


def _class(kind: type) -> dict[str, Any]:
    """The name of a class and all that is written in it, unless a library wrote it."""
    found: dict[str, Any] = {"class code": f"{kind.__module__}.{kind.__qualname__}"}
    for base in kind.__mro__:
        if not _of_library(base):
            own = {name: value for name, value in vars(base).items() if name not in UNSEEN}
            found = {**own, **found}
    return found


def _function(function: types.FunctionType) -> dict[str, Any]:
    if _of_library(function):
        return {"name code": f"{function.__module__}.{function.__qualname__}"}
    return {
        "name code": function.__qualname__,
        "body code": repr(_of_code(function.__code__)),
        **_held_by(function),
    }


def _held_by(function: types.FunctionType) -> dict[str, Any]:
    """Defaults, attributes, what it closes over, and the variables of its module that it names."""
    code, cells = function.__code__, {}
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        try:
            cells[name] = cell.cell_contents
        except ValueError:  # not filled yet
            cells[name] = None
    names = _names(code)
    known = {n: function.__globals__[n] for n in names if n in function.__globals__}
    for name, value in list(known.items()):
        if isinstance(value, types.ModuleType):
            own = not _installed(value.__name__.partition(".")[0])
            inside = {n: getattr(value, n) for n in names if own and n in vars(value)}
            known[name] = {"module": value.__name__, **inside}
    return {
        "defaults": function.__defaults__,
        "keywords": function.__kwdefaults__,
        "attributes": vars(function),
        "closure": cells,
        "globals": known,
    }


def _names(code: types.CodeType) -> list[str]:
    """What a function names, and what the functions within do."""
    inner = [name for c in code.co_consts if isinstance(c, types.CodeType) for name in _names(c)]
    return list(dict.fromkeys([*code.co_names, *inner]))


def _of_code(code: types.CodeType) -> tuple[Any, ...]:
    """The instructions of a function, its constants and those of the functions within."""
    return code.co_code.hex(), [_constant(c) for c in code.co_consts], code.co_names


def _constant(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _of_code(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def networks(model: Any) -> list[nn.Module]:
    """The networks in a model: itself, or those that a function, method or object holds.

    Looked for in closures, defaults, arguments of partial functions, attributes, lists, classes,
    and the variables that code names; not in what is registered in a network that was found.
    """
    return behind(model)[0]


def behind(model: Any) -> tuple[list[nn.Module], bool]:
    """The ``networks`` of a model, and whether it calls anything that may hide another."""
    found: list[nn.Module] = []
    seen: dict[int, Any] = {}
    left, hiding = [model], False
    while left and len(seen) < 10 * MANY:
        value = left.pop()
        if id(value) in seen or _simple(value):
            continue
        seen[id(value)] = value
        if isinstance(value, nn.Module):
            found.append(value)
            for one in value.modules():
                seen[id(one)] = one
                left += [v for k, v in vars(one).items() if k not in KNOWN and not _plain(v)]
                methods = {} if _of_library(type(one)) else vars(type(one))
                for method in methods.values():
                    if isinstance(method, types.FunctionType):
                        left += _held_by(method).values()
            continue
        hiding = hiding or callable(value)
        held = _held_by(value) if isinstance(value, types.FunctionType) else opened(value)
        left += held.values()
    return found, hiding


def _plain(value: Any) -> bool:
    """Whether it is a number, a word, or a few of them, as most settings of layers are."""
    kind = type(value)
    return kind in PLAIN or (kind is tuple and all(type(one) in PLAIN for one in value))


def _simple(value: Any) -> bool:
    """Whether nothing in it can be a network, or there is too much of it."""
    if isinstance(value, list | tuple | set | frozenset | Mapping) and len(value) > MANY:
        held = next(iter(value.values() if isinstance(value, Mapping) else value))
        return not isinstance(held, nn.Module) and not callable(held)
    return isinstance(value, (*PLAIN, Tensor, np.ndarray, types.ModuleType)) or (
        isinstance(value, type | types.FunctionType) and _of_library(value)
    )
