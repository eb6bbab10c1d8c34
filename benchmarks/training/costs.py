"""What a training step costs for each scheme: time, passes, memory and energy for an image.

Every row trains a network for single steps with the package's own loop, and between them, round
by round, with a bare loop: the same forward passes, input gradients and weight gradients, and
nothing else; and plain training. Ratios are of one round, and have a median and a range. Rows
grow in one thing at a time: inner steps, number of sets, width of the network, batch; others tell
what 16 bits, the order of memory and skipped looks save. A stopped run goes on where it was.

    taskset -c 0 python -m benchmarks.training.costs
    python -m benchmarks.training.costs --device cuda
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import meters, records
from benchmarks.training import costs_rows
from benchmarks.training.costs_rows import CLASSES, SHAPE, Bare, Row
from mpkit import data, models, training
from mpkit.core.devices import resolve_device
from mpkit.core.files import DataError
from mpkit.data import Images
from mpkit.training import costs
from mpkit.training.run import Run

REMEMBERED = ("schemes", "steps", "batch")  # whose memory is measured, which takes longest
SAMPLE = 0.05  # seconds of work behind each number, at least


def loop(row: Row, scheme: training.Scheme, images: Images, device: torch.device) -> Run:
    """A training of which every stretch is one step, at a rate of nearly zero."""
    some = images.first(row.recipe.batch)
    model = row.network(torch.Generator().manual_seed(0)).to(device)
    return Run(model, some, scheme, replace(row.recipe, epochs=10**6), 0)


def counted(row: Row, part: training.Scheme, images: Images) -> Bare:
    """The passes of one image, by counting them on the network itself."""
    few = images.first(16)
    model = models.QueryCounter(row.network(torch.Generator().manual_seed(0)))
    part(model, few.x, few.y, torch.Generator().manual_seed(0)).sum().backward()
    forwards, backwards, learned = (
        n // len(few) for n in (model.forwards, model.backwards, model.learned)
    )
    return Bare(backwards - learned, forwards - backwards, learned)


def measure(row: Row, images: Images, given: argparse.Namespace) -> dict[str, Any]:
    """Time, passes, memory and energy of a row."""
    device = resolve_device(given.device)
    _, now = meters.clock(device, given.threads)
    parts = costs.parts(row.scheme)
    bare = [counted(row, part, images) for part in parts]
    ours = [loop(row, part, images, device) for part in parts]
    floors = {one: loop(row, one, images, device) for one in dict.fromkeys(bare)}
    plain = loop(row, Bare(0, 0, 1), images, device)

    def all_of(runs: list[Run]) -> None:
        for run in runs:
            run.stretch({})

    works = [partial(all_of, [plain]), partial(all_of, ours)]
    works.append(partial(all_of, [floors[one] for one in bare]))
    for work in works:
        work()  # warms up
    repeats = [math.ceil(SAMPLE / max(1e-6, meters.seconds(work, now))) for work in works]
    begun, wall = now(), time.perf_counter()
    rounds = [
        [meters.seconds(work, now, n) for work, n in zip(works, repeats, strict=True)]
        for _ in range(given.rounds)
    ]
    used, waited = now() - begun, time.perf_counter() - wall
    batch, n = min(row.recipe.batch, len(images)), len(parts)
    taken = [[a, b / n, c / n] for a, b, c in rounds]
    watched = ours if row.part in REMEMBERED else []
    for run in watched:
        run.optimizer.zero_grad(set_to_none=True)  # every step makes its own
    peaks = [meters.peak_memory(partial(all_of, [run]), device) for run in watched]
    found: dict[str, Any] = {
        "part": row.part,
        "scheme": row.name,
        "value": row.value,
        "batch": batch,
        "forward": sum(b.climbs + b.looks + b.learns for b in bare) / n,
        "gradients": sum(b.climbs + b.learns for b in bare) / n,
        "weight gradients": sum(b.learns for b in bare) / n,
        "microseconds": meters.spread([1e6 * b / batch for _, b, _ in taken]),
        "plain microseconds": meters.spread([1e6 * a / batch for a, _, _ in taken]),
        "over plain training": meters.spread([b / a for a, b, _ in taken]),
        "over the bare loop": meters.spread([b / c for _, b, c in taken]),
        "wall over clock": round(waited / used, 3),
        "peak MiB": round(max(peaks) / 2**20, 3) if peaks else None,
    }
    return {**found, "joules": joules(works[1], device, now, batch * n)}


def joules(
    work: meters.Work, device: torch.device, now: Callable[[], float], images: int
) -> float | None:
    """Energy for an image, over at least two seconds; None where nothing measures it."""
    meter, _ = meters.meter(device)
    if meter is None:
        return None
    often = math.ceil(2 / meters.seconds(work, now))
    return meter.joules(lambda: meters.seconds(work, now, often)) / often / images


def pictures(points: int) -> Images:
    """MNIST where it is there, random images of its shape where not."""
    try:
        return data.load("mnist", "train").first(points)
    except DataError as why:
        print(f"random images in place of MNIST: {why}")
    rng = torch.Generator().manual_seed(0)
    x, y = (
        torch.rand(points, *SHAPE, generator=rng),
        torch.randint(0, CLASSES, (points,), generator=rng),
    )
    return Images(x, y, tuple(map(str, range(CLASSES))), "random")


def main() -> None:
    """Measure what is missing, then write the record."""
    parser = records.options(__doc__, "book/results/bench/costs.json", 512)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--scale", choices=["cpu", "gpu"], help="of the recipes; as the device")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--parts", nargs="+", help="only these parts, such as schemes steps")
    given, _ = records.begin(parser)
    device = resolve_device(given.device)
    given.scale = given.scale or ("gpu" if device.type == "cuda" else "cpu")
    images = pictures(given.points)
    clock, _ = meters.clock(device, given.threads)
    content: dict[str, Any] = {"clock": clock, "energy": meters.meter(device)[1]}
    plain = {name: value for name, value in vars(given).items() if name not in ("output", "parts")}
    text = [Path(module.__file__ or "").read_text() for module in (costs_rows, meters)]
    kept = records.Kept(given.output, Path(__file__).read_text(), text, plain, images.name)
    content["rows"] = []
    for row in costs_rows.rows(given.scale):
        if not given.parts or row.part in given.parts:
            found = kept.row(row.key, partial(measure, row, images, given))
            content["rows"].append(found)
            over = found["over the bare loop"]
            taken = found["microseconds"][0]
            print(f"{row.key:32} {taken:8.0f} us an image, over bare {over}", flush=True)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    facts = {"data": images.name, "cores": len(cores)}
    records.write(given, kept.seconds, content, facts)
    kept.done()


if __name__ == "__main__":
    main()
