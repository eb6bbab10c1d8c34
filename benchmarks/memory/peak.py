"""Peak memory of an evaluation for N, 2 N and 4 N images, and with the batch.

    python -m benchmarks.memory.peak --points 5000 --budget standard

Each size is evaluated in a process of its own, all at once, on random images of CIFAR-10's shape
that lie on disk, and a small convolutional network, on all four usual sets. Three figures are told
apart: what the operating system counts (ru_maxrss); what the program holds at its greatest moment,
asked of the C library every 10 ms (glibc's mallinfo2, null elsewhere); and the ledger, which is
the result. The first also has free memory that the C library keeps between pieces of unequal size.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import records
from mpkit.data.lazy import Rows, of_file
from mpkit.evaluation import Budget, Ledger, evaluate, standard
from mpkit.sets import Union, usual

SHAPE, CLASSES = (3, 32, 32), 10
MIB = 2**20
COUNTS = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks")


class Counts(ctypes.Structure):
    """What mallinfo2 returns; heap in use is ``uordblks``, blocks of their own ``hblkhd``."""

    _fields_ = [(name, ctypes.c_size_t) for name in (*COUNTS, "fordblks", "keepcost")]


def asking() -> Callable[[], float] | None:
    """A function that tells the memory in use, in MiB; None where the C library has none."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return None
    ask.restype = Counts

    def held() -> float:
        now = ask()
        return float(now.uordblks + now.hblkhd) / MIB

    return held


@contextmanager
def watched() -> Iterator[list[float]]:
    """Collects the memory in use while the block runs, sampled."""
    held, over, seen = asking(), threading.Event(), list[float]()

    def watch() -> None:
        while held and not over.wait(0.01):
            seen.append(held())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def written(file: Path, images: int) -> Rows:
    """Random pixels of so many images in a file, a thousand images at a time."""
    rng = np.random.default_rng(0)
    with file.open("wb") as out:
        for start in range(0, images, 1000):
            size = (min(1000, images - start), *SHAPE)
            rng.integers(0, 256, size, dtype=np.uint8).tofile(out)
    return of_file(file, 0, (images, *SHAPE))


def measure(images: int, batch: int, budget: Budget | str) -> dict[str, float | None]:
    """Evaluate so many images; memory in MiB, seconds."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, CLASSES))
    rng = torch.Generator().manual_seed(0)
    suite = standard(Union(*usual("cifar10", SHAPE).values()), budget, CLASSES)
    with tempfile.TemporaryDirectory() as folder:
        x = written(Path(folder) / "images", images)
        with torch.no_grad():
            y = torch.cat([net(x[i : i + 500]).argmax(1) for i in range(0, images, 500)])
        before, begun = peak(), time.monotonic()
        with watched() as held:
            file = Path(folder) / "ledger.safetensors"
            ledger: Ledger = evaluate(net, x, y, suite, rng, batch=batch, file=file)
    found = {
        "images": images,
        "ledger_mib": sum(tensor.nbytes for tensor in ledger.tensors().values()) / MIB,
        "before_mib": before,
        "held_mib": max(held, default=None),
        "peak_mib": peak(),
        "seconds": time.monotonic() - begun,
    }
    return {name: value and round(value, 1) for name, value in found.items()}


def peak() -> float:
    """The greatest resident size of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def together(given: argparse.Namespace, runs: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """Evaluate (images, batch) by (images, batch), each in a process of its own, all at once."""
    running = []
    for images, batch in runs:
        words = ["--points", str(images), "--batch", str(batch), "--budget", given.budget]
        words += ["--threads", str(given.threads), "--one"]
        running.append(subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE))
    found = []
    for (_, batch), process in zip(runs, running, strict=True):
        said, _ = process.communicate()
        found.append({"batch": batch, **json.loads(said)})
        print(json.dumps(found[-1]), flush=True)
    return found


def main() -> None:
    """Measure N, 2 N and 4 N images, then other batches; print lines and write the record."""
    parser = records.options(__doc__, "book/results/bench/memory.json", 5000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--budget", default="quick")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    given, begun = records.begin(parser)
    if given.one:
        print(json.dumps(measure(given.points, given.batch, given.budget)))
        return
    sizes = together(given, [(times * given.points, given.batch) for times in (1, 2, 4)])
    batches = together(given, [(given.points // 4, given.batch * n // 5) for n in (1, 2, 4, 8)])
    content = {
        "sizes": sizes,
        "batches": batches,
        "network": "3 x 3 convolution, 8 channels, stride 2; linear layer",
    }
    del given.one
    records.write(given, time.monotonic() - begun, content, {"sets": "linf, l2, l1, rt"})


if __name__ == "__main__":
    main()
