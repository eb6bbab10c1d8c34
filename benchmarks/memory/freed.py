"""What keeping freed memory saves: the bare loop in processes with the setting and without it.

    python -m benchmarks.memory.freed

A setting of the C library cannot be undone, so every round is a process of its own, with and
without in turn, on the paper's MNIST network. Three figures come from each: seconds for the steps,
pages that the system was asked for meanwhile, and the greatest resident size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.common import records
from benchmarks.memory.peak import peak
from benchmarks.peers.speed import bare, spread
from mpkit import models
from mpkit.core import memory


def measure(batch: int, steps: int) -> dict[str, float]:
    """Steps of the bare loop in this process, after a few that warm up."""
    rng = torch.Generator().manual_seed(0)
    model = models.paper_mnist((1, 28, 28), 10, rng).eval().requires_grad_(False)
    x = torch.rand(batch, 1, 28, 28, generator=rng)
    y = torch.randint(0, 10, (batch,), generator=rng)
    bare(model, x, y, steps)
    faults, begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
    bare(model, x, y, steps)
    seconds = time.perf_counter() - begun
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return {"seconds": seconds / steps, "page faults": faults / steps, "peak_mib": peak()}


def in_a_process(setting: str, given: argparse.Namespace) -> dict[str, float]:
    """The same in a process of its own."""
    words = ["--one", setting, "--batch", str(given.batch), "--steps", str(given.steps)]
    words += ["--threads", str(given.threads)]
    done = subprocess.run(
        [sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure in turn, and write one record."""
    parser = records.options(__doc__, "book/results/bench/keeping.json", 0)
    parser.set_defaults(threads=2)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=["keep", "leave"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        if given.one == "keep":
            memory.keep()
        print(json.dumps(measure(given.batch, given.steps)))
        return
    begun = time.monotonic()
    rounds = [
        {setting: in_a_process(setting, given) for setting in ("leave", "keep")}
        for _ in range(given.rounds)
    ]
    ratios = [one["leave"]["seconds"] / one["keep"]["seconds"] for one in rounds]
    content: dict[str, Any] = {
        setting: {key: spread([one[setting][key] for one in rounds]) for key in rounds[0]["keep"]}
        for setting in ("leave", "keep")
    }
    content["seconds without over with"] = spread(ratios)
    print(json.dumps(content, indent=1))
    del given.one
    records.write(given, time.monotonic() - begun, content, {"network": "paper_mnist"})


if __name__ == "__main__":
    main()
