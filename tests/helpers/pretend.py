"""A CPU whose tensors claim to lie on a GPU, and a count of what a GPU would be asked to do.

The claim takes the library's own way for GPUs, with real values; the count tells kernels from
views, and notes whatever would make the host wait. With the ghost device of ``stand_ins``, it also
notes what crosses between host and device.
"""

from __future__ import annotations

import sys
from collections import Counter

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from mpkit.sets import fused

CLAIM = torch.Tensor.is_cuda.__get__

WAITS = frozenset(
    "_local_scalar_dense item is_nonzero equal nonzero nonzero_numpy argwhere masked_select "
    "bincount histc multinomial _unique2 unique_dim unique_consecutive "
    "_linalg_check_errors".split()
)
"""Operations whose result the host reads, or whose shape depends on values."""

VIEWS = frozenset(
    "alias as_strided chunk detach diagonal empty empty_like empty_strided expand lift_fresh "
    "new_empty new_empty_strided permute reshape _reshape_alias "
    "select slice split split_with_sizes squeeze t transpose unbind unfold unsqueeze "
    "_unsafe_view view".split()
)
"""Operations that launch nothing."""


class Claims(TorchFunctionMode):
    """Within, every tensor says that it lies on a GPU."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return True if func == CLAIM else func(*args, **(kwargs or {}))


class Count(TorchDispatchMode):
    """Counts what is launched, and notes waits and crossings with the line of mpkit they are on."""

    def __init__(self):
        super().__init__()
        self.kernels, self.waits, self.crossings = Counter(), Counter(), Counter()

    @property
    def launched(self):
        return sum(self.kernels.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        made = [one for one in tree_leaves(out) if isinstance(one, Tensor)]
        if name in WAITS or _by_mask(name, args) or str(func) == "aten.repeat_interleave.Tensor":
            self.waits[name, _line()] += 1
        if len({one.device.type for one in (*given, *made)} - {"meta"}) > 1:
            self.crossings[name, _line()] += 1
        if name not in VIEWS:
            self.kernels[name] += 1
        return out


class Taken(dict):
    """Every kernel has been tried and was right."""

    def get(self, name, default=None):
        return True


def count_kernels(patch, count):
    """Let a count take each of Triton's kernels as one launch; what it would write is arbitrary."""

    def launch(name, like, *given, **fixed):
        count.kernels[name] += 1
        with _disable_current_modes():
            for one in given:
                if isinstance(one, Tensor) and one.is_floating_point():
                    one.nan_to_num_(0, 0, 0).clamp_(0.01, 1)

    patch.setattr(fused, "available", lambda: True)
    patch.setattr(fused, "PROVEN", Taken())
    patch.setattr(fused, "launch", launch)


def _by_mask(name, args):
    """Whether an index is a mask, so that the shape of the result depends on it."""
    masks = (torch.bool, torch.uint8)
    if name not in ("index", "index_put", "index_put_", "_index_put_impl_"):
        return False
    return any(isinstance(one, Tensor) and one.dtype in masks for one in args[1])


def _line():
    frame = sys._getframe(2)
    while frame and "/mpkit/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "?"
    return f"{frame.f_code.co_filename.rpartition('/mpkit/')[2]}:{frame.f_lineno}"
