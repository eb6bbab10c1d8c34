"""The union's robust accuracy: three runs of AutoAttack beside `standard` for the union only.

Needs the extra `compare` (pyautoattack) and MNIST. Each network of the zoo is evaluated piece by
piece: every piece of the images by AutoAttack in l_inf, l_2 and l_1, and by the suites of
`mpkit evaluate --goal union`, on one thread, timed by the time that the process had the core; and
all images by `standard`, whose attacks have the first 100 to show that they are needed.
It can be stopped at any time and goes on where it was; what AutoAttack said is kept for as long as
AutoAttack, torch and the network are the same.

    MPKIT_DATA=folder OMP_NUM_THREADS=1 python -m benchmarks.peers.union
"""

from __future__ import annotations

import inspect
import logging
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from torch import nn

from benchmarks.common.records import RADII, Kept, begin, options, write
from mpkit import data, evaluation, sets
from mpkit.core import records
from mpkit.core.statistics import proportion
from mpkit.models import QueryCounter
from mpkit.studies import zoo

PIECE = 100
THREAT = " + ".join(f"{name}:{eps:g}" for name, eps in RADII.items())
AUTOATTACK, SUITES = "AutoAttack", ["screen", "standard"]
PILOT, BATCH = 100, 250  # the second is that of mpkit evaluate
NORMS = {f"{name}:{eps:g}": (name.capitalize(), eps) for name, eps in RADII.items()}


def by_autoattack(plain: nn.Module, images: data.Images) -> dict[str, Any]:
    """What AutoAttack's standard version leaves in each norm, 1 for each image, and its price."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    model, left, seconds = QueryCounter(plain).eval(), {}, {}
    for norm, (form, eps) in NORMS.items():
        begun = time.process_time()
        how = {"norm": form, "eps": eps, "version": "standard", "device": "cpu", "seed": 0}
        attack = AutoAttack(model, **how)
        found = attack.run_standard_evaluation(images.x, images.y, batch_size=len(images))[0]
        seconds[norm] = round(time.process_time() - begun, 2)
        with torch.no_grad():
            left[norm] = (plain(found).argmax(1) == images.y).int().tolist()
    passes = {"forward": model.forwards, "backward": model.backwards}
    return {"left": left, "seconds": seconds, **passes}


def pieces(points: int) -> list[data.Images]:
    """The first test images of MNIST, in pieces."""
    images = data.load("mnist", "test").first(points)
    places = [slice(start, start + PIECE) for start in range(0, points, PIECE)]
    return [replace(images, x=images.x[one], y=images.y[one]) for one in places]


def by_ours(
    name: str, budget: str, images: data.Images, pilot: int = 0, batch: int = PIECE
) -> dict[str, Any]:
    """What a suite for the union only leaves of it, 1 for each image, and its price.

    Attacks that break none of a pilot's images are not run on the others.
    """
    model, rng = QueryCounter(zoo.load(name)).eval(), torch.Generator().manual_seed(0)
    suite = evaluation.quickest_first(evaluation.standard(sets.parse_threat(THREAT), budget))
    goal: evaluation.Goal = evaluation.UnionOnly()
    goal = evaluation.AfterPilot(goal, pilot) if pilot else goal
    begun = time.process_time()
    ledger = evaluation.evaluate(model, images.x, images.y, suite, rng, goal=goal, batch=batch)
    seconds = {"union": round(time.process_time() - begun, 2)}
    left = {"union": (~ledger.broken.any(0)).int().tolist()}
    broken = {gain.name: gain.in_union for gain in ledger.gains()}
    passes = {"forward": model.forwards, "backward": model.backwards}
    return {"left": left, "seconds": seconds, **passes, "broken": broken}


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """All pieces of one suite: accuracies with intervals, and the whole price."""
    left = {
        k: torch.tensor([one for row in rows for one in row["left"][k]]) for k in rows[0]["left"]
    }
    left.setdefault("union", torch.stack(list(left.values())).amin(0))
    made: dict[str, Any] = {
        "accuracy": {name: list(proportion(one.bool())) for name, one in left.items()},
        "cpu seconds": round(sum(sum(row["seconds"].values()) for row in rows), 1),
        "forward": sum(row["forward"] for row in rows),
        "backward": sum(row["backward"] for row in rows),
        "by piece": [round(sum(row["seconds"].values()), 2) for row in rows],
    }
    if "broken" in rows[0]:
        each = {name: [row["broken"][name] for row in rows] for name in rows[0]["broken"]}
        made["broken"] = {name: sum(counts) for name, counts in each.items()}
    return made


def main() -> None:
    """Evaluate every network by all, piece by piece, and write one record."""
    parser = options(__doc__, "book/results/bench/union.json", 1000)
    parser.add_argument("--models", nargs="+", default=["mnist-max", "mnist-tuned-on"])
    parser.add_argument("--suites", nargs="+", default=SUITES, help="budgets beside AutoAttack")
    given, _ = begin(parser)
    code = [inspect.getsource(by_autoattack), version("pyautoattack"), torch.__version__]
    peer = Kept(given.output.with_name("union-autoattack.json"), PIECE, texts=code)
    ours = Kept(given.output, PIECE, THREAT, texts=[*records.source_texts(), *code])
    rows: dict[str, dict[str, list[Any]]] = {name: {} for name in given.models}
    for number, part in enumerate(pieces(given.points)):
        for name, row in rows.items():
            place = f"{records.digest(zoo.card(name).sha256)[:12]} {number}"
            work = partial(by_autoattack, zoo.load(name), part)
            row.setdefault(AUTOATTACK, []).append(peer.row(place, work))
            for suite in given.suites:
                work = partial(by_ours, name, suite, part)
                row.setdefault(suite, []).append(ours.row(f"{place} {suite}", work))
            print(name, number, {suite: found[-1]["seconds"] for suite, found in row.items()})
    networks = {}
    every = data.load("mnist", "test").first(given.points)
    for name, row in rows.items():
        suite = f"standard, pilot of {PILOT}"
        place = f"{records.digest(zoo.card(name).sha256)[:12]} {given.points} {suite}"
        row[suite] = [ours.row(place, partial(by_ours, name, "standard", every, PILOT, BATCH))]
        networks[name] = {suite: summed(found) for suite, found in row.items()}
        for suite, found in networks[name].items():
            print(name, suite, found["accuracy"]["union"], found["cpu seconds"], flush=True)
    facts = {"threat": THREAT, "pyautoattack": version("pyautoattack"), "piece": PIECE}
    write(given, peer.seconds + ours.seconds, {"networks": networks}, facts)
    ours.done()


if __name__ == "__main__":
    main()
