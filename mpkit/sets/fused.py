"""Kernels for a GPU that do a row of a batch at a time, each beside the plain function it replaces.

A plain projection or step is dozens of small kernels, which a GPU spends more time to begin than
to do. Here a row lies in registers: a level is found by halving there, and nothing is sorted. A
kernel is used once it has given what its plain function gives, on the first images that it meets;
where it cannot be compiled, or gives something else, a message says so and the plain one stays.
``MPKIT_TRITON=0`` in the environment turns all of them off, ``off()`` for a while.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, wraps
from math import inf
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

Given = ParamSpec("Given")
Result = TypeVar("Result")

MOST = 16384
"""Entries of a row at most: more do not fit into the registers of a few warps."""

PROVEN: dict[str, bool] = {}
"""The kernels that were tried, by name: whether they gave what the plain functions give."""

_SWITCH = {"on": os.environ.get("MPKIT_TRITON", "1") != "0"}


class Unfit(Exception):
    """Arguments that the plain function refuses, with words."""


@contextmanager
def off() -> Iterator[None]:
    """Within, only plain functions are used."""
    before = _SWITCH["on"]
    _SWITCH["on"] = False
    try:
        yield
    finally:
        _SWITCH["on"] = before


def by_kernel(
    kernel: Callable[..., Any],
) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]:
    """A plain function of rows whose work a kernel does where it can.

    Args:
        kernel: takes the same arguments in order and gives the same, up to rounding.
    """

    def around(plain: Callable[Given, Result]) -> Callable[Given, Result]:
        @wraps(plain)
        def either(*given: Given.args, **named: Given.kwargs) -> Result:
            if named or not fit(given) or PROVEN.get(kernel.__name__) is False:
                return plain(*given, **named)
            return cast(Result, _by(kernel, plain, given))

        return either

    return around


def fit(given: Sequence[Any]) -> bool:
    """Whether arguments are such as kernels take: rows of float32 on a GPU, not too long."""
    first = given[0]
    if not (_SWITCH["on"] and first.is_cuda and type(first) is Tensor and available()):
        return False
    numbers = [one for one in given if isinstance(one, Tensor) and one.is_floating_point()]
    alike = all(one.dtype == torch.float32 for one in numbers)
    asked = torch.is_grad_enabled() and any(one.requires_grad for one in numbers)
    return alike and not asked and 0 < first.numel() <= MOST * len(first)


@cache
def available() -> bool:
    """Whether there is a GPU that Triton compiles for."""
    return torch.cuda.is_available() and torch.version.cuda is not None


def _by(kernel: Callable[..., Any], plain: Callable[..., Any], given: Sequence[Any]) -> Any:
    """What a kernel gives, or, when it is met first or cannot be compiled, the plain function.

    To compare both waits for the device, once for each kernel and never within a recording.
    """
    name, why = kernel.__name__, "it gave something else"
    known, result = PROVEN.get(name, False), None
    if not known:
        result = plain(*given)
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return result
    try:
        found = kernel(*given)
        PROVEN[name] = known or alike(found, result)
    except Unfit:
        return plain(*given)
    except Exception as error:  # of a compiler, or of a machine that has none
        PROVEN[name], why = False, f"{type(error).__name__}: {error}".splitlines()[0]
    if PROVEN[name]:
        return found if known else result
    warnings.warn(f"fused: the kernel {name} is not used ({why})", stacklevel=4)
    return plain(*given) if known else result


def alike(found: Any, expected: Any) -> bool:
    """Whether two results agree but for a hundredth of their mass, which rounding may move."""
    if isinstance(expected, tuple):
        return all(map(alike, found, expected))
    found, expected = found.double(), expected.double()
    level = found == expected  # infinities among them
    apart = (found - expected).masked_fill(level, 0).abs().sum()
    mass = expected.masked_fill(expected.isinf(), 0).abs().sum()
    return found.shape == expected.shape and bool(apart <= 0.01 * mass + 1e-6)


def kernels() -> ModuleType:
    """The kernels; Triton is imported with them."""
    from mpkit.sets import kernels as found

    return found


def launch(name: str, like: Tensor, *given: Any, **fixed: Any) -> None:
    """Run a kernel on every row of a batch (B, ...)."""
    size, block = like[0].numel(), _block(like)
    warps = 4 if block <= 1024 else 8 if block <= 4096 else 16
    with torch.cuda.device_of(like):  # type: ignore[no-untyped-call]
        getattr(kernels(), name)[(len(like),)](
            *given, size, BLOCK=block, num_warps=warps, enable_fp_fusion=False, **fixed
        )


def _block(rows: Tensor) -> int:
    """The power of two that holds a row."""
    return max(16, 1 << (rows[0].numel() - 1).bit_length())


def _numbers(value: Any, like: Tensor) -> tuple[Any, int]:
    """A number, and 0; a tensor that holds one, and 1; one that holds one for each row, and 2."""
    if not isinstance(value, Tensor):
        return float(value), 0
    value = value.to(device=like.device, dtype=like.dtype).flatten().contiguous()
    return value, 1 if value.numel() == 1 else 2


def _nearest(name: str, d: Tensor, eps: Any, x: Tensor | None) -> Tensor:
    d = d.contiguous()
    out, (radius, rows) = torch.empty_like(d), _numbers(eps, d)
    if not rows and not 0 < radius < inf:
        raise Unfit
    launch(
        name, d, d, d if x is None else x.contiguous(), radius, out, BOX=x is not None, ROWS=rows
    )
    return out


def linf_nearest(d: Tensor, eps: Any, x: Tensor | None = None) -> Tensor:
    """The nearest point of an l_inf ball, and of the box around x if it is given."""
    return _nearest("linf_nearest", d, eps, x)


def l1_nearest(d: Tensor, eps: Any, x: Tensor | None = None) -> Tensor:
    """The nearest point of an l_1 ball, and of the box around x if it is given."""
    return _nearest("l1_nearest", d, eps, x)


def l2_nearest(d: Tensor, eps: Any, x: Tensor | None = None) -> Tensor:
    """The nearest point of an l_2 ball, and of the box around x if it is given."""
    return _nearest("l2_nearest", d, eps, x)


def l2_length(d: Tensor) -> Tensor:
    """The Euclidean norm of each row: (B,)."""
    d = d.contiguous()
    out = d.new_empty(len(d))
    launch("l2_length", d, d, out)
    return out


def l2_direction(g: Tensor) -> Tensor:
    """Each row over its Euclidean norm."""
    g = g.contiguous()
    out = torch.empty_like(g)
    launch("l2_direction", g, g, out)
    return out


def movable(x: Tensor, g: Tensor) -> Tensor:
    """The gradient without the entries that only push a pixel out of the box."""
    g = g.contiguous()
    out = torch.empty_like(g)
    launch("movable", g, x.contiguous(), g, out)
    return out


def l1_filling(x: Tensor, g: Tensor, length: Any) -> Tensor:
    """The steepest step of an l_1 length within the box."""
    g = g.contiguous()
    out, (budget, rows) = torch.empty_like(g), _numbers(length, g)
    launch("l1_filling", g, x.contiguous(), g, budget, out, ROWS=rows)
    return out


def largest_signs(g: Tensor, moving: Tensor) -> Tensor:
    """Signs of the largest entries over their number, of another share (B,) in each row."""
    g = g.contiguous()
    out = torch.empty_like(g)
    launch("largest_signs", g, g, moving.contiguous(), out)
    return out


def sparse_step(x: Tensor, g: Tensor, quantile: float, length: Any) -> Tensor:
    """The step of SLIDE."""
    g = g.contiguous()
    out, (budget, rows) = torch.empty_like(g), _numbers(length, g)
    count = max(1, round((1 - quantile) * g[0].numel()))
    launch("sparse_step", g, x.contiguous(), g, budget, out, count, ROWS=rows)
    return out


def better(
    z: Tensor, score: Tensor, reached: Tensor, other: Tensor, higher: Tensor, now: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Row by row the better of two points, each with its score and whether it reaches the goal."""
    z, other = z.contiguous(), other.contiguous()
    out = torch.empty_like(z), torch.empty_like(score), torch.empty_like(reached)
    launch("better", z, z, score, reached, other, higher, now, *out)
    return out


def pair_share(q: Tensor, p: Tensor, a: int, b: int, eps_a: Any, eps_b: Any) -> Tensor:
    """The share (B,) of a first budget at which both are worth the same; see ``convex_hull``."""
    p, q = p.contiguous(), q.contiguous()
    out, (one, rows_a), (other, rows_b) = (
        q.new_empty(len(q)),
        _numbers(eps_a, q),
        _numbers(eps_b, q),
    )
    fixed = {"A": a, "B": b, "ROWS_A": rows_a, "ROWS_B": rows_b, "WIDE": _block(p)}
    launch("pair_share", q, p, q, one, other, out, p[0].numel(), **fixed)
    return out
