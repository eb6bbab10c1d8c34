"""Exact truth beside the suites: the table's arithmetic, and the committed record."""

from pathlib import Path

import pytest
import torch

from benchmarks.certify import exact
from helpers.toys import generator
from mpkit import data, models, sets
from mpkit.certify import certified
from mpkit.core import records
from mpkit.evaluation import evaluate, standard
from mpkit.studies.analysis import bits

RECORD = Path(exact.__file__).parents[2] / "book" / "results" / "exact.json"
CLASSES = tuple("0123456789")


def test_the_table_counts_misses_unknowns_and_contradictions() -> None:
    truth = {"linf": [0, 0, 1, 1, 2], "l1": [0, 1, 1, 1, 1]}
    suites = {
        "weak": {"standing": {"linf": [1, 0, 1, 1, 1], "l1": [1, 1, 1, 1, 1]}},
        "wrong": {"standing": {"linf": [0, 0, 0, 1, 1], "l1": [0, 1, 1, 1, 1]}},
        "only one": {"standing": {"l1": [0, 1, 1, 1, 1]}},
    }
    made = exact.table(truth, suites, ("linf", "l1"))
    assert made["truth"]["union"][0] == pytest.approx(3 / 5)
    assert made["unknown"] == {"linf": 1, "l1": 0, "union": 1}
    weak = made["misses"]["weak"]
    assert [weak[k][0] for k in ("linf", "l1", "union")] == [1 / 5, 1 / 5, 1 / 5]
    assert weak["certified but broken"] == 0
    assert made["misses"]["wrong"]["certified but broken"] == 1
    assert made["misses"]["only one"]["union"][0] == 0  # of the sets that it searches


def test_what_a_suite_misses_is_told_with_a_witness() -> None:
    rng = generator()
    model = models.small_mlp((1, 4, 4), 10, rng).double()
    x = torch.rand(3, 1, 4, 4, generator=rng, dtype=torch.float64)
    images = data.Images(x, model(x).argmax(1), CLASSES, "toy")
    threats = {"l2": sets.L2(0.5)}
    truth = exact.decided(model, images.x, images.y, threats["l2"])
    known = {"l2": truth["status"], "l2 z": truth["z"]}
    suites = {"blind": {"standing": {"l2": [1, 1, 1]}}, "pgd-40": {"standing": {"l2": [1, 1, 1]}}}
    found = list(exact.missed(model, images, threats, known, suites))
    assert [row["image"] for row in found] == [i for i in range(3) if truth["status"][i] == 0]
    for row in found:
        assert row["by"] == ["blind", "pgd-40"] and row["found"] != row["label"]
        assert row["lead"] >= 0 and 0 <= row["safe up to"] < 1
    plain = list(exact.missed(model, images, threats, known, {"pgd-40": suites["pgd-40"]}))
    assert all(set(row) == {"image", "set", "by"} for row in plain)


@pytest.mark.skipif(not RECORD.is_file(), reason="the record is not made yet")
def test_the_record_calibrates_the_suites() -> None:
    record = records.read_record(RECORD)
    assert set(record["networks"]) == set(exact.SCHEMES) == set(record["parameters"]["schemes"])
    assert record["command"].startswith("python ") and record["duration_s"] > 0
    for name, row in record["networks"].items():
        for suite, misses in row["misses"].items():
            assert misses["certified but broken"] == 0, (name, suite)
        assert row["misses"]["standard"]["union"][0] <= 0.005, name
        assert sum(row["unknown"].values()) <= 2, name


@pytest.mark.skipif(not RECORD.is_file(), reason="the record is not made yet")
def test_what_was_missed_is_broken_by_its_witness() -> None:
    record = records.read_record(RECORD)
    images = data.load("digits", "test").to("cpu", torch.float64)
    threats = sets.usual("digits", images.shape)
    for row in record["networks"].values():
        model = exact.read_network(row["weights"])
        for one in [one for one in row["missed"] if "z" in one]:
            x, y = images.x[[one["image"]]], images.y[[one["image"]]]
            threat = threats[one["set"]]
            z = exact.from_text(one["z"]).view_as(threat.zero(x))
            assert threat.contains(x, z).all()
            assert model(threat.apply(x, z)).argmax(1) != y


def test_numbers_survive_as_text() -> None:
    model = models.small_mlp((1, 8, 8), 10, generator()).double()
    flat = torch.cat([t.flatten() for t in model.state_dict().values()])
    again = exact.read_network(exact.as_text(flat))
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(model(x), again(x))


@pytest.mark.skipif(not RECORD.is_file(), reason="the record is not made yet")
@pytest.mark.parametrize("name", exact.SCHEMES)
def test_certificates_and_witnesses_found_anew_agree_with_the_truth(name: str) -> None:
    """On all networks of the record, at radii from a tenth of those that were decided."""
    row = records.read_record(RECORD)["networks"][name]
    images = data.load("digits", "test").to("cpu", torch.float64).first(8)
    net, usual = exact.read_network(row["weights"]), sets.usual("digits", images.shape)
    for kind in ("linf", "l1", "l2"):
        falls = bits(row["broken"][kind])[: len(images)]
        found = [usual[kind].scaled(scale) for scale in (0.1, 0.5, 1.0)]
        sure = [certified(net, images.x, images.y, ball) for ball in found]
        suite = standard(sets.Union(*found), "quick")
        ledger = evaluate(net, images.x, images.y, suite, generator())
        broken = [ledger.broken_in(ball.describe()) for ball in found]
        for one, other in zip(sure, broken, strict=True):
            assert not (one & other).any(), kind
        assert not (sure[-1] & falls).any() and not (broken[-1] & ~falls).any(), kind
        assert sure[0].any() or name == "natural"
