"""The sandwich on MNIST: a network trained for certificates, witnesses above, certificates below.

A network 784-32-32-10 is trained on interval bounds in l_inf and l_2 at once, with radii that grow
over three quarters of the epochs, then attacked by a suite and bounded by linear relaxation, in
l_inf, l_2 and l_1. The record tells of every image whether it is broken (0), certified (1) or
unknown (2); the weights of the network lie beside it. It can be stopped at any time and goes on
where it was, with more images or fewer.

    MPKIT_DATA=folder OMP_NUM_THREADS=1 python -m benchmarks.certify.mnist
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.common.records import Kept, begin, options, write
from mpkit import data, evaluation, models, sets, training
from mpkit.certify import IntervalLoss, LinearRelaxation, Sandwich, sandwich
from mpkit.core.statistics import proportion
from mpkit.sets import L1, L2, Linf

THREAT = sets.Union(Linf(0.1), L2(0.5), L1(1.0))
TRAINED = (Linf(0.1), L2(0.5))
CHUNK = 20


def network(images: data.Images, kind: str, epochs: int, seed: int) -> nn.Module:
    """Train for certificates in l_inf and l_2; the radii grow by equal factors from a thousandth.

    Intervals grow on their way through a network that was not trained for them: by about 500 from
    pixels to logits with the first weights of `small_mlp`, by 28,000 with those of `small_cnn`. In
    two tries, with radii from a ninth and from a thousandth, that one learned to say the same of
    every image.
    """
    rng = torch.Generator().manual_seed(seed)
    model = models.NETWORKS[kind](images.shape, 10, rng)
    growing = max(1, 3 * epochs // 4)
    shares = tuple(0.001 ** (1 - k / growing) for k in range(growing))
    scheme = training.RadiusWarmup(IntervalLoss(TRAINED), shares)
    training.fit(model, images, scheme, training.Recipe(epochs=epochs, batch=64, lr=1e-3), rng)
    return model


def layers(model: nn.Module, images: data.Images, budget: str) -> dict[str, Any]:
    """What is known of some images: statuses by set, and processor times."""
    begun, rng = time.process_time(), torch.Generator().manual_seed(0)
    suite = evaluation.standard(THREAT, budget)
    ledger = evaluation.evaluate(model, images.x, images.y, suite, rng)
    attacked = time.process_time()
    made = sandwich(model, images.x, images.y, THREAT, ledger, LinearRelaxation(0, 10))
    return {
        "status": made.status.tolist(),
        "attack seconds": round(attacked - begun, 1),
        "certificate seconds": round(time.process_time() - attacked, 1),
    }


def right(model: nn.Module, images: data.Images) -> torch.Tensor:
    """Which images are classified right: (N,) bool."""
    with torch.no_grad():
        return model(images.x).argmax(1) == images.y


def main() -> None:
    """Train, attack, bound, and write one record."""
    parser = options(__doc__, "book/results/certified.json", 200)
    parser.add_argument("--network", default="small_mlp", choices=sorted(models.NETWORKS))
    parser.add_argument("--images", type=int, default=20_000, help="that are trained on")
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--budget", default="standard")
    given, _ = begin(parser)
    test = data.load("mnist", "test").first(given.points)
    kept = Kept(given.output, given.network, given.images, given.epochs, given.budget)
    weights = given.output.with_suffix(".safetensors")

    def train() -> dict[str, Any]:
        begun = time.process_time()
        images = data.load("mnist", "train").first(given.images)
        made = network(images, given.network, given.epochs, 0)
        sha256 = models.write_weights(weights, made, given.network, test.shape, 10)
        return {"sha256": sha256, "cpu seconds": round(time.process_time() - begun, 1)}

    trained, parts = kept.row("training", train), []
    model = models.read_weights(weights, trained["sha256"])
    for start in range(0, len(test), CHUNK):
        part = replace(test, x=test.x[start : start + CHUNK], y=test.y[start : start + CHUNK])
        work = partial(layers, model, part, given.budget)
        parts.append(kept.row(f"certified {start}", work))
    status = torch.cat([torch.tensor(part["status"], dtype=torch.int8) for part in parts], 1)
    made = Sandwich(tuple(one.describe() for one in THREAT.sets), status)
    rows: dict[str, dict[str, Any]] = {}
    for kind in (*made.sets, "union"):
        rows[kind] = {
            "left": list(made.standing(kind)),
            "certified": list(made.certified(kind)),
            "status": "".join(map(str, made.of(kind).tolist())),
        }
        print(kind, rows[kind], flush=True)
    content = {
        "clean": list(proportion(right(model, test))),
        "known": rows,
        "cpu seconds": {
            clock: round(sum(part[f"{clock} seconds"] for part in parts), 1)
            for clock in ("attack", "certificate")
        },
        "command": "python -m benchmarks.certify.mnist",
        "trained": trained,
    }
    facts = {"dataset": "mnist", "threat": THREAT.describe(), "trained": repr(TRAINED)}
    write(given, kept.seconds, content, facts)
    kept.done()


if __name__ == "__main__":
    main()
