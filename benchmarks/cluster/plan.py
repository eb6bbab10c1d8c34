"""A plan for many GPUs: what a sweep of training and evaluation takes, from stated assumptions.

    python -m benchmarks.cluster.plan  # the table of the page
    python -m benchmarks.cluster.plan --gpus 64 --share 0.2
    python -m benchmarks.cluster.plan --measure  # what the scheduler needs for one task

Counts of passes come from this code and its records; the others are assumptions, and say so.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path

RECORD = Path(__file__).parents[2] / "book" / "results" / "mnist" / "mnist-max-seed0.json"
STEPS = 3  # weights' gradients for an image and epoch, one for each norm; each costs a pass
LAYERS = ((64, 64, 1), (64, 128, 2), (128, 256, 4), (256, 512, 8))


@dataclass(frozen=True)
class Assumed:
    """What is not counted here; every field is an option of the command."""

    gpus: int = 1000  # GPUs
    runs: int = 1000  # trainings: 10 schemes, 10 seeds, 10 sizes of the sets
    epochs: int = 30  # epochs of each
    peak: float = 989e12  # FLOP/s in bfloat16, data sheet of an H100 SXM
    share: float = 0.1  # of that peak that is reached
    points: int = 10_000  # test images of each evaluation
    shard: int = 10_000  # images of one task
    overhead: float = 0.007  # seconds of the scheduler for each task; see --measure
    link: float = 1.25e9  # bytes per second out of the scheduler's machine: 10 Gbit/s
    losses: float = 2e-5  # lost GPUs per GPU-hour: 419 in 54 days of 16,384 (Llama 3)
    watts: float = 700  # of one GPU, its limit


def multiplications() -> float:
    """Multiply-adds of a forward pass of PreAct ResNet-18 on one 32 x 32 image."""
    total = 3 * 64 * 9 * 32**2 + 512 * 10
    for inputs, outputs, stride in LAYERS:
        area = (32 // stride) ** 2
        total += (inputs + 3 * outputs) * outputs * 9 * area
        total += inputs * outputs * area * (inputs != outputs)
    return float(total)


def weights() -> int:
    """Parameters of its convolutions and its last layer."""
    total = 3 * 64 * 9 + 512 * 10 + 10
    for inputs, outputs, _ in LAYERS:
        total += (inputs + 3 * outputs) * outputs * 9 + inputs * outputs * (inputs != outputs)
    return total


def training_passes() -> tuple[float, float]:
    """Forward and backward passes for an image and epoch: the mean loss of three norms."""
    from mpkit.attacks import PGD, SLIDE
    from mpkit.sets import L1, L2, Linf
    from mpkit.training import Average
    from mpkit.training.costs import passes

    attacks = (PGD(Linf(8 / 255), 10), PGD(L2(0.5), 10), SLIDE(L1(12), 20))
    return tuple(passes(Average(attacks), (3, 32, 32)))


def evaluation_passes() -> tuple[float, float]:
    """Forward and backward passes for an image, in the record of an MNIST network."""
    done = json.loads(RECORD.read_text())["evaluation"]
    rows = [(one["forward"], one["backward"]) for one in done["attacks"]]
    forward, backward = (sum(column) / done["points"] for column in zip(*rows, strict=True))
    return forward, backward


def plan(given: Assumed) -> list[tuple[str, str, str]]:
    """Rows of what, how much, and where it comes from."""
    speed, once = given.peak * given.share, 2 * multiplications()
    trained, suite = training_passes(), evaluation_passes()
    training = 50_000 * given.epochs * once * (sum(trained) + STEPS) / speed / 3600
    shard = given.shard * once * (suite[0] + suite[1]) / speed
    tasks = given.runs * -(-given.points // given.shard)
    evaluating = tasks * shard / 3600
    waves = -(-given.runs // given.gpus) * training, -(-tasks // given.gpus) * shard / 3600
    hours = given.runs * training + evaluating
    size = weights() * 4 + given.shard * 3072 * 4
    return [
        ("multiply-adds of a forward pass", f"{multiplications() / 1e6:,.0f} M", "counted"),
        ("training: forward, backward passes per image", _pair(trained), "counted"),
        ("one training", f"{training:.2f} GPU-hours", "derived"),
        ("all trainings, side by side", f"{waves[0]:.2f} hours", "derived"),
        ("`standard` suite: forward, backward per image", _pair(suite), "counted (MNIST record)"),
        ("one task of evaluation", f"{shard:.1f} s", "derived"),
        ("tasks of evaluation", f"{tasks:,}", "derived"),
        ("all evaluations, side by side", f"{waves[1]:.2f} hours", "derived"),
        ("all together", f"{hours:,.0f} GPU-hours", "derived"),
        ("energy, at most", f"{hours * given.watts / 1000:,.0f} kWh", "derived"),
        ("tasks that end in a second", f"{given.gpus / shard:.1f}", "derived"),
        ("share of the scheduler's time", f"{given.gpus / shard * given.overhead:.0%}", "derived"),
        ("sent for one task, at most", f"{size / 1e6:.1f} MB", "derived"),
        ("share of the link", f"{given.gpus / shard * size / given.link:.0%}", "derived"),
        ("GPUs lost on the way", f"{hours * given.losses:.3f}", "derived"),
    ]


def measure(tasks: int = 500) -> float:
    """Seconds for one task that does nothing, on two workers here, checks included."""
    from mpkit.core.cluster import answers, common_ground
    from mpkit.core.workers import Local

    with ExitStack() as stack:
        client = Local(2).client(stack, tasks)
        stack.enter_context(client.as_current())
        ground = common_ground(client, 0, "cpu", 0)
        for name, count in (("warm", 20), ("task", tasks)):
            begun = time.monotonic()
            jobs = {f"{name}-{i}": (i,) for i in range(count)}
            assert len(list(answers(client, ground, abs, jobs))) == count
        return (time.monotonic() - begun) / tasks


def _pair(numbers: tuple[float, float]) -> str:
    return " and ".join(f"{number:,.0f}" for number in numbers)


def main() -> None:
    """Print the plan as a table, or measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", action="store_true")
    for field in fields(Assumed):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    given = vars(parser.parse_args())
    if given.pop("measure"):
        print(f"{1000 * measure():.1f} ms for a task")
        return
    print("| what | how much | how known |\n|---|---|---|")
    print("\n".join(f"| {' | '.join(row)} |" for row in plan(Assumed(**given))))


if __name__ == "__main__":
    main()
