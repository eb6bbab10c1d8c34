"""Gradients through operations that have none, given to them while a model runs."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mpkit.masking.bpda import mended

STEPS = {"round", "floor", "ceil", "trunc", "fix", "rint", "floor_divide", "floordiv"}
ORDER = {"gt": 1, "greater": 1, "ge": 1, "greater_equal": 1}
ORDER |= {"lt": -1, "less": -1, "le": -1, "less_equal": -1}
CHOICE = {"argmax": 1, "argmin": -1, "max": 1, "min": -1, "topk": 1}
CASTS = {"long", "int", "short", "char", "byte", "bool", "to", "type", "type_as"}
LOGIC: dict[str, Any] = {"and": lambda a, b: a * b, "invert": lambda a: 1 - a}
LOGIC |= {"or": lambda a, b: a + b - a * b, "xor": lambda a, b: a + b - 2 * a * b}
ALIASES = {"logical_and": "and", "bitwise_and": "and", "logical_or": "or", "bitwise_or": "or"}
ALIASES |= {"logical_not": "invert", "bitwise_not": "invert", "logical_xor": "xor", "index": "get"}
ALIASES |= {"bitwise_xor": "xor", "sgn": "sign", "getitem": "get", "index_select": "get"}
SQUASHING = {"sigmoid", "tanh", "softmax"}
STEEP = 4.0
"""Sigmoids of an input that deviates by more than this count as thresholds."""

FALSE, ENDS, SHARP = "the false gradient of", "the ends of a clamp", "a steep"
"""What is said of a custom function that lies, of values on a limit, which have no slope, and of
squashing functions."""

CUT = (torch.Tensor.detach, torch.detach, torch.Tensor.data.__get__)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Step:
    """An operation that was led around: its name, the module in which it ran, and that one's call.

    Args:
        name: of the operation.
        place: class and name of the module.
        call: which call of that module in one forward pass, from 1 on.
    """

    name: str
    place: str
    call: int

    def __str__(self) -> str:
        return f"{self.name} in {self.place}, call {self.call}"


@dataclass
class Trace:
    """What one forward pass did: operations led around, and tables of scores on the way."""

    steps: list[Step] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)


class StraightThrough(TorchFunctionMode):
    """While it is on, operations without a slope get one; every value stays what it is.

    Rounding and casts to whole numbers count as the identity, signs and comparisons as slopes as
    wide as their input spreads, argmax and top-k as a softmax, look-ups as interpolation in the
    table. What hangs on whole or truth values is carried along in a float beside them.

    Args:
        rows: images in the batch, by which tables of scores (rows, K) are known.
        width: of slopes, in units of the input's deviation, > 0.
        melt: 0, or ≥ 1: the slopes' functions give the values too, so that steps melt away, and
            steep squashing functions are this many times gentler than the limit for steep ones.
        cuts: whether the graph may be cut by detach and no_grad.
        read: the number of the table of scores to keep in ``seen``; None for none.
        trace: where to write down what happens, or None.

    Source: Athalye, Carlini and Wagner 2018 (BPDA); Bengio et al. 2013 (straight through).
    """

    def __init__(
        self,
        rows: int,
        width: float = 1.0,
        melt: float = 0.0,
        cuts: bool = True,
        read: int | None = None,
        trace: Trace | None = None,
    ) -> None:
        super().__init__()
        self.rows, self.width, self.melt = rows, width, melt
        self.cuts, self.read, self.trace = cuts, read, trace
        self.tables = 0
        self.seen: Tensor | None = None
        self.inside: list[tuple[str, int]] = [("the model itself", 1)]
        self.mending = ExitStack()

    def __enter__(self) -> Self:
        """Custom functions with a lying backward pass are mended as well."""
        self.mending.enter_context(mended(lambda name: self._noted(f"{FALSE} {name}", None)))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        """As before."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self.mending.close()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation; give its result a slope if it has none."""
        kwargs, raw = kwargs or {}, getattr(func, "__name__", "")
        if not self.cuts and (func in CUT or raw in ("register_hook", "_set_grad_enabled")):
            if func in CUT:
                return self._noted("detach", args[0]) if args[0].requires_grad else args[0].detach()
            if raw == "register_hook" or not args[0]:
                return self._noted("no_grad" if raw.startswith("_") else "a hook", None)
        name = raw.strip("_")
        name = ALIASES.get(name, name)
        changes = name == "setitem" or (raw.endswith("_") and not raw.endswith("__"))
        before = args[0].clone() if changes and args and isinstance(args[0], Tensor) else None
        result = func(*args, **kwargs)
        if torch.is_grad_enabled() and raw != "requires_grad_":
            known = (before, *args[1:]) if before is not None else args
            soft = self._soft(name, func, known, kwargs, result)
            if soft is not None and before is not None:
                args[0].copy_(self._attached(args[0].clone(), soft))
            elif soft is not None:
                result = self._attached(result, soft)
        if isinstance(result, Tensor) and result.is_floating_point() and result.dim() == 2:
            self._table(result)
        return result

    def _attached(self, hard: Any, soft: Tensor) -> Any:
        """The value with the slope: in the graph for floats, beside it for others."""
        if isinstance(hard, Tensor) and hard.is_floating_point():
            return soft.expand_as(hard) if self.melt else _Through.apply(hard.detach(), soft)
        if isinstance(hard, Tensor):
            hard.soft = soft  # type: ignore[attr-defined]
        return hard

    def _table(self, result: Tensor) -> None:
        if len(result) == self.rows and result.shape[1] > 1:
            if self.read == self.tables:
                self.seen = result
            self.tables += 1
            if self.trace is not None:
                self.trace.scores.append(result)

    def _noted(self, name: str, soft: Any) -> Any:
        if self.trace is not None:
            self.trace.steps.append(Step(name, *self.inside[-1]))
        return soft

    def _soft(self, name: str, func: Any, args: Any, kwargs: dict[str, Any], hard: Any) -> Any:
        """The same result with a slope; None where there is none to give, or where it has one."""
        given = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
        nested = [b for a in args if isinstance(a, tuple | list) for b in a if hasattr(b, "soft")]
        carried = any(hasattr(a, "soft") for a in given) or bool(nested)
        if not carried and not any(a.requires_grad for a in given):
            return None
        try:
            soft = self._rule(name, args, kwargs, hard)
            if soft is None and carried and name not in CASTS:
                soft = func(*_floats(args), **_floats(kwargs))
        except (RuntimeError, TypeError, IndexError, ValueError, NotImplementedError):
            return None
        usable = isinstance(soft, Tensor) and soft.is_floating_point() and soft.requires_grad
        return soft if usable else None

    def _rule(self, name: str, args: Any, kwargs: dict[str, Any], hard: Any) -> Any:
        rest: list[Any]
        u, *rest = _floats(args or (kwargs.get("input"),))
        if name in STEPS:
            return self._noted(name, u / rest[0] if name.startswith("floor") and rest else u * 1)
        if name in CASTS and isinstance(hard, Tensor) and u.requires_grad:
            whole = not hard.is_floating_point()
            soft = u.to(hard.dtype) if not whole else u * 1
            return self._noted("a cast to whole numbers", soft) if whole else soft
        if name == "sign":
            return self._noted(name, torch.tanh(u / self._spread(u)))
        if name in SQUASHING and isinstance(u, Tensor):
            return self._widened(name, u, args, kwargs)
        if name in ORDER or name in ("eq", "ne"):
            apart = u - rest[0]
            apart = apart / self._spread(apart)
            if name in ORDER:
                return self._noted("a comparison", torch.sigmoid(2 * ORDER[name] * apart))
            near = torch.exp(-apart.square())
            return self._noted("a comparison", near if name == "eq" else 1 - near)
        if name in CHOICE:
            return self._chosen(name, u, args, kwargs, hard)
        if name in LOGIC and hard.dtype == torch.bool:
            return LOGIC[name](u, *rest)
        if name in ("clamp", "clip"):
            ends = [u == end for end in (*rest, *kwargs.values()) if end is not None]
            if bool(torch.stack(ends).any(0).double().mean() > 0.01):
                return self._noted(ENDS, torch.where(u == hard, u, u.detach()))
        return self._mixed(name, args, kwargs)

    def _spread(self, u: Tensor) -> Tensor:
        wide = u.detach().std() if u.numel() > 1 else u.detach().abs()
        return wide.nan_to_num(1.0).clamp(min=1e-12) * self.width

    def _widened(self, name: str, u: Tensor, args: Any, kwargs: Any) -> Any:
        """A sigmoid so steep that its slope underflows."""
        spread, most = u.detach().std().nan_to_num(0.0), STEEP * (5 if name == "softmax" else 1)
        if not bool(spread > most):
            return None
        gentle = u / spread * (most / self.melt if self.melt else 1)
        return self._noted(f"{SHARP} {name}", getattr(torch, name)(gentle, *args[1:], **kwargs))

    def _chosen(
        self, name: str, u: Tensor, args: Any, kwargs: dict[str, Any], hard: Any
    ) -> Tensor | None:
        """Odds of a softmax for what is the greatest; carried by the indices."""
        many = name == "topk"
        dim = kwargs.get("dim", args[1 + many] if len(args) > 1 + many else -1 if many else None)
        if not isinstance(dim, int):
            return None
        least = many and not kwargs.get("largest", args[3] if len(args) > 3 else True)
        odds = (CHOICE[name] * (-u if least else u) / self._spread(u)).softmax(dim).movedim(dim, -1)
        place = torch.arange(odds.shape[-1], dtype=odds.dtype, device=odds.device)
        index: Any = hard if isinstance(hard, Tensor) else hard.indices
        if many:
            odds = odds.unsqueeze(-2).expand(*index.shape, -1)
        elif index.dim() == u.dim():
            odds = odds.unsqueeze(dim)
        self._noted(name, odds)
        index.soft, index.odds = (odds * place).sum(-1), odds
        return None

    def _mixed(self, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
        """Selections and look-ups."""
        if name == "where" and hasattr(args[0], "soft"):
            return _mix(args[0].soft, *args[1:3])
        if name in ("masked_fill", "setitem") and hasattr(args[1], "soft"):
            return None if hasattr(args[1], "odds") else _mix(args[1].soft, args[2], args[0])
        if name == "one_hot" and hasattr(args[0], "soft"):
            return self._noted("one-hot codes", _one_hot(args[0], *args[1:], **kwargs))
        if name == "embedding" and hasattr(args[0], "soft"):
            return self._noted("a look-up", _looked_up(args[1], args[0]))
        if name == "get":
            key = args[-1][0] if isinstance(args[-1], tuple) and len(args[-1]) == 1 else args[-1]
            if isinstance(key, Tensor) and hasattr(key, "soft") and key.dtype != torch.bool:
                return self._noted("a look-up", _looked_up(args[0], key))
        if name in ("bucketize", "searchsorted"):
            u, edges = args[:2] if name == "bucketize" else args[1::-1]
            span = (edges.amax() - edges.amin()).clamp(min=1e-12)
            return self._noted(name, u * (len(edges) / span))
        return None


class _Through(torch.autograd.Function):
    """Forward one value, backward to another of the same shape."""

    @staticmethod
    def forward(ctx: Any, hard: Tensor, soft: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = soft.shape, soft.dtype
        return hard.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return None, gradients[0].sum_to_size(ctx.shape).to(ctx.dtype)


def _floats(tree: Any) -> Any:
    """Arguments with the carried floats in the place of whole and truth values."""
    if isinstance(tree, dict):
        return {key: _floats(value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(_floats(value) for value in tree)
    return getattr(tree, "soft", tree) if isinstance(tree, Tensor) else tree


def _mix(share: Tensor, yes: Any, no: Any) -> Tensor:
    return share * yes + (1 - share) * no  # type: ignore[no-any-return]


def _looked_up(table: Tensor, index: Any) -> Any:
    """Rows of a table (N, ...) by their odds, or by a slope between neighbouring rows."""
    if hasattr(index, "odds") and index.odds.shape[-1] == len(table):
        rows = index.odds.to(table.dtype) @ table.reshape(len(table), -1)
        return rows.view(*index.shape, *table.shape[1:])
    high, low = ((index + step).clamp(0, len(table) - 1) for step in (1, -1))
    span = (high - low).clamp(min=1).view(*index.shape, *[1] * (table.dim() - 1))
    slope = ((table[high] - table[low]) / span).detach()
    return index.soft.view(*index.shape, *[1] * (table.dim() - 1)) * slope


def _one_hot(index: Any, classes: int = -1, **others: Any) -> Any:
    classes = others.get("num_classes", classes)
    classes = int(index.max()) + 1 if classes < 0 else classes
    if hasattr(index, "odds"):
        odds = index.odds[..., :classes]
        return nn.functional.pad(odds, (0, classes - odds.shape[-1]))
    places = torch.arange(classes, dtype=index.soft.dtype, device=index.device)
    return torch.exp(-(index.soft.unsqueeze(-1) - places).square())
