"""The suite `standard` beside AutoAttack by its authors: accuracy and time, in one run.

Needs the extra `compare` (pyautoattack) and MNIST. Each network of the zoo is evaluated by both, on
the same images, with the same number of threads; images that AutoAttack returns count as broken
when the network errs on them.

    python -m benchmarks.peers.autoattack --models mnist-natural mnist-linf mnist-max --points 200
"""

from __future__ import annotations

import logging
import time
from typing import Any

import torch

from benchmarks.common.records import RADII, begin, options, write
from mpkit import data, evaluation, sets
from mpkit.studies import zoo

THREAT = " + ".join(f"{name}:{eps:g}" for name, eps in RADII.items())
NORMS = {f"{name}:{eps:g}": (name.capitalize(), eps) for name, eps in RADII.items()}


def by_autoattack(model: torch.nn.Module, images: data.Images) -> dict[str, Any]:
    """Accuracy in each norm and of the union, and seconds, by AutoAttack's standard version."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    begun, used, standing, seconds = time.monotonic(), time.process_time(), {}, {}
    for name, (norm, eps) in NORMS.items():
        start = time.monotonic()
        attack = AutoAttack(model, norm=norm, eps=eps, version="standard", device="cpu", seed=0)
        found = attack.run_standard_evaluation(images.x, images.y, batch_size=500)[0]
        with torch.no_grad():
            standing[name] = model(found).argmax(1) == images.y
        seconds[name] = round(time.monotonic() - start, 1)
    union = torch.stack(list(standing.values())).all(0)
    accuracy = {name: float(one.double().mean()) for name, one in standing.items()}
    accuracy["union"] = float(union.double().mean())
    return {
        "accuracy": accuracy,
        "seconds": round(time.monotonic() - begun, 1),
        "cpu seconds": round(time.process_time() - used, 1),
        "by norm": seconds,
    }


def by_ours(model: torch.nn.Module, images: data.Images, goal: evaluation.Goal) -> dict[str, Any]:
    """The same by `standard`, for one goal."""
    begun, used = time.monotonic(), time.process_time()
    rng = torch.Generator().manual_seed(0)
    suite = evaluation.standard(sets.parse_threat(THREAT))
    ledger = evaluation.evaluate(model, images.x, images.y, suite, rng, goal=goal, batch=500)
    accuracy = {name: share.value for name, share in evaluation.accuracies(ledger).items()}
    return {
        "accuracy": accuracy,
        "seconds": round(time.monotonic() - begun, 1),
        "cpu seconds": round(time.process_time() - used, 1),
    }


def main() -> None:
    """Evaluate every network by both and write one record."""
    parser = options(__doc__, "book/results/bench/autoattack.json", 200)
    parser.add_argument("--models", nargs="+", default=["mnist-natural", "mnist-linf", "mnist-max"])
    given, begun = begin(parser)
    images = data.load("mnist", "test").first(given.points)
    rows = {}
    for name in given.models:
        model = zoo.load(name)
        rows[name] = {
            "AutoAttack": by_autoattack(model, images),
            "standard, each set": by_ours(model, images, evaluation.EachSet()),
            "standard, union only": by_ours(model, images, evaluation.UnionOnly()),
        }
        for suite, row in rows[name].items():
            shares = {key: round(100 * share, 1) for key, share in row["accuracy"].items()}
            print(f"{name}  {suite}: {row['cpu seconds']} s {shares}", flush=True)
    write(given, time.monotonic() - begun, {"networks": rows}, {"threat": THREAT})


if __name__ == "__main__":
    main()
