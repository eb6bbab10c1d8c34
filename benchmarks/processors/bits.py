"""Do two processors give equal bits? Digests of a short training and of attacks, on record.

    python -m benchmarks.processors.bits  # compare this processor with the record
    python -m benchmarks.processors.bits --keep  # add it, or write it anew
    qemu-x86_64 -cpu Haswell,vendor=GenuineIntel $(which python) -m benchmarks.processors.bits \\
        --keep --name "an emulated Intel Haswell"  # an emulator imitates another maker's

It runs under the settings of the book (see mpkit.core.processor); with ``--free``, without them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from mpkit.core import processor, records

OUTPUT = Path(__file__).parents[2] / "book" / "results" / "bits.json"


def digests() -> Iterator[tuple[str, str]]:
    """What is computed, and the first digits of the sha256 of its bytes.

    The libraries are imported here, since they read the settings when they are loaded.
    """
    import numpy as np
    import torch

    from mpkit import attacks, data, models, sets, training

    def short(*tensors: torch.Tensor) -> str:
        known = hashlib.sha256()
        for one in tensors:
            known.update(np.ascontiguousarray(one.detach().numpy()).tobytes())
        return known.hexdigest()[:16]

    for dtype in (torch.float64, torch.float32):
        bits = str(dtype).removeprefix("torch.")
        learn = data.load("digits", "train").to("cpu", dtype).first(192)
        test = data.load("digits", "test").to("cpu", dtype).first(16)
        usual = sets.usual("digits", test.shape)

        def rng() -> torch.Generator:
            return torch.Generator().manual_seed(0)

        draw = torch.randn(4096, generator=rng(), dtype=dtype)
        yield f"{bits} draws", short(draw, torch.rand(4096, generator=rng(), dtype=dtype))
        yield f"{bits} functions", short(draw.exp(), draw.tanh(), draw.abs().log(), draw.sin())
        yield f"{bits} products", short(draw.view(64, 64) @ draw.view(64, 64))
        net = models.small_cnn(test.shape, 10, rng()).to(dtype)
        scheme = training.Single(attacks.PGD(usual["l2"], steps=2))
        training.fit(net, learn, scheme, training.Recipe(epochs=1), rng())
        yield f"{bits} training", short(*net.parameters())
        searches = {
            "PGD in linf": attacks.PGD(usual["linf"], steps=4),
            "PGD in l2": attacks.PGD(usual["l2"], steps=4),
            "SLIDE in l1": attacks.SLIDE(usual["l1"], steps=4),
            "Auto-PGD in l2": attacks.APGD(usual["l2"], 6),
            "Auto-PGD in l1": attacks.APGD(usual["l1"], 6),
            "grid of poses": attacks.Grid(usual["rt"], shifts=3, angles=3),
        }
        for name, attack in searches.items():
            yield f"{bits} {name}", short(attack(net, test.x, test.y, rng()).image)


def main() -> None:
    """Compute under the settings, compare with what is on record, keep if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--name", default=processor.model(), help="of the processor")
    parser.add_argument("--free", action="store_true", help="without the settings of the book")
    parser.add_argument("--keep", action="store_true", help="write the digests into the record")
    given = parser.parse_args()
    wanted = {} if given.free else processor.settings({"dataset": "digits"})
    os.environ.update(wanted)
    name = given.name + ", free" * given.free
    begun = time.monotonic()
    here = dict(digests())
    record = records.read_record(OUTPUT) if OUTPUT.is_file() else {"processors": {}}
    for other, known in record["processors"].items():
        if known["versions"] != records.versions():
            print(f"{other}: other versions, not compared")
            continue
        differ = [what for what, digest in known["digests"].items() if digest != here[what]]
        print(f"{other}: {len(here) - len(differ)} of {len(here)} equal", *differ, sep="\n  ")
    if given.keep:
        seconds = round(time.monotonic() - begun, 1)
        record["processors"][name] = {
            "digests": here,
            "settings": wanted,
            "versions": records.versions(),
            "duration_s": seconds,
        }
        records.write_record(OUTPUT, record)
        print(f"kept as {name!r} in {OUTPUT}")


if __name__ == "__main__":
    main()
