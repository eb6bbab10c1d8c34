"""Networks behind a dead zone as wide as an image is grey: *A threshold on purpose*.

Every network is trained on 59,000 training images of MNIST and evaluated on the first of the other
1,000, as in ``benchmarks.training.dead_zone``; ``--test`` evaluates the best kind, all its seeds,
on test images instead, once it was chosen. It can be stopped at any time and goes on where it was;
several at once share the work.

    MPKIT_DATA=folder python -m benchmarks.training.rank_zone
    MPKIT_DATA=folder python -m benchmarks.training.rank_zone --test 2000
    MPKIT_DATA=folder python -m benchmarks.training.rank_zone --device cuda --budget 9m
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.common.records import again, begin, write
from benchmarks.training.dead_zone import Attempt, asked, digits, evaluated, gathered, told
from benchmarks.training.ideas import WholePixels
from mpkit.attacks import APGD, PGD, SLIDE, Attack, BelowRank
from mpkit.core import records
from mpkit.core.files import claimed
from mpkit.data import load
from mpkit.evaluation import Ledger, merged
from mpkit.evaluation.suites import EDITION
from mpkit.models import RankRule, read_weights
from mpkit.models.cnn import RANK, ZONE
from mpkit.sets import L1, L2, Ball, Linf
from mpkit.studies.catalog import Plan
from mpkit.studies.recipe_run import FACTS, WEIGHTS
from mpkit.training import RadiusWarmup, Random

LINF, SMALL, SPARSE = Linf(0.3), L2(2.0), L1(10.0)
WIDTHS = (0.0, 0.0, 0.1, 0.2)
"""To which the searches in l_inf and l_2 bring the zone; the first weighs most."""

IN_L1 = (
    SLIDE(SPARSE, 10),
    SLIDE(SPARSE, 10, quantile=0.995),
    SLIDE(SPARSE, 5, quantile=0.97),
    APGD(SPARSE, 10),
    WholePixels(SPARSE, 0.0, 5),
)
PIECE = 1000
"""Test images that are evaluated at a time."""
SHARES = {"linf": 0.3, "all": 0.05, "l2": 0.1, "l1": 0.55}  # of batches


@dataclass(frozen=True)
class Ranked(Attempt):
    """A network behind a rank zone.

    Args:
        rank: of the zone.
        rounds: of the searches that stay below it.
    """

    rank: int = 20
    rounds: int = 2

    @property
    def name(self) -> str:
        """Such as wide_mlp-rank20-16-elastic0.5-seed0."""
        more = f"-elastic{self.elastic:g}" if self.elastic else ""
        more += "" if self.rounds == 2 else f"-rounds{self.rounds}"
        return f"{self.network}-{RANK}{self.rank}-{self.epochs}{more}-seed{self.seed}"

    def plan(self) -> Plan:
        """The recipe: one search for each batch, drawn among l_inf, l_2 and l_1."""
        made, (attacks, weights) = super().plan(), zip(*self.searches(), strict=True)
        return replace(
            made,
            network=f"{self.network}{ZONE}{RANK}{self.rank}",
            recipe=replace(made.recipe, batch=256, lr=4e-3),
            scheme=RadiusWarmup(Random(attacks, weights), (0.2, 0.6)),
        )

    def searches(self) -> list[tuple[Attack, float]]:
        """The searches, and how often each is drawn."""
        found: list[tuple[Attack, float]] = [
            (PGD(LINF, 5), SHARES["all"]),
            *((search, SHARES["l1"] / len(IN_L1)) for search in IN_L1),
        ]
        for width in WIDTHS:
            found.append((self._below(LINF, 6, width), SHARES["linf"] / len(WIDTHS)))
            found.append((self._below(SMALL, 5, width), SHARES["l2"] / len(WIDTHS)))
        return found

    def _below(self, ball: Ball, steps: int, width: float) -> Attack:
        rule = RankRule(self.rank)
        left = BelowRank.left(ball, rule, width)
        attack = PGD(left or ball, steps)
        return BelowRank(attack, ball, rule, width if left else 0.0, self.rounds)


BEST = Ranked(0.3, network="wide_mlp", epochs=40, elastic=0.5)
OTHERS: tuple[Attempt, ...] = (
    replace(BEST, epochs=16),
    Attempt(0.3, network="wide_mlp", epochs=16, elastic=0.5),
    replace(BEST, epochs=16, rounds=1),
    replace(BEST, epochs=16, rank=40),
    replace(BEST, epochs=16, rank=10),
    replace(BEST, epochs=8, elastic=0.0),
    replace(BEST, epochs=16, network="broad_cnn"),
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
    test = tested(given) if given.test else old.get("test", [])
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
