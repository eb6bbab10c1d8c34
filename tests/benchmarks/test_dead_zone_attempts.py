"""The attempts with dead zones: named apart, chosen without test images, and on record."""

from argparse import Namespace
from dataclasses import replace

import pytest

from benchmarks.training import dead_zone as bench
from helpers import ROOT
from mpkit.core import records
from mpkit.studies import analysis
from mpkit.studies.catalog import plan
from mpkit.training.recipes import Recipe

RECORD = ROOT / "book" / "results" / "dead-zone.json"


def test_every_attempt_has_a_name_and_a_recipe_of_its_own():
    made = [one for part in bench.attempts(3).values() for one in part]
    assert len({one.name for one in made}) == len(made) == 3 * len(bench.WIDTHS) + len(bench.MORE)
    keys = {(one.plan().key, one.seed) for one in made}
    assert len(keys) == len(made)


def test_an_attempt_is_the_recipe_of_the_catalog_but_for_what_it_changes():
    one = bench.Attempt(0.25, "max")
    assert one.plan() == replace(plan("mnist-max@0.25", (1, 28, 28)), spread=True)
    longer = bench.Attempt(0.25, "max", "paper_mnist", 3).plan()
    assert longer.network == "paper_mnist@0.25" and longer.recipe.epochs == 3
    assert longer.scheme == one.plan().scheme and isinstance(longer.recipe, Recipe)


def test_fewer_linf_batches_and_turned_images_change_nothing_else():
    plain = bench.Attempt(0.3).plan()
    few = bench.Attempt(0.3, linf=0.1).plan()
    weights = few.scheme.scheme.weights
    assert abs(weights[0] / sum(weights) - 0.1) < 1e-12
    assert weights[1:] == plain.scheme.scheme.weights[1:]
    assert replace(few, scheme=plain.scheme) == plain
    turned = bench.Attempt(0.3, turned=True).plan()
    assert len(turned.recipe.augment) == 1 and turned.scheme == plain.scheme


def test_ideas_replace_the_searches_in_l1_and_leave_linf_and_the_widening_radii():
    plain = bench.Attempt(0.3, network="wide_mlp", epochs=8).plan()
    idea = bench.Attempt(0.3, network="wide_mlp", epochs=8, whole=12.0, elastic=0.5, bounded=0.7)
    made = idea.plan()
    assert made.scheme.shares == plain.scheme.shares and made.recipe.epochs == 8
    assert made.scheme.scheme.attacks[0] == plain.scheme.scheme.attacks[0]
    assert [one.steps for one in made.scheme.scheme.attacks[1:]] == [*bench.STEPS]
    assert {one.set.eps for one in made.scheme.scheme.attacks[1:]} == {12.0}
    assert (made.scheme.scheme.q, made.scheme.scheme.begin) == (0.7, 4)
    assert made.recipe.augment == (bench.Elastic(0.5, 5.0),)


def test_the_broad_attempt_is_the_recipe_of_its_scale():
    made = bench.Attempt(0.3, network="broad_cnn", epochs=16).plan()
    assert made == plan("mnist-random@0.3", (1, 28, 28), "broad")


@pytest.fixture(scope="module")
def record():
    return records.read_record(RECORD)


def test_the_record_says_how_it_was_made(record):
    assert not record["commit"].endswith("+") and record["seed"] == 0
    assert record["parameters"]["held_out"] == 1000 >= record["parameters"]["points"]


def test_every_attempt_on_record_is_one_that_the_command_makes(record):
    known = {one.name: one for part in bench.attempts(3).values() for one in part}
    rows = [row for part in record["attempts"].values() for row in part]
    assert rows and record["missing"] == len(known) - len(rows) >= 0
    for row in rows:
        made = known[row["name"]].plan()
        assert row["settings"]["network"] == made.network
        assert row["settings"]["scheme"] == repr(made.scheme)
        shares = {key: value[0] for key, value in row["accuracy"].items()}
        assert shares["union"] <= min(shares[key] for key in bench.NORMS) <= shares["mean"]
        assert all(low <= value <= high for value, low, high in row["accuracy"].values())
        if "standing" in row:
            standing = analysis.bits(row["standing"])
            assert len(standing) == len(record["digits"]) == record["parameters"]["points"]
            assert standing.double().mean().item() == pytest.approx(shares["union"])


def test_a_row_on_record_is_not_made_again_and_one_of_other_images_does_not_count(record, tmp_path):
    known = {row["name"]: row for part in record["attempts"].values() for row in part}
    todo = [one for part in bench.attempts(3).values() for one in part]
    given = Namespace(work=tmp_path, points=record["parameters"]["points"], gather=True)
    found = list(bench.rows(todo, None, given, 0.0, known))
    assert found == [known[one.name] for one in todo if one.name in known]
    given.points += 1
    assert list(bench.rows(todo, None, given, 0.0, known)) == []
