"""Rows of nested values: a tensor (B, ...), or a tuple or frozen dataclass that holds some.

Coordinates of a union, sets with one radius per image and the states of attacks are such trees.
Tensors without dimensions, numbers and everything else belong to all rows and stay as they are.
"""

from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Tree = TypeVar("Tree")


def mapped(function: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """Apply a function to every tensor with rows, and to its counterparts in trees alike."""
    result: Any = tree
    if isinstance(tree, Tensor):
        result = function(tree, *others) if tree.dim() else tree
    elif isinstance(tree, tuple):
        parts = [mapped(function, *alike) for alike in zip(tree, *others, strict=True)]
        result = type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    elif is_dataclass(tree) and not isinstance(tree, type):
        result = copy(tree)
        for field in fields(tree):
            alike = [getattr(one, field.name) for one in (tree, *others)]
            object.__setattr__(result, field.name, mapped(function, *alike))
    return cast(Tree, result)


def take(tree: Tree, rows: Tensor | slice) -> Tree:
    """The given rows of a tree: indices (n,), or a slice."""
    return mapped(lambda t: t[rows], tree)


def moved(tree: Tree, device: torch.device) -> Tree:
    """The tree with all its rows on a device; the tree itself where they lie there."""
    away = any(tensor.device != device for tensor in leaves(tree))
    return mapped(lambda t: t.to(device), tree) if away else tree


def leaves(tree: Any) -> list[Tensor]:
    """Every tensor with rows, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    mapped(note, tree)
    return found


def outline(tree: Any) -> Hashable:
    """What must be the same in two trees for the rows of one to take the places of the other's.

    Types, shapes without rows, and everything that belongs to all rows; fields of a dataclass that
    are not compared are left out.

    Raises: TypeError: something that belongs to all rows has no hash, or is a tensor.
    """
    if isinstance(tree, Tensor):
        if not tree.dim():
            raise TypeError("outline: a tensor without rows has a value that may change")
        return tree.shape[1:], tree.dtype
    if isinstance(tree, tuple):
        return type(tree), *map(outline, tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return type(tree), *(outline(getattr(tree, f.name)) for f in fields(tree) if f.compare)
    hash(tree)
    return cast(Hashable, tree)


def where(mask: Tensor, yes: Tree, no: Tree) -> Tree:
    """Each row from ``yes`` where the mask (B,) is true, from ``no`` elsewhere.

    Floating tensors with more than one dimension must be finite: they are mixed by arithmetic,
    which is exact and on a CPU far quicker than a selection.
    """

    def rows(a: Tensor, b: Tensor) -> Tensor:
        here = mask.view(-1, *[1] * (a.dim() - 1))
        mix = a.dim() > 1 and a.is_floating_point() and not a.is_cuda
        return pick(here, a, b) if mix else torch.where(here, a, b)

    return mapped(rows, yes, no)


def put(tree: Tree, rows: Tensor, part: Tree) -> Tree:
    """The tree with the given rows (n,) replaced by those of ``part``."""
    return mapped(lambda t, p: t.index_copy(0, rows, p), tree, part)


def joined(parts: list[Tree]) -> Tree:
    """One tree with the rows of all parts, in order."""
    return mapped(lambda *tensors: torch.cat(tensors), parts[0], *parts[1:])


def pick(mask: Tensor, yes: Tensor, no: Tensor, out: Tensor | None = None) -> Tensor:
    """torch.where for finite numbers, by arithmetic that is exact for them and far quicker.

    The mask is bool, of a shape that broadcasts; ``out`` may be ``no``.
    """
    return torch.lerp(no, yes, mask.to(no.dtype), out=out)
