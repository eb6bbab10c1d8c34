"""The suite `standard` beside AutoAttack by its authors, and in l_0 beside σ-zero.

Needs the extra `compare` (pyautoattack, adv-lib) and MNIST. Each network of the zoo is evaluated by
both, on the same images, with the same number of threads: accuracy, seconds, and images that went
forward and back through the network. Images that the others return count as broken when the
network errs on them; σ-zero is a search for the fewest pixels, so its images count where they
change at most as many as are allowed.

    python -m benchmarks.peers.autoattack --models mnist-max mnist-tuned-on --points 200
"""

from __future__ import annotations

import logging
import time
from typing import Any

import torch

from benchmarks.common.records import RADII, begin, options, write
from mpkit import data, evaluation, sets
from mpkit.models import QueryCounter
from mpkit.studies import zoo

THREAT = " + ".join(f"{name}:{eps:g}" for name, eps in RADII.items())
NORMS = {f"{name}:{eps:g}": (name.capitalize(), eps) for name, eps in RADII.items()}


PIXELS = "l0:20"


class Bill:
    """What an evaluation took: a model that counts its images, and clocks."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = QueryCounter(model).eval()
        self.begun, self.used = time.monotonic(), time.process_time()

    def settled(self, accuracy: dict[str, float]) -> dict[str, Any]:
        """Accuracies with what they took so far."""
        return {
            "accuracy": accuracy,
            "seconds": round(time.monotonic() - self.begun, 1),
            "cpu seconds": round(time.process_time() - self.used, 1),
            "forward": self.model.forwards,
            "backward": self.model.backwards,
        }


def by_autoattack(model: torch.nn.Module, images: data.Images) -> dict[str, Any]:
    """Accuracy in each norm and of the union by AutoAttack's standard version, and its price."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    bill, standing, seconds = Bill(model), {}, {}
    for name, (norm, eps) in NORMS.items():
        start = time.monotonic()
        how = {"norm": norm, "eps": eps, "version": "standard", "device": "cpu", "seed": 0}
        attack = AutoAttack(bill.model, **how)
        found = attack.run_standard_evaluation(images.x, images.y, batch_size=500)[0]
        with torch.no_grad():
            standing[name] = model(found).argmax(1) == images.y
        seconds[name] = round(time.monotonic() - start, 1)
    union = torch.stack(list(standing.values())).all(0)
    accuracy = {name: float(one.double().mean()) for name, one in standing.items()}
    accuracy["union"] = float(union.double().mean())
    return bill.settled(accuracy) | {"by norm": seconds}


def by_sigma_zero(model: torch.nn.Module, images: data.Images) -> dict[str, Any]:
    """Accuracy in l_0 by adversarial-library's σ-zero with its default settings."""
    from adv_lib.attacks import sigma_zero

    bill, ball = Bill(model), sets.parse_threat(PIXELS).sets[0]
    found = sigma_zero(bill.model, images.x, images.y).detach()
    with torch.no_grad():
        wrong = model(found).argmax(1) != images.y
        wrong &= ball.contains(images.x, found - images.x)
        wrong |= model(images.x).argmax(1) != images.y
    return bill.settled({PIXELS: 1 - float(wrong.double().mean())})


def by_ours(
    model: torch.nn.Module, images: data.Images, goal: evaluation.Goal, threat: str = THREAT
) -> dict[str, Any]:
    """The same by `standard`, for one goal."""
    bill, rng = Bill(model), torch.Generator().manual_seed(0)
    suite = evaluation.standard(sets.parse_threat(threat))
    ledger = evaluation.evaluate(bill.model, images.x, images.y, suite, rng, goal=goal, batch=500)
    shares = {name: share.value for name, share in evaluation.accuracies(ledger).items()}
    return bill.settled(shares) | {"attacks": [gain._asdict() for gain in ledger.gains()]}


def main() -> None:
    """Evaluate every network by both and write one record."""
    parser = options(__doc__, "book/results/bench/autoattack.json", 200)
    models = [f"mnist-{scheme}" for scheme in ("linf", "l1", "max", "tuned-on")]
    parser.add_argument("--models", nargs="+", default=models)
    given, begun = begin(parser)
    images = data.load("mnist", "test").first(given.points)
    rows = {}
    for name in given.models:
        model = zoo.load(name)
        rows[name] = {
            "AutoAttack": by_autoattack(model, images),
            "standard, each set": by_ours(model, images, evaluation.EachSet()),
            "standard, union only": by_ours(model, images, evaluation.UnionOnly()),
            "σ-zero": by_sigma_zero(model, images),
            "standard, pixels": by_ours(model, images, evaluation.EachSet(), PIXELS),
        }
        for suite, row in rows[name].items():
            shares = {key: round(100 * share, 1) for key, share in row["accuracy"].items()}
            print(f"{name}  {suite}: {row['cpu seconds']} s {shares}", flush=True)
    write(given, time.monotonic() - begun, {"networks": rows}, {"threat": THREAT})


if __name__ == "__main__":
    main()
