"""How wide a dead zone should be, and what else was tried: networks of *A threshold on purpose*.

Every attempt is trained on 59,000 training images of MNIST and evaluated on the first of the other
1,000, which lie all over the split, so that nothing is chosen by the test images. It can be stopped
at any time and goes on where it was; several at once share the work. What the record has already is
not made again. On one core the dial takes about ten minutes for each network.

    MPKIT_DATA=folder python -m benchmarks.training.dead_zone
    MPKIT_DATA=folder python -m benchmarks.training.dead_zone --device cuda --budget 9m
    MPKIT_DATA=folder python -m benchmarks.training.dead_zone --only dial --seeds 3
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from benchmarks.common.records import ROOT, again, begin, duration, options, write
from benchmarks.training.ideas import Bounded
from mpkit.attacks import WholePixels
from mpkit.core import records
from mpkit.core.files import DataError, claimed
from mpkit.core.progress import Quiet
from mpkit.data import Elastic, Images, load
from mpkit.evaluation import Ledger, evaluate, standard
from mpkit.evaluation.suites import EDITION
from mpkit.models import front_of
from mpkit.models.cnn import ZONE
from mpkit.sets import L1, RotationTranslation, Union, usual
from mpkit.studies.catalog import Plan, plan
from mpkit.studies.protocol import bits_as_text
from mpkit.studies.recipe_run import FACTS, split, trained
from mpkit.training import RadiusWarmup, Random, RandomPose

WIDTHS = (0.3, 0.0, 0.2, 0.1, 0.25, 0.15)  # in order of value
NORMS = ("linf", "l2", "l1")
STEPS = (3, 5, 8, 14)  # gradients of searches by whole pixels
SHARES = (2.0, 3.0, 3.0, 3.0, 3.0)  # how often l_inf and each of these is drawn


@dataclass(frozen=True)
class Attempt:
    """One network: a recipe of the catalog, and what is changed of it.

    Args:
        a: the width of the dead zone.
        scheme: how the searches are combined: avg, max or random.
        network: a key of ``mpkit.models.NETWORKS``.
        epochs: passes over the data; None for the recipe's.
        linf: the share of batches that are attacked in l_inf, in (0, 1), where one search is drawn
            for each; None for the recipe's, a quarter.
        turned: whether images are turned by up to 12 degrees and shifted by up to 2 pixels.
        whole: the l_1 radius of a search by whole pixels in place of those of the recipe; None for
            these.
        elastic: by how much images are bent, in pixels; 0 for not.
        bounded: with these, the q of a bounded loss in the last four of ten passes; 0 for none.
        seed: of weights and training.
    """

    a: float
    scheme: str = "random"
    network: str = "small_cnn"
    epochs: int | None = None
    linf: float | None = None
    turned: bool = False
    whole: float | None = None
    elastic: float = 0.0
    bounded: float = 0.0
    seed: int = 0

    def folder(self, work: Path) -> Path:
        """Where its training is kept."""
        return work / f"{self.name}-{self.plan().key[:8]}"

    @property
    def name(self) -> str:
        """Such as small_cnn-avg@0.25-6-seed0."""
        more = "" if self.epochs is None else f"-{self.epochs}"
        more += "" if self.linf is None else f"-linf{self.linf:g}"
        more += "-turned" if self.turned else ""
        more += "" if self.whole is None else f"-whole{self.whole:g}"
        more += f"-elastic{self.elastic:g}" if self.elastic else ""
        more += f"-bounded{self.bounded:g}" if self.bounded else ""
        return f"{self.network}-{self.scheme}@{self.a:g}{more}-seed{self.seed}"

    def plan(self) -> Plan:
        """The recipe."""
        made = plan(f"mnist-{self.scheme}@{self.a:g}", (1, 28, 28))
        recipe, scheme = made.recipe, made.scheme
        if self.epochs is not None:
            recipe = replace(recipe, epochs=self.epochs)
        if self.turned:
            recipe = replace(recipe, augment=(RandomPose(RotationTranslation(2.0, 12.0)),))
        if self.linf is not None and isinstance(scheme, RadiusWarmup):
            drawn = cast(Random, scheme.scheme)
            rest = drawn.weights[1:]
            weights = (sum(rest) * self.linf / (1 - self.linf), *rest)
            scheme = replace(scheme, scheme=replace(drawn, weights=weights))
        if self.whole is not None and isinstance(scheme, RadiusWarmup):
            linf, ball = cast(Random, scheme.scheme).attacks[0], L1(self.whole)
            searches = (linf, *(WholePixels(ball, self.a, steps) for steps in STEPS))
            later = recipe.epochs * 6 // 10
            drawn = Bounded(searches, SHARES, self.bounded, later) if self.bounded else None
            scheme = replace(scheme, scheme=drawn or Random(searches, SHARES))
            recipe = replace(recipe, batch=256, lr=4e-3)
        if self.elastic:
            recipe = replace(recipe, augment=(Elastic(self.elastic, 10 * self.elastic),))
        network = f"{self.network}{ZONE}{self.a:g}"
        return replace(made, network=network, recipe=recipe, scheme=scheme, spread=True)


MORE = (
    Attempt(0.3, network="wide_mlp", epochs=20),
    Attempt(0.3, network="broad_cnn", epochs=16),
    Attempt(0.3, network="wide_mlp", epochs=20, linf=0.05),
    Attempt(0.3, network="wide_mlp", epochs=8, whole=10.0),
    Attempt(0.3, network="wide_mlp", epochs=8, whole=12.0),
    Attempt(0.3, network="wide_mlp", epochs=8, whole=10.0, bounded=0.7),
    Attempt(0.3, network="wide_mlp", epochs=40, whole=10.0, elastic=0.5),
    Attempt(0.3, network="broad_cnn", epochs=16, whole=10.0, elastic=0.5),
    Attempt(0.3, network="wide_mlp", epochs=20, turned=True),
    Attempt(0.3, network="wide_cnn", epochs=12),
    Attempt(0.3, "avg"),
    Attempt(0.3, "max"),
    Attempt(0.3, epochs=24),
    Attempt(0.3, network="wider_cnn", epochs=12),
    Attempt(0.3, network="paper_mnist", epochs=12),
)


def attempts(seeds: int) -> dict[str, list[Attempt]]:
    """The dial, and the other attempts, each kind in order of value."""
    dial = [Attempt(a, seed=seed) for seed in range(seeds) for a in WIDTHS]
    return {"dial": dial, "more": list(MORE)}


def judged(
    attempt: Attempt, images: Images, work: Path, points: int, device: str
) -> dict[str, Any]:
    """Train one network, or read it, and evaluate it on images that were held out."""
    made, begun = attempt.plan(), time.monotonic()
    folder = attempt.folder(work)
    model = trained(made, images, attempt.seed, folder, device, Quiet())
    held, since = split(images, made)[1].first(points), time.monotonic()
    ledger = evaluated(model, held, "quick")
    seconds = {"evaluation": time.monotonic() - since, "here": time.monotonic() - begun}
    return told(attempt, folder, ledger, device, seconds)


def evaluated(model: nn.Module, held: Images, budget: str, **more: Any) -> Ledger:
    """The three norms by a budget that knows the front end; ``more`` is for ``evaluate``."""
    sets, where = usual("mnist", held.shape), next(model.parameters()).device
    suite = standard(Union(*(sets[key] for key in NORMS)), budget, 10, front_of(model))
    rng = torch.Generator(where).manual_seed(0)
    batch = min(len(held), 500)
    return evaluate(model, held.x.to(where), held.y.to(where), suite, rng, batch=batch, **more)


def told(
    attempt: Attempt, folder: Path, ledger: Ledger, device: str, seconds: dict[str, float]
) -> dict[str, Any]:
    """The row of a network: what it is, what its training cost, what survived what."""
    facts, sets = records.read_record(folder / FACTS), usual("mnist", (1, 28, 28))
    return {
        "name": attempt.name,
        "width": attempt.a,
        "about": attempt.plan().about,
        "seed": attempt.seed,
        "device": records.device_name(device),
        **{key: facts[key] for key in ("settings", "cost", "weights")},
        "accuracy": {
            "clean": [*ledger.accuracy()],
            **{key: [*ledger.accuracy(sets[key].describe())] for key in NORMS},
            "union": [*ledger.union_accuracy()],
            "mean": [*ledger.average_accuracy()],
        },
        "standing": bits_as_text(~ledger.broken.any(0)),
        "attacks": [gain._asdict() for gain in ledger.gains() if gain.broken],
        "seconds": {
            "training": facts["cost"]["seconds"],
            **{name: round(value, 1) for name, value in seconds.items()},
        },
    }


def rows(
    todo: list[Attempt],
    images: Images,
    given: argparse.Namespace,
    end: float,
    known: dict[str, dict[str, Any]],
) -> Iterator[dict[str, Any]]:
    """The rows of attempts in order; one that another process has in its hands is left out.

    None is begun that would last beyond the end, if it takes as long as the longest so far. One of
    the known rows, by name, is taken where its key says that it would come out the same.
    """
    work, points, longest = given.work, given.points, 0.0
    for attempt in todo:
        key = records.digest(EDITION, attempt.plan().key, attempt.seed, points)
        file = work / f"{attempt.name}.json"
        with claimed(work / f"{attempt.name}.claim") as mine:
            if not mine:
                print(f"{attempt.name}: in other hands", flush=True)
                continue
            row = records.read_record(file) if file.is_file() else known.get(attempt.name, {})
            begun = time.monotonic()
            if row.get("key") != key and (given.gather or begun + longest > end):
                continue
            if row.get("key") != key:
                row = judged(attempt, images, work, points, given.device) | {"key": key}
                records.write_record(file, row)
                longest = max(longest, time.monotonic() - begun)
        told = ", ".join(f"{k} {100 * v[0]:.1f}" for k, v in row["accuracy"].items())
        print(f"{attempt.name}: {told}", flush=True)
        yield row


def near_black_or_white(points: int) -> dict[str, dict[str, float]]:
    """The share of values within a width of black or white, in the data sets that are there."""
    found = {}
    for name in ("mnist", "cifar10"):
        with suppress(DataError):
            x = load(name, "test").first(points).x
            far = torch.minimum(x, 1 - x)
            share = {a: (far <= a).double().mean().item() for a in sorted(WIDTHS)}
            found[name] = {f"{a:g}": round(value, 4) for a, value in share.items()}
    return found


def asked(about: str | None, name: str, kinds: Iterable[str]) -> argparse.ArgumentParser:
    """The options of a script of attempts, whose record and working folder have that name."""
    parser = options(about, f"book/results/{name}.json", 300)
    parser.add_argument("--only", choices=list(kinds), help="one kind of attempt")
    parser.add_argument("--seeds", type=int, default=3, help="of what is trained several times")
    parser.add_argument("--gather", action="store_true", help="train nothing: write what is there")
    parser.add_argument("--work", type=Path, default=ROOT / "_build" / name)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--budget", default="24h", help="begin nothing that would last longer")
    return parser


def gathered(
    given: argparse.Namespace,
    begun: float,
    made: dict[str, list[Attempt]],
    images: Images,
    old: dict[str, Any],
) -> tuple[dict[str, list[dict[str, Any]]], list[dict[str, Any]]]:
    """The rows of each kind, those asked for made where they are missing; and which are new."""
    end = begun + duration(given.budget)
    known = {row["name"]: row for part in old["attempts"].values() for row in part}
    nothing = argparse.Namespace(**vars(given) | {"gather": True})
    found = {}
    for kind, todo in made.items():
        wanted = given if given.only in (None, kind) else nothing
        found[kind] = list(rows(todo, images, wanted, end, known))
    every = [row for part in found.values() for row in part]
    return found, [row for row in every if row != known.get(row["name"])]


def digits(images: Images, points: int) -> str:
    """The classes of the held-out images, a digit each."""
    held = split(images, MORE[0].plan())[1].first(points)
    return "".join(str(int(digit)) for digit in held.y)


def main() -> None:
    """Do what is missing and write the record of what there is."""
    given, begun = begin(asked(__doc__, "dead-zone", ("dial", "more")), keep=False)
    old = records.read_record(given.output) if given.output.is_file() else {"attempts": {}}
    images, made = load("mnist", "train"), attempts(given.seeds)
    found, new = gathered(given, begun, made, images, old)
    spent = sum(row["seconds"][part] for row in new for part in ("training", "evaluation"))
    count = sum(map(len, found.values()))
    content = {
        "attempts": found,
        "missing": sum(map(len, made.values())) - count,
        "near": old.get("near", {}) | near_black_or_white(1000),
        "digits": digits(images, given.points),
    }
    if len(new) < count:
        content |= again(old, {"attempts": [row["name"] for row in new]})
    write(given, spent, content, {"data": "mnist", "held_out": 1000})


if __name__ == "__main__":
    main()
