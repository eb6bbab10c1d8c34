"""How long attacks take over the bare loop, beside the attacks of other libraries, in one run.

The bare loop is k forward passes, each with the gradient for the input, and nothing else, at the
same batch and on the same network, whose weights need no gradient. Every round times it just
before and after each attack; what is reported is the ratio, with its median and range over rounds.
Then projections beside ones that sort, a search that lets broken images go, and what 16 bits and
another memory layout cost in strength. Libraries that are not installed are left out.

    python -m benchmarks.peers.speed
    python -m benchmarks.peers.speed --again ART

The second times the attacks of some libraries anew, such as after a disturbance of the machine, and
keeps all else of the record, which says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import time
from collections.abc import Callable, Collection
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import records
from benchmarks.peers.sorting import sorted_l1, sorted_l1_and_box
from mpkit import attacks, data, models, sets
from mpkit.attacks import Margin
from mpkit.audit.libraries import CANDIDATES, PACKAGES, installed
from mpkit.core.files import DataError
from mpkit.core.records import read_record
from mpkit.sets import projections
from mpkit.studies import zoo

TIMED = {
    "mpkit": [("PGD", sets.Linf), ("PGD", sets.L2), ("SLIDE", sets.L1), ("APGD ce", sets.L1)],
    "foolbox": [("PGD", sets.Linf), ("PGD", sets.L2), ("SLIDE", sets.L1)],
    "torchattacks": [("PGD", sets.Linf), ("PGDL2", sets.L2)],
    "ART": [("PGD", sets.Linf), ("PGD", sets.L2), ("PGD", sets.L1)],
    "cleverhans": [("PGD 2.5/n", sets.Linf), ("PGD 2.5/n", sets.L2), ("SparseL1Descent", sets.L1)],
    "adv-lib": [("PGD ce", sets.Linf), ("APGD ce", sets.L2), ("APGD ce", sets.L1)],
}
PLACE = ("library", "attack", "norm", "batch", "steps", "trainable")
BALLS = {sets.Linf: sets.Linf(0.3), sets.L2: sets.L2(2.0), sets.L1: sets.L1(10.0)}


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def spread(values: list[float]) -> list[float]:
    """Median, least and greatest."""
    return [round(one, 3) for one in (statistics.median(values), min(values), max(values))]


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """Forward passes with the gradient for the input, and nothing else."""
    for _ in range(steps):
        image = x.detach().requires_grad_(True)
        loss = nn.functional.cross_entropy(model(image), y, reduction="sum")
        torch.autograd.grad(loss, image)


def over_the_bare_loop(
    batch: int, steps: int, trainable: bool, rounds: int, libraries: Collection[str]
) -> list[dict[str, Any]]:
    """Ratios of every attack on the paper's MNIST network, whose weights are random."""
    rng = torch.Generator().manual_seed(0)
    frozen, model = (models.paper_mnist((1, 28, 28), 10, rng).eval() for _ in range(2))
    frozen.requires_grad_(False)
    model.requires_grad_(trainable)
    x = torch.rand(batch, 1, 28, 28, generator=rng)
    y = torch.randint(0, 10, (batch,), generator=rng)
    rows = []
    for library, names in TIMED.items():
        if not installed(library) or library not in libraries:
            continue
        known = {(one.name, one.kind): one.make for one in CANDIDATES[library]()}
        for name, kind in names:
            run = known[name, kind](BALLS[kind], steps)
            counted = models.QueryCounter(model).eval()
            run(counted, x, y)  # also warms up
            gradients = counted.backwards / batch
            ratios = []
            for _ in range(rounds):
                model.requires_grad_(trainable)
                before = seconds(lambda: bare(frozen, x, y, steps))
                taken = seconds(lambda run=run: run(model, x, y))  # type: ignore[misc]
                after = seconds(lambda: bare(frozen, x, y, steps))
                ratios.append(2 * taken / (before + after))
            row = {"library": library, "attack": name, "norm": kind.__name__, "batch": batch}
            row |= {"steps": steps, "trainable": trainable, "gradients per image": gradients}
            rows.append({**row, "over the bare loop": spread(ratios)})
            print(row, rows[-1]["over the bare loop"], flush=True)
    return rows


def projecting(rounds: int) -> list[dict[str, Any]]:
    """Exact projections of 512 x 3072 beside those that sort; also how far they differ."""
    rng, rows = torch.Generator().manual_seed(0), []
    x = torch.rand(512, 3072, generator=rng)
    eps = 12.0
    for law, factor in (("a step outside", 0.01), ("far outside", 1.0)):
        d = sets.L1(eps).sample(x.view(512, 3, 32, 32), rng).view_as(x)
        d = d + factor * torch.randn(x.shape, generator=rng)
        pairs: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
            "l1 ball": (
                lambda d=d: projections.nearest_in_l1_ball(d, eps),  # type: ignore[misc]
                lambda d=d: sorted_l1(d, eps),  # type: ignore[misc]
            ),
            "l1 ball and box": (
                lambda d=d: projections.nearest_in_l1_ball_and_box(d, eps, x),  # type: ignore[misc]
                lambda d=d: sorted_l1_and_box(d, eps, x),  # type: ignore[misc]
            ),
        }
        for name, (ours, by_sorting) in pairs.items():
            apart = float((ours() - by_sorting()).abs().max())
            both = [(seconds(ours), seconds(by_sorting)) for _ in range(rounds)]
            row = {"set": name, "points": law, "milliseconds": spread([1e3 * a for a, _ in both])}
            rows.append({**row, "sorting over ours": spread([b / a for a, b in both])})
            rows[-1]["largest difference"] = apart
            print(rows[-1], flush=True)
    return rows


Run = tuple[attacks.Attack, nn.Module]


def raced(
    runs: dict[str, Run], network: nn.Module, points: int, rounds: int
) -> dict[str, dict[str, Any]]:
    """Attacks on MNIST in turn: what is left of a network, and time over the first of them."""
    images = data.load("mnist", "test").first(points)
    taken: dict[str, list[float]] = {name: [] for name in runs}
    standing = {}
    for _ in range(rounds):
        for name, (attack, model) in runs.items():
            rng, begun = torch.Generator().manual_seed(0), time.perf_counter()
            image = attack(model, images.x, images.y, rng).image
            taken[name].append(time.perf_counter() - begun)
            with torch.no_grad():
                standing[name] = float((network(image).argmax(1) == images.y).double().mean())
    first = next(iter(taken.values()))
    return {
        name: {
            "accuracy": standing[name],
            "points": points,
            "time over the first": spread([b / a for a, b in zip(first, times, strict=True)]),
        }
        for name, times in taken.items()
    }


def letting_go(points: int, rounds: int) -> dict[str, Any]:
    """PGD-100 with and without broken images, on partly robust networks."""
    found = {}
    for name in ("mnist-random", "mnist-avg", "mnist-max"):
        ball = BALLS[sets.Linf]
        model, attack = zoo.load(name).eval(), attacks.PGD(ball, 100, loss=Margin())
        runs: dict[str, Run] = {
            "whole": (attack, model),
            "dropping": (attacks.UntilBroken(attack), model),
        }
        found[f"{name} {type(ball).__name__}"] = raced(runs, model, points, rounds)
    print(found, flush=True)
    return found


def faster_ways(points: int, rounds: int) -> dict[str, Any]:
    """PGD-40 through 16 bits and through channels-last: time, and strength in full precision."""
    model = zoo.load("mnist-max").eval()
    ways: dict[str, nn.Module] = {
        "plain": model,
        "bfloat16": models.LowPrecision(model),
        "channels last": models.ChannelsLast(model),
        "both": models.LowPrecision(models.ChannelsLast(model)),
    }
    found = {}
    for kind, ball in BALLS.items():
        attack = attacks.PGD(ball, 40, loss=Margin())
        found[kind.__name__] = raced(
            {n: (attack, way) for n, way in ways.items()}, model, points, rounds
        )
        print(kind.__name__, found[kind.__name__], flush=True)
    return found


def raced_with_all(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every attack at every batch and number of steps, the weights frozen and not."""
    rows = list[dict[str, Any]]()
    for batch in given.batches:
        beside = TIMED if batch in given.beside else {"mpkit"}
        chosen = {*beside} & {*(given.again or TIMED)}
        for steps, trainable in product(given.steps, (False, True)):
            rows += over_the_bare_loop(batch, steps, trainable, given.rounds, chosen)
    return rows


def some_anew(given: argparse.Namespace) -> dict[str, Any]:
    """The content of the record, with the attacks of some libraries timed anew."""
    old = read_record(given.output)
    new = {tuple(row[key] for key in PLACE): row for row in raced_with_all(given)}
    rows = [new.get(tuple(row[key] for key in PLACE), row) for row in old["attacks"]]
    parts = "projections", "letting go", "faster ways", "versions of the others"
    kept = {part: old[part] for part in parts if part in old}
    return {**kept, "attacks": rows, **records.again(old, {"libraries": given.again})}


def main() -> None:
    """Time everything and write one record."""
    parser = records.options(__doc__, "book/results/bench/speed.json", 500)
    parser.set_defaults(threads=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 40])
    parser.add_argument(
        "--beside", type=int, nargs="+", default=[128], help="batches with other libraries"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--dropping-only", action="store_true", help="only what letting broken images go saves"
    )
    parser.add_argument("--again", nargs="+", default=[], choices=TIMED, metavar="LIBRARY")
    given, begun = records.begin(parser)
    if given.again:
        content = some_anew(given)
        records.write(given, time.monotonic() - begun, content, {})
        return
    content = dict[str, Any]()
    if not given.dropping_only:
        content = {"attacks": raced_with_all(given), "projections": projecting(given.rounds)}
    try:
        data.load("mnist", "test")
    except DataError as why:
        print(f"two parts are left out: {why}")
    else:
        content["letting go"] = letting_go(given.points, given.rounds)
        if not given.dropping_only:
            content["faster ways"] = faster_ways(given.points, given.rounds)
    content["versions of the others"] = {
        name: importlib.metadata.version(PACKAGES[name]) for name in TIMED if installed(name)
    }
    Path(given.output).parent.mkdir(parents=True, exist_ok=True)
    records.write(given, time.monotonic() - begun, content, {})


if __name__ == "__main__":
    main()
