"""Stand-ins for a GPU: a graph that records operations on a CPU, and a device that has no values.

The graph repeats the recorded operations on the recorded memory, as a CUDA graph does: numbers of
the host that were part of the work are frozen in it. The device lets everything be computed but
values: whatever would make the host wait for a GPU, or mixes devices, is an error.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mpkit.core import checks


class Tape(TorchDispatchMode):
    """Notes every operation with its memory."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.operations:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Taped:
    """A recorder for a CPU, with the arguments of Recording; counts its recordings."""

    made = 0

    def __init__(self, work, inputs, rngs=(), kept=()):
        type(self).made += 1
        self.inputs = [one.clone() for one in inputs]
        before = [one.detach().clone() for one in kept]
        states = [rng.get_state() for rng in rngs]
        with Tape() as self.tape:
            self.result = work(*self.inputs)
        with torch.no_grad():
            for one, value in zip(kept, before, strict=True):
                one.copy_(value)  # what a real graph records does not happen
        for rng, state in zip(rngs, states, strict=True):
            rng.set_state(state)

    def __call__(self, *inputs):
        for own, new in zip(self.inputs, inputs, strict=True):
            own.copy_(new)
        self.tape.replay()
        return self.result


@contextmanager
def ghost():
    """Tensors of a CUDA device that have shapes and types but no values, on any machine.

    Reading one (``item``, ``bool``, ``nonzero``, a mask as an index) raises, and so do operations
    that mix devices, and new tensors made of the host's numbers, which are copied. Gradients are
    asked of autograd by shape only.
    """

    def gradients(outputs, inputs):
        return [torch.empty_like(one) for one in inputs]

    def backward(loss):
        raise AssertionError("the test says which weights get a gradient")

    made = torch.tensor

    def copies(*arguments, device=None, **more):
        if torch.device(device or "cpu").type == "cuda":
            raise RuntimeError("a tensor made of the host's numbers is copied to the device")
        return made(*arguments, device=device, **more)

    with FakeTensorMode(allow_non_fake_inputs=False), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", gradients)
        patch.setattr(torch.autograd, "backward", backward)
        patch.setattr(torch, "tensor", copies)
        patch.setattr(torch.Tensor, "exponential_", lambda self, generator: self)
        patch.setattr(checks, "require_device", lambda *arguments: None)
        yield patch


def there(model):
    """Move a network to the ghost device, within it."""
    for module in model.modules():
        for name, one in list(module._parameters.items()):
            if one is not None:
                value = torch.empty(one.shape, dtype=one.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(value)
        for name, one in list(module._buffers.items()):
            if one is not None:
                module._buffers[name] = torch.empty(one.shape, dtype=one.dtype, device="cuda")
    return model
