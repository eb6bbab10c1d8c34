"""Work on a GPU that is recorded once as a graph and replayed, without waiting for the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

WARM = 3  # plain runs before a recording: libraries choose their algorithms in them


class Recorder(Protocol):
    """A way to prepare work that is done again and again; see Recording for the arguments."""

    def __call__(
        self,
        work: Callable[..., Any],
        inputs: Sequence[Tensor],
        rngs: Sequence[torch.Generator] = (),
        kept: Sequence[Tensor] = (),
    ) -> Callable[..., Any]:
        """What does the work, called with inputs of the same shapes."""


class Recording:
    """A function of tensors as one CUDA graph; every call replays it on other inputs.

    The function runs a few times to warm up and once to be recorded. It must do the same work at
    every call, on the device alone, and may write to tensors of its own choice: a replay writes
    to the same ones, and reads weights where they were. What it returns is overwritten by the
    next call.

    Args:
        work: called with tensors like ``inputs``; gives a tree of tensors.
        inputs: at least one tensor on the GPU; they are copied.
        rngs: generators on the GPU that the work draws from. A replay draws what a plain run
            would, from their state at that time.
        kept: tensors that the work changes and that must be as they were when recorded.

    Raises:
        RuntimeError: the work cannot be recorded, because it waits for the device or lacks memory.
    """

    def __init__(
        self,
        work: Callable[..., Any],
        inputs: Sequence[Tensor],
        rngs: Sequence[torch.Generator] = (),
        kept: Sequence[Tensor] = (),
    ) -> None:
        self.inputs = [one.clone() for one in inputs]
        self.device = self.inputs[0].device
        states = [rng.get_state() for rng in rngs]
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            before = [one.detach().clone() for one in kept]
            try:
                self._warm_up(work, stream)
            finally:
                with torch.no_grad():
                    for one, value in zip(kept, before, strict=True):
                        one.copy_(value)
                for rng, state in zip(rngs, states, strict=True):
                    rng.set_state(state)
            self.graph = torch.cuda.CUDAGraph()
            for rng in rngs:
                self.graph.register_generator_state(rng)
            outside = torch.cuda.current_stream()
            try:
                with torch.cuda.graph(self.graph, stream=stream):
                    self.result = work(*self.inputs)
            finally:  # a recording that fails leaves its own stream current
                torch.cuda.set_stream(outside)

    def _warm_up(self, work: Callable[..., Any], stream: torch.cuda.Stream) -> None:
        """Run as often as it takes; in the last run waiting for the device is an error."""
        mode = torch.cuda.get_sync_debug_mode()
        stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(stream):
                for left in reversed(range(WARM)):
                    if not left:  # a recording that breaks off in the middle is hard to undo
                        torch.cuda.set_sync_debug_mode("error")
                    work(*self.inputs)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> Any:
        """The work on these inputs.

        Raises: ValueError: a shape or type is not that of the recording.
        """
        for own, new in zip(self.inputs, inputs, strict=True):
            if own.shape != new.shape or own.dtype != new.dtype:
                raise ValueError(
                    f"Recording: made for {tuple(own.shape)} {own.dtype}, got "
                    f"{tuple(new.shape)} {new.dtype}; record once for each shape"
                )
            own.copy_(new)
        with torch.cuda.device(self.device):
            self.graph.replay()
        return self.result


def plainly(work: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
    """No recording: the work itself, for devices that record nothing."""
    return work


def usual(device: torch.device) -> Recorder:
    """A recording on a GPU, and none elsewhere or within another recording."""
    recordable = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
    return Recording if recordable else plainly
