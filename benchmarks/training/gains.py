"""What a gradient evaluation buys: union accuracy on the digits against the cost of training.

Schemes for three norms, each with few and with more inner steps, from several seeds; besides, the
random choice at the length that makes it as expensive as max, and a fine-tuned specialist, whose
price includes the specialist. All are the same small network, evaluated alike: Auto-PGD on two
losses in each norm. Runs on one core, anywhere; a run that was stopped goes on where it was.

    python -m benchmarks.training.gains
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from benchmarks.common import records
from mpkit import attacks, data, models, sets, training
from mpkit.data import Images
from mpkit.studies.catalog import inner
from mpkit.training import RadiusWarmup, Recipe, costs

NORMS = ("linf", "l2", "l1")
RECIPE = Recipe(epochs=10, averaging=0.99)
TUNING = replace(RECIPE, epochs=4, lr=1e-3)


class Part(NamedTuple):
    """A stretch of training: a scheme and a recipe."""

    scheme: training.Scheme
    recipe: Recipe


def ladder(steps: list[int], shape: tuple[int, int, int]) -> Iterator[tuple[str, int, list[Part]]]:
    """Name, inner steps and stretches of everything that is trained.

    Args:
        steps: gradients of each inner search.
        shape: (C, H, W) of the images.
    """
    threat = sets.usual("digits", shape)
    balls = [one for one in threat.values() if isinstance(one, sets.Ball)]
    for k in steps:
        linf, l2, l1 = (inner(threat[key], k) for key in NORMS)
        several = (linf, l2, l1)
        made: dict[str, training.Scheme] = {
            "linf": training.Single(linf),
            "random": training.Random(several),
            "msd": training.Single(attacks.MSD(sets.Union(*balls), k)),
            "max": training.Max(several),
            "avg": training.Average(several),
        }
        grown = {name: Part(RadiusWarmup(scheme), RECIPE) for name, scheme in made.items()}
        yield from ((name, k, [part]) for name, part in grown.items())
        long = replace(RECIPE, epochs=3 * RECIPE.epochs)
        yield "random, 3 x as long", k, [Part(grown["random"].scheme, long)]
        pair = Part(training.Random((linf, l1)), TUNING)
        yield "fine-tuned", k, [grown["linf"], pair]


def price(parts: list[Part], images: Images) -> dict[str, int]:
    """Forward passes and gradient evaluations of a whole training."""
    total = [0.0, 0.0]
    for scheme, recipe in parts:
        each = costs.passes(scheme, images.shape)
        seen = recipe.epochs * (len(images) // recipe.batch) * recipe.batch
        total = [sum(pair) for pair in zip(total, (n * seen for n in each), strict=True)]
    return {"forward": round(total[0]), "gradients": round(total[1])}


def measured(model: nn.Module, test: Images, steps: int, rng: torch.Generator) -> dict[str, float]:
    """Accuracies: clean, in each norm, in their union."""
    threat = sets.usual("digits", test.shape)
    with torch.no_grad():
        robust = {"clean": model(test.x).argmax(1) == test.y}
    for key in NORMS:
        ball = threat[key]
        assert isinstance(ball, sets.Ball)
        robust[key] = robust["clean"].clone()
        for loss in (attacks.CrossEntropy(), attacks.Margin()):
            image = attacks.APGD(ball, steps, loss)(model, test.x, test.y, rng).image
            with torch.no_grad():
                robust[key] &= model(image).argmax(1) == test.y
    robust["union"] = torch.stack(list(robust.values())).all(0)
    return {key: round(float(one.double().mean()), 4) for key, one in robust.items()}


def row(name: str, k: int, parts: list[Part], seed: int, given: argparse.Namespace) -> Any:
    """Train and evaluate one network."""
    images, test = data.load("digits", "train"), data.load("digits", "test").first(given.points)
    model = models.small_cnn(images.shape, 10, torch.Generator().manual_seed(seed))
    rng, begun = torch.Generator().manual_seed(seed), time.perf_counter()
    for scheme, recipe in parts:
        training.fit(model, images, scheme, recipe, rng)
    seconds = round(time.perf_counter() - begun, 2)
    rng = torch.Generator().manual_seed(seed)
    accuracy = measured(model.eval(), test, given.judge, rng)
    found = {"scheme": name, "steps": k, "seed": seed, **price(parts, images)}
    return {**found, "seconds": seconds, "accuracy": accuracy}


def main() -> None:
    """Train what is missing, then write the record."""
    parser = records.options(__doc__, "book/results/bench/gains.json", 500)
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--seeds", type=int, default=3)
    about = "steps of each search that evaluates"
    parser.add_argument("--evaluation-steps", dest="judge", type=int, default=40, help=about)
    given, _ = records.begin(parser)
    shape = data.load("digits").shape
    kept = records.Kept(given.output, Path(__file__).read_text(), given.points, given.judge)
    rows = []
    for seed in range(given.seeds):
        for name, k, parts in ladder(given.steps, shape):
            key = f"{name}, {k} steps, seed {seed}"
            found = kept.row(key, partial(row, name, k, parts, seed, given))
            print(key, found["gradients"], found["accuracy"], flush=True)
            rows.append(found)
    content = {"rows": rows, "seconds of training": round(sum(r["seconds"] for r in rows), 1)}
    records.write(given, kept.seconds, content, {"data": "digits"})
    kept.done()


if __name__ == "__main__":
    main()
