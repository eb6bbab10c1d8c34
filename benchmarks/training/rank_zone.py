"""Networks behind a dead zone as wide as an image is grey: *A threshold on purpose*.

Every network is trained on 59,000 training images of MNIST and evaluated on the first of the other
1,000, as in ``benchmarks.training.dead_zone``; ``--test`` evaluates the best kind, all its seeds,
on test images instead, once it was chosen. It can be stopped at any time and goes on where it was;
several at once share the work.

    MPKIT_DATA=folder python -m benchmarks.training.rank_zone
    MPKIT_DATA=folder python -m benchmarks.training.rank_zone --test 10000
    MPKIT_DATA=folder python -m benchmarks.training.rank_zone --device cuda --budget 9m
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.common.records import again, begin, write
from benchmarks.training.dead_zone import Attempt, asked, digits, evaluated, gathered, told
from mpkit.core import records
from mpkit.core.files import claimed
from mpkit.data import Elastic, load
from mpkit.evaluation import Ledger, merged
from mpkit.evaluation.suites import EDITION
from mpkit.models import read_weights
from mpkit.models.cnn import RANK, ZONE
from mpkit.studies.catalog import Plan, plan
from mpkit.studies.recipe_run import FACTS, WEIGHTS

PIECE = 1000
"""Test images that are evaluated at a time."""


@dataclass(frozen=True)
class Ranked(Attempt):
    """A network behind a rank zone.

    Args:
        rank: of the zone.
    """

    rank: int = 20

    @property
    def name(self) -> str:
        """Such as wide_mlp-rank20-16-elastic0.5-seed0."""
        more = f"-elastic{self.elastic:g}" if self.elastic else ""
        return f"{self.network}-{RANK}{self.rank}-{self.epochs}{more}-seed{self.seed}"

    def plan(self) -> Plan:
        """The recipe of the catalog, with this network, rank, number of passes and bending."""
        told = f"{ZONE}{RANK}{self.rank}"
        made = plan(f"mnist-random{told}", (1, 28, 28))
        augment = (Elastic(self.elastic, 10 * self.elastic),) if self.elastic else ()
        recipe = replace(made.recipe, epochs=self.epochs or made.recipe.epochs, augment=augment)
        return replace(made, network=f"{self.network}{told}", recipe=recipe)


BEST = Ranked(0.3, network="wide_mlp", epochs=40, elastic=0.5)
OTHERS: tuple[Attempt, ...] = (
    replace(BEST, epochs=16),
    Attempt(0.3, network="wide_mlp", epochs=16, elastic=0.5),
    replace(BEST, epochs=16, rank=40),
    replace(BEST, epochs=16, rank=10),
    replace(BEST, epochs=8, elastic=0.0),
    replace(BEST, epochs=16, network="broad_cnn"),
    replace(BEST, epochs=10, network="paper_mnist"),
)


def kinds(seeds: int) -> dict[str, list[Attempt]]:
    """The seeds of the best kind, and the others, in order of value.

    Among these is a control: the same network, images and passes behind a zone of fixed width.
    """
    return {"best": [replace(BEST, seed=seed) for seed in range(seeds)], "others": list(OTHERS)}


def tested(given: argparse.Namespace) -> list[dict[str, Any]]:
    """The best kind on test images, by a suite that tries harder, where all pieces are done.

    Pieces of 1,000 images lie beside the weights; each goes on where it was, and several processes
    share them.
    """
    found, test = [], load("mnist", "test").first(given.test)
    for attempt in (replace(BEST, seed=seed) for seed in range(given.seeds)):
        folder = attempt.folder(given.work)
        if not (folder / FACTS).is_file():
            print(f"{attempt.name}: is not trained yet")
            continue
        sha256 = records.read_record(folder / FACTS)["weights"]["sha256"]
        model = read_weights(folder / WEIGHTS, sha256).to(given.device)
        done, seconds = [], 0.0
        for start in range(0, len(test), PIECE):
            piece = replace(test, x=test.x[start:][:PIECE], y=test.y[start:][:PIECE])
            file = folder / f"{given.suite}-{EDITION}-{start}-{len(piece)}.safetensors"
            with claimed(file.with_suffix(".claim")) as mine:
                mark = file.with_suffix(".json")
                if mine and not mark.is_file() and not given.gather:
                    begun = time.monotonic()
                    evaluated(model, piece, given.suite, first=start, file=file)
                    records.write_record(mark, {"seconds": time.monotonic() - begun})
            if mark.is_file():
                done.append(Ledger.load(file))
                seconds += records.read_record(mark)["seconds"]
                told_so_far = merged(done).union_accuracy()
                print(f"{attempt.name}: {len(done)} pieces, union {told_so_far}", flush=True)
        if sum(map(len, done)) == len(test):
            row = told(attempt, folder, merged(done), given.device, {"evaluation": seconds})
            found.append(row | {"key": records.digest(EDITION, attempt.plan().key, given.suite)})
    return found


def main() -> None:
    """Do what is missing and write the record of what there is."""
    parser = asked(__doc__, "rank-zone", ("best", "others"))
    parser.add_argument("--test", type=int, default=0, help="test images for the best kind")
    parser.add_argument("--suite", default="standard", help="the budget on test images")
    given, begun = begin(parser, keep=False)
    old = records.read_record(given.output) if given.output.is_file() else {"attempts": {}}
    images, made = load("mnist", "train"), kinds(given.seeds)
    training = argparse.Namespace(**vars(given) | {"gather": given.gather or given.test > 0})
    found, new = gathered(training, begun, made, images, old)
    size = {(row["standing"]["count"], row["seed"]): row for row in old.get("test", [])}
    size |= {(given.test, row["seed"]): row for row in (tested(given) if given.test else [])}
    test = [size[key] for key in sorted(size)]
    fresh = [row for row in test if row not in old.get("test", [])]
    spent = sum(row["seconds"]["training"] for row in new)
    spent += sum(row["seconds"]["evaluation"] for row in (*new, *fresh))
    count = sum(map(len, found.values()))
    content = {
        "attempts": found,
        "missing": sum(map(len, made.values())) - count,
        "test": test,
        "digits": digits(images, given.points),
    }
    if len(new) + len(fresh) < count + len(test):
        content |= again(old, {"attempts": [row["name"] for row in (*new, *fresh)]})
    write(given, spent, content, {"data": "mnist", "held_out": 1000})


if __name__ == "__main__":
    main()
