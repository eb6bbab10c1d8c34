"""Peak memory of an evaluation for N and for 2 N images: it must grow by the images alone.

    python benchmarks/memory.py --images 5000 --budget quick

Each size is evaluated in a process of its own, on random images of CIFAR-10's shape and a small
convolutional network, on all four usual sets. The peak is the operating system's (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE, CLASSES = (3, 32, 32), 10
MIB = 2**20


def measure(images: int, batch: int, budget: str) -> dict[str, float]:
    """Evaluate so many images; peaks in MiB before and after, seconds."""
    import torch
    from torch import nn

    from mpkit.evaluate import evaluate
    from mpkit.sets import Union, usual
    from mpkit.suites import standard

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2048, CLASSES))
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(images, *SHAPE, generator=rng)
    with torch.no_grad():
        y = torch.cat([net(part).argmax(1) for part in x.split(500)])
    suite = standard(Union(*usual("cifar10", SHAPE).values()), budget, CLASSES)
    before, begun = peak(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        evaluate(net, x, y, suite, rng, batch=batch, file=Path(folder) / "ledger.safetensors")
    return {
        "images": images,
        "images_mib": x.nbytes / MIB,
        "before_mib": before,
        "peak_mib": peak(),
        "seconds": time.monotonic() - begun,
    }


def peak() -> float:
    """The greatest resident size of this process so far, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def main() -> None:
    """Measure N and 2 N; print a line for each and the growth as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--budget", default="quick")
    parser.add_argument("--one", action="store_true", help="measure N only, in this process")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.images, given.batch, given.budget)))
        return
    found = []
    for images in (given.images, 2 * given.images):
        words = ["--images", str(images), "--batch", str(given.batch), "--budget", given.budget]
        call = [sys.executable, __file__, *words, "--one"]
        done = subprocess.run(call, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
        print(json.dumps(found[-1]), flush=True)
    small, large = found
    growth = large["peak_mib"] - small["peak_mib"]
    print(
        json.dumps(
            {"growth_mib": growth, "of_images_mib": large["images_mib"] - small["images_mib"]}
        )
    )


if __name__ == "__main__":
    main()
