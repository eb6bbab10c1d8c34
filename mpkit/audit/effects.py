"""What an attack does beside its work: traces in the network, and memory that it keeps."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from mpkit.audit.conformance import Traces, evaluating, half_training, traces
from mpkit.audit.findings import Finding, Sign
from mpkit.audit.protocol import NORMS, MalformedAttack, Subject, Task

STEPS = 5
CALLS = 8
"""Calls over which memory must grow, after some to warm up."""
WARM = 4
LEAST = 1 << 16
"""Bytes at every call that are told: less may be the allocator's own."""
WIDTH = 1 << 17
"""Units of the layer whose activations a leak may hold: half a megabyte for each image."""
INPUTS = ((1, 1, 2, 2), (8, 1, 4, 4))
"""Images and shapes on which traces are looked for, the smallest first."""
FIELDS = {
    "gradients": "gradients",
    "mode": "mode",
    "flags": "frozen",
    "buffers": "buffers",
    "images": "inputs",
}


def side_effects(subject: Subject, norm: str) -> list[Finding]:
    """Traces in a network in evaluation mode, and in one that is partly in training mode.

    In evaluation mode every trace is a violation. In training mode the mode afterwards is looked
    at, and whether the network was run so, which moves its buffers.
    """
    findings: dict[str, Finding] = {}
    for number, *shape in INPUTS:
        size = "x".join(map(str, shape))
        where = f"{number} image{'s' * (number > 1)} {size}, a batch norm and a linear layer"
        task = Task(NORMS[norm](0.1), STEPS)
        case = {"rows": number, "shape": shape, "norm": norm, "eps": 0.1, "steps": STEPS, "seed": 0}
        for sign in _signs(subject, number, (shape[0], shape[1], shape[2]), task):
            findings.setdefault(sign.check, Finding(sign, where, case))
    return list(findings.values())


def _signs(
    subject: Subject, number: int, shape: tuple[int, int, int], task: Task
) -> Iterator[Sign]:
    search = subject.make(task.ball, task.steps, task.seed)
    try:
        calm = traces(search, shape, evaluating, number)
    except MalformedAttack:
        raise
    except (Exception, SystemExit):  # an error is what the exact checks report
        return
    for field, check in FIELDS.items():
        if getattr(calm, field):
            yield Sign(check, "network handed over in evaluation mode")
    busy: Traces | None = None
    try:
        busy = traces(search, shape, half_training, number)
    except (Exception, SystemExit) as error:  # batch norm cannot be trained on one value
        if number > 1:
            yield Sign("training mode", f"raised {type(error).__name__}")
    if busy is not None and busy.mode and not calm.mode:
        yield Sign("mode", "network handed over in training mode, one part in evaluation mode")
    if busy is not None and busy.training:
        moved = ", which moved the buffers" * busy.buffers
        yield Sign("training mode", f"the network was run in training mode{moved}")


class _Wide(nn.Module):
    """A network with many activations and few weights."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, WIDTH))
        self.last = nn.Linear(inputs, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(1)
        wide = torch.tanh(rows.sum(1, keepdim=True) * self.weight)
        logits: torch.Tensor = self.last(rows) + 1e-3 * wide.mean(1, keepdim=True)
        return logits


def growth(subject: Subject, norm: str) -> tuple[float, list[Finding]]:
    """Bytes that stay behind at each call, beyond those of the first ones, and what that says.

    Live tensors and, on Linux, the memory of the process are followed over some calls; the result
    is the least growth of two calls in a row, so that what is kept once is not counted. It is a
    violation where that is at least half of what one image's activations take.
    """
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = _Wide(16).eval()
    x, y = torch.rand(4, 1, 4, 4, generator=rng), torch.arange(4)
    search = subject.make(NORMS[norm](0.1), STEPS, 0)
    live, resident = [], []
    gc.collect()
    gc.freeze()  # what is there already need not be looked at again
    try:
        for call in range(WARM + CALLS):
            search(model, x.clone(), y.clone())
            if call >= WARM - 1:
                live.append(_live())
                resident.append(_resident())
    except MalformedAttack:
        raise
    except (Exception, SystemExit):  # an error is what the exact checks report
        return 0.0, []
    finally:
        gc.unfreeze()
    least = max(_least_growth(live), _least_growth(resident))
    if least < LEAST:
        return max(0.0, least), []
    sign = Sign("memory", f"{least / 2**10:.0f} KB more at every call", least)
    where = f"4 images 1x4x4, {STEPS} steps, a network with {WIDTH} units, {CALLS} calls in a row"
    case = {"rows": 4, "shape": [1, 4, 4], "norm": norm, "eps": 0.1, "steps": STEPS, "seed": 0}
    return least, [Finding(sign, where, case)]


def _least_growth(sizes: list[int]) -> float:
    """The least growth over two calls, per call."""
    return min((b - a) / 2 for a, b in zip(sizes, sizes[2:], strict=False))


def _live() -> int:
    """Bytes in tensors that Python can reach, garbage in circles aside."""
    gc.collect()
    seen = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter):
            storage = thing.untyped_storage()
            seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def _resident() -> int:
    """Bytes of the process in memory once free ones are given back, 0 where that is not known."""
    if not sys.platform.startswith("linux"):
        return 0
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
    except (OSError, AttributeError, ValueError):
        return 0
