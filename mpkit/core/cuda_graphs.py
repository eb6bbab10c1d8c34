"""Work on a GPU that is recorded once as a graph and replayed, without waiting for the host."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol
from weakref import WeakSet

import torch
from torch import Tensor

WARM = 3  # plain runs before a recording: libraries choose their algorithms in them

_UNDER_WAY: ContextVar[bool] = ContextVar("under_way", default=False)
_LIVE: WeakSet[Recording] = WeakSet()


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
    to the same ones, and reads weights where they were. All recordings on a device share their
    memory and their stream, so what one returns is overwritten by the next call of any of them.

    Args:
        work: called with tensors like ``inputs``; gives a tree of tensors.
        inputs: at least one tensor on the GPU; they are copied.
        rngs: generators on the GPU that the work draws from. A replay draws what a plain run
            would, from their state at that time.
        kept: tensors that the work changes and that must be as they were when recorded.

    Raises:
        RuntimeError: the work cannot be recorded, because it waits for the device or lacks memory.
    """

    stream: torch.cuda.Stream
    graph: torch.cuda.CUDAGraph

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
        with torch.cuda.device(self.device), _recording():
            other = next((one for one in _LIVE if one.device == self.device), None)
            pool = other.graph.pool() if other else None  # which lives as long as the other
            self.stream = other.stream if other else torch.cuda.Stream()  # type: ignore[no-untyped-call]
            before = [one.detach().clone() for one in kept]
            try:
                self._warm_up(work)
            finally:
                with torch.no_grad():
                    for one, value in zip(kept, before, strict=True):
                        one.copy_(value)
                for rng, state in zip(rngs, states, strict=True):
                    rng.set_state(state)
                _clear_workspaces()
            self.graph = torch.cuda.CUDAGraph()
            for rng in rngs if _registers_generators() else ():
                self.graph.register_generator_state(rng)
            outside = torch.cuda.current_stream()
            try:  # what other threads ask of the device, such as those of NCCL, is their own matter
                with torch.cuda.graph(
                    self.graph, pool, self.stream, capture_error_mode="thread_local"
                ):
                    self.result = work(*self.inputs)
            finally:  # a recording that fails leaves its own stream current
                torch.cuda.set_stream(outside)
                _clear_workspaces()
        _LIVE.add(self)

    def _warm_up(self, work: Callable[..., Any]) -> None:
        """Run as often as it takes; in the last run waiting for the device is an error."""
        mode = torch.cuda.get_sync_debug_mode()
        self.stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self.stream):
                for left in reversed(range(WARM)):
                    if not left:  # a recording that breaks off in the middle is hard to undo
                        torch.cuda.set_sync_debug_mode("error")
                    work(*self.inputs)
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            torch.cuda.current_stream().wait_stream(self.stream)

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
    return Recording if device.type == "cuda" and not under_way() else plainly


def under_way() -> bool:
    """Whether something is being recorded here, or warmed up for it."""
    return _UNDER_WAY.get() or (
        torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    )


@contextmanager
def _recording() -> Iterator[None]:
    token = _UNDER_WAY.set(True)
    try:
        yield
    finally:
        _UNDER_WAY.reset(token)


def _clear_workspaces() -> None:
    """Take the workspaces of matrix products from torch's cache.

    Torch keeps one for each stream and drops it when any graph of that stream ends, though other
    graphs still use it. Without a cached one, a graph has its own in the recordings' memory.
    """
    clear: Callable[[], None] | None = getattr(torch._C, "_cuda_clearCublasWorkspaces", None)
    if clear is not None:
        clear()


def _registers_generators() -> bool:
    """Whether a graph must be told of its generators; later versions of torch see them drawn."""
    major, minor = (int(part) for part in torch.__version__.split(".")[:2])
    return (major, minor) < (2, 14)
