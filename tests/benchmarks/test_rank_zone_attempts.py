"""The networks behind a rank zone: named apart, trained as told, and on record."""

import pytest

from benchmarks.training import rank_zone as bench
from benchmarks.training.dead_zone import NORMS
from helpers import ROOT
from mpkit.core import records
from mpkit.models import RankRule, front_of
from mpkit.studies import analysis, zoo
from mpkit.studies.catalog import plan

RECORD = ROOT / "book" / "results" / "rank-zone.json"


def everything():
    return [one for part in bench.kinds(3).values() for one in part]


def test_every_attempt_has_a_name_and_a_recipe_of_its_own():
    made = everything()
    assert len({one.name for one in made}) == len(made)
    assert len({(one.plan().key, one.seed) for one in made}) == len(made)


def test_the_best_kind_is_the_recipe_of_the_catalog():
    assert bench.BEST.plan() == plan("mnist-random@rank20", (1, 28, 28))


@pytest.fixture(scope="module")
def record():
    return records.read_record(RECORD)


def test_every_row_on_record_is_one_that_the_command_makes(record):
    assert not record["commit"].endswith("+") and record["parameters"]["held_out"] == 1000
    known = {one.name: one for one in everything()}
    rows = [row for part in record["attempts"].values() for row in part]
    assert rows and record["missing"] == len(known) - len(rows) >= 0
    for row in [*rows, *record["test"]]:
        made = known[row["name"]].plan()
        assert row["settings"]["network"] == made.network
        assert row["settings"]["scheme"] == repr(made.scheme)
        shares = {key: value[0] for key, value in row["accuracy"].items()}
        assert shares["union"] <= min(shares[key] for key in NORMS) <= shares["mean"]
        kept = analysis.bits(row["standing"]).double()
        assert kept.mean().item() == pytest.approx(shares["union"])


def test_the_network_of_the_test_comes_with_the_package(record):
    hashes = {row["weights"]["sha256"] for row in record["test"] if row["seed"] == 0}
    assert hashes == {zoo.card("mnist-random@rank20").sha256}
    assert front_of(zoo.load("mnist-random@rank20")) == RankRule(20)
