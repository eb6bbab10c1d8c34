"""Check and time mpkit on a GPU in one command; results come out after every part.

    python3 -m benchmarks.gpu --budget 9m
    python3 -m benchmarks.gpu --plan          # what is missing, and how long it took when last run
    python3 -m benchmarks.gpu --device cpu    # the same code, small

It needs Python with torch and numpy alone; on a bare machine name the checkout in PYTHONPATH as
above. First come the checks: sets, attacks, recordings and training steps against the CPU, and
that nothing waits for the device. Then the ceilings (matrix products and bandwidth), the bare loop
(forward passes with the input's gradient) and attacks over it, training over the same passes, and
the memory of the standard suite's parts. Parts that the record holds already, of the same code on
the same device and size, are skipped. A part begins only if the longest so far would still fit the
budget. What needs CUDA and has none is "not run", never a number.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import records
from benchmarks.gpu import checks as gpu_checks
from benchmarks.gpu import steps as gpu_steps
from benchmarks.gpu import timing as gpu_timing
from benchmarks.gpu import training as gpu_training
from mpkit.core import devices
from mpkit.core.records import device_name, digest, read_record, source_texts

FULL = gpu_timing.Size(
    side=8192,
    copied=2**30,
    batches={"paper_mnist": (128, 512, 1024, 4096), "preact_resnet18": (128, 512, 1024)},
    steps={"paper_mnist": 40, "preact_resnet18": 10},
    seconds=0.3,
)
SMALL = gpu_timing.Size(
    side=64,
    copied=2**16,
    batches={"paper_mnist": (2,), "preact_resnet18": (2,)},
    steps={"paper_mnist": 1, "preact_resnet18": 1},
    seconds=0.0,
)
Part = Callable[[], dict[str, Any]]


def parts(device: torch.device, size: gpu_timing.Size, points: int, steps: int) -> dict[str, Part]:
    """Everything that is checked and timed, in order, by name."""
    checks: dict[str, Part] = {
        "sets are right": partial(gpu_checks.sets, device, points),
        "attacks are right": partial(gpu_checks.attacks, device, points, steps),
        "recorded attacks are right": partial(gpu_checks.recorded, device, points, steps),
        "replayed steps are right": partial(gpu_checks.replayed, device, points, steps),
        "training is right": partial(gpu_steps.training, device, points, steps),
        "nothing waits": partial(gpu_steps.waiting, device, points, steps),
        "ceilings": partial(gpu_timing.floors, device, size),
    }
    timed: dict[str, Part] = {}
    for name, batches in size.batches.items():
        for count in batches:
            for way in gpu_timing.WAYS:
                what = f"{name}, batch {count}, {way}"
                timed[f"attacks: {what}"] = partial(
                    gpu_timing.searching, name, count, way, device, size
                )
                if count == batches[0]:
                    timed[f"training: {what}"] = partial(
                        gpu_training.training, name, count, way, device, size
                    )
            timed[f"memory: {name}, batch {count}"] = partial(
                gpu_training.memory, name, count, device
            )
    return {name: partial(exactly, part) for name, part in checks.items()} | timed


def exactly(part: Part) -> dict[str, Any]:
    """A part in true float32 and with convolutions that give the same bits every time."""
    convolutions = torch.backends.cudnn
    before = convolutions.deterministic
    convolutions.deterministic = True
    try:
        with gpu_timing.tf32(False):
            return part()
    finally:
        convolutions.deterministic = before


def tried(part: Part) -> dict[str, Any]:
    """What a part gives; if it fails, that it failed and why, so that the others are still run."""
    try:
        with (
            warnings.catch_warnings()
        ):  # a recording or a kernel that fell back would be timed as if it had not
            warnings.filterwarnings("error", message="Graphed(Attack|Steps):|fit: a step|fused:")
            return part()
    except (RuntimeError, ValueError, TypeError, AssertionError, ImportError, Warning) as error:
        return {"right": False, "error": f"{type(error).__name__}: {error}"[:500]}


def wrong(name: str, result: object) -> list[str]:
    """The names of the checks within a result that did not come out right."""
    if not isinstance(result, dict):
        return []
    here = [name] if result.get("right") is False else []
    return here + [bad for key, value in result.items() for bad in wrong(f"{name}: {key}", value)]


def code() -> str:
    """A hash of the code that decides the results, for machines without git."""
    own = [(path.name, path.read_text()) for path in sorted(Path(__file__).parent.glob("*.py"))]
    return digest(source_texts(), own)


def known(path: Path, same: dict[str, Any]) -> dict[str, Any]:
    """The parts of an earlier record of the same code, device and size, without failed ones."""
    if not path.exists():
        return {}
    record = read_record(path)
    alike = all(record.get(key) == value for key, value in same.items())
    return {name: part for name, part in record["parts"].items() if alike and not wrong(name, part)}


def outlook(path: Path, same: dict[str, Any], names: list[str]) -> list[str]:
    """A line for each part that is missing: seconds where a record of the same device has them."""
    record = read_record(path) if path.exists() else {"device": None, "parts": {}}
    alike, done = record.get("device") == same["device"], known(path, same)
    parts = record["parts"] if alike else {}
    lines = [(parts.get(name, {}).get("took"), name) for name in names if name not in done]
    told = [f"{'unknown' if took is None else f'{took:.1f} s':>10}  {name}" for took, name in lines]
    total = sum(took for took, _ in lines if took is not None)
    new = sum(took is None for took, _ in lines)
    return [*told, f"{len(lines)} of {len(names)} parts: {total:.0f} s, and {new} of unknown time"]


def main() -> None:
    """Run the parts that are missing; exit with 1 if a check of these came out wrong."""
    parser = records.options(__doc__, "book/results/bench/gpu.json", 64)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu")
    parser.add_argument("--budget", default="9m", help="stop before so long: 90s, 9m or 1h")
    parser.add_argument("--steps", type=int, default=5, help="of the searches that are checked")
    parser.add_argument("--only", default="", help="only parts whose name begins so")
    parser.add_argument("--plan", action="store_true", help="only say what is missing")
    given, begun = records.begin(parser)
    try:
        device = devices.resolve_device(given.device)
    except ValueError as error:
        parser.error(str(error))
    size = FULL if device.type == "cuda" else SMALL
    extent = f"{size}, {given.points} points, {given.steps} steps"
    same = {"code": code(), "device": device_name(given.device), "size": extent}
    done, longest = known(given.output, same), 0.0
    asked = parts(device, size, given.points, given.steps)
    asked = {name: part for name, part in asked.items() if name.startswith(given.only)}
    if given.plan:
        print("\n".join(outlook(given.output, same, list(asked))))
        return
    for name, part in asked.items():
        spent = time.monotonic() - begun
        if name in done:
            continue
        if spent + longest > records.duration(given.budget):
            print(f"stopped after {spent:.0f} s; call again for the rest, from: {name}", flush=True)
            break
        done[name] = tried(part)
        done[name]["took"] = round(time.monotonic() - begun - spent, 2)
        longest = max(longest, done[name]["took"])
        given.output.parent.mkdir(parents=True, exist_ok=True)
        records.write(given, time.monotonic() - begun, {**same, "parts": done}, {})
        print(f"{done[name]['took']:8.1f} s  {name}", flush=True)
    if bad := wrong("wrong", done):
        print("\n".join(bad))
        sys.exit(1)


if __name__ == "__main__":
    main()
