"""The benchmark of masks: its models do what is said of them, and its scores count right."""

import pytest
import torch

from benchmarks.masks import __main__ as run
from benchmarks.masks import (
    examination,
    fronts,
    inside,
    later,
    later_learned,
    learned,
    newest,
    newest_learned,
    scores,
    unseen,
)
from benchmarks.masks import newest_honest as honestly
from benchmarks.masks.patients import FRONTS, IMPROPER, INSIDE, LATE, RANDOM, Patient, around
from helpers.masked import steep, toy
from helpers.toys import generator
from mpkit import data
from mpkit.attacks import Margin
from mpkit.attacks.gradients import input_gradient
from mpkit.core import records
from mpkit.masking import Sanitized, assess
from mpkit.masking.evidence import KINDS
from mpkit.masking.report import UNSEEN

ALL = [*FRONTS, *INSIDE, *(one for one in later.LATER if one[0] not in later_learned.ALONE)]
ALL += [one for one in newest.NEWEST if one[0] not in newest.ALONE]
ALL += [one for one in unseen.UNSEEN if one[0] not in unseen.ALONE]
MADE = [one for one in ALL if one[0] not in IMPROPER]


@pytest.mark.parametrize(("name", "build", "causes"), MADE, ids=[one[0] for one in MADE])
def test_a_new_mask_hides_a_gradient_and_who_knows_it_has_one(name, build, causes):
    model, x, _ = toy()
    mask = build(model)
    with torch.no_grad():
        y = mask(x).argmax(1)
        assert torch.equal(mask(x), build(model)(x)), "fresh ones answer alike"
    known = [steep(guide, x, y).all() for guide in around(mask)]
    assert known and any(known)
    assert set(causes.split()) <= {*KINDS}
    if {"step", "cut"} >= set(causes.split()):
        assert not steep(mask, x, y).any()


@pytest.mark.parametrize("name", sorted({one[0] for one in ALL} & set(RANDOM)))
def test_a_random_mask_draws_anew_in_every_call(name):
    model, x, _ = toy()
    mask = {one[0]: one[1] for one in ALL}[name](model)
    with torch.no_grad():
        assert any(not torch.equal(mask(x), mask(x)) for _ in range(5))


@pytest.mark.parametrize("kind", [learned.Spiking, learned.Binary, learned.Equilibrium])
def test_a_network_that_learns_with_a_slope_shows_none_and_its_twin_answers_alike(kind):
    _, x, y = toy()
    torch.manual_seed(0)
    network = kind().eval()
    with torch.no_grad():
        torch.testing.assert_close(network.knowing(x), network(x))
    assert not steep(network, x, y).any()
    assert steep(network.knowing, x, y).any()


def test_soft_ferns_agree_with_hard_ones_far_from_every_threshold():
    ferns = learned.Ferns(data.load("digits", "train"))
    _, x, y = toy()
    sure = x.mul(4).round().mul(250)  # differences are now 0 or hundreds
    apart = ferns.apart(sure).abs().amin((1, 2))
    assert steep(ferns.knowing, x, y).all() and not steep(ferns, x, y).any()
    rows = apart > 2
    torch.testing.assert_close(ferns.knowing(sure)[rows], ferns(sure)[rows], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", newest.ALONE)
def test_a_newest_network_hides_a_gradient_and_its_twin_answers_nearly_alike(kind):
    _, x, _ = toy()
    network = newest_learned.forest() if kind == "forest" else newest_learned.alone(kind)
    with torch.no_grad():
        y = network(x).argmax(1)
        assert (network.knowing(x).argmax(1) == y).float().mean() >= 0.75
    assert steep(network.knowing, x, y).all()
    assert not steep(network, x, y).any()


def test_soft_trees_whose_branches_are_sharp_are_the_trees():
    forest = newest_learned.forest()
    x = data.load("digits", "test").x[:16]
    sharp = newest_learned.SoftForest([one.tree_ for one in forest.trees.estimators_], 1e6)
    torch.testing.assert_close(sharp(x).exp(), forest(x), atol=1e-4, rtol=0)


def test_gradients_of_the_newest_liars_are_false_in_the_way_that_is_said():
    model, x, y = toy()
    true = input_gradient(Sanitized(model), Margin(), x, y).gradient
    order = x.sum((1, 2, 3)).argsort(stable=True)
    mixed = newest.MixedUp(model, generator())
    told = input_gradient(Sanitized(mixed), Margin(), x, y).gradient
    torch.testing.assert_close(told, true[order[order]])
    private = newest.Private(model, generator())
    noise = input_gradient(Sanitized(private), Margin(), x, y).gradient
    assert torch.equal(private(x), model(x))
    assert float(noise.flatten(1).norm(dim=1).min()) > 10  # of a true gradient of length 1


def test_newest_masks_that_remember_do_as_is_said():
    model, x, _ = toy()
    wired = newest.Tripwire(model, generator())
    assert torch.equal(wired(x), model(x))
    wired(x.clone().requires_grad_(True)).sum().backward()
    assert torch.equal(wired(x), model(x.flip(3)))
    film = newest.Stream(model, generator())
    film(x)
    torch.testing.assert_close(film(x), model(x))
    torch.testing.assert_close(film(1 - x), 0.05 * model(1 - x) + 0.95 * model(x))


def test_a_backward_pass_by_hand_is_right():
    x = data.load("digits", "test").x[:4].double().requires_grad_(True)
    network = honestly.ByHand().double()
    assert torch.autograd.gradcheck(network, (x,))


def test_known_answers_of_some_fronts():
    model, x, _ = toy()
    assert set(fronts.Dithered(model, generator()).shown(x).unique().tolist()) == {0.0, 1.0}
    grey = fronts.Diffused(model, generator()).shown(torch.full((1, 1, 8, 9), 0.5))
    assert abs(float(grey.mean()) - 0.5) < 0.05  # brightness is handed on, not lost
    ranks = fronts.Equalised(model, generator()).shown(x)
    assert torch.equal(fronts.Equalised(model, generator()).shown(x**3), ranks)
    assert float((fronts.Bytes(model, generator()).shown(x) - x).abs().max()) <= 0.5 / 255 + 1e-6
    assert (
        inside.Ranks(model, generator())(x).sort(1).values.tolist()
        == [[*map(float, range(10))]] * 16
    )


def row(name="a", set="linf", usual="1111", knowing="1111", hides=True, improper=False, **doctor):
    told = {"verdict": "no sign", "first": 1.0, "final": 1.0, "causes": [], "seconds": 1.0}
    other = {"raised": False, "score": 0.0, "seconds": 1.0}
    return {
        "name": name,
        "group": "kept aside",
        "set": set,
        "hides": hides,
        "improper": improper,
        "wanted": ["step"],
        "draws": 1,
        "truth": {"clean": "1" * len(usual), "usual": usual, "knowing": knowing},
        "doctor": told | doctor,
        "others": dict.fromkeys(scores.DETECTORS[1:], other),
    }


def test_labels_go_by_what_was_measured():
    assert scores.label(row(knowing="0111")) is True
    assert scores.label(row()) is None, "a mask that hides nothing here"
    assert scores.label(row(hides=False)) is False
    assert scores.label(row(hides=False, knowing="0111")) is None, "usual attacks are weak"
    assert scores.weak(row(hides=False, knowing="0111")) and not scores.weak(row(hides=False))
    assert scores.label(row(set="rt", knowing="0111")) is None
    assert scores.label(row(set="rt", improper=True)) is True


def test_scores_of_rows_whose_answers_are_known():
    found = row(knowing="0000", verdict="masked", final=0.04, causes=["step"])
    missed = row(knowing="0000", verdict="suspicious")
    fine, wronged = row(hides=False), row(hides=False, verdict="masked", final=0.5)
    told = scores.summary([found, missed, fine, wronged])["doctor"]["all"]
    assert [told[k]["count"] for k in ("found", "named", "cured", "honest called masked")] == [
        1
    ] * 4
    assert [told[k]["of"] for k in ("found", "cured", "honest called masked")] == [2, 2, 2]
    assert scores.cured(found) and not scores.cured(missed)
    points, area = scores.curve([found, missed, fine, wronged], "doctor")
    assert points == [[0, 0], [0, 0.5], [0.5, 0.5], [0.5, 1], [1, 1]]
    assert area == 0.75
    assert scores.suspicion(row(crash="x"), "doctor") == 0


def test_a_piece_is_done_once_for_each_key(tmp_path, capsys):
    calls = []

    def work():
        calls.append(1)
        return {"seconds": 1.0}

    for key in ("a", "a", "b"):
        assert run.piece(tmp_path / "piece.json", key, work) == {"seconds": 1.0}
    assert len(calls) == 2


@pytest.mark.parametrize(("group", "balls"), [("kept aside", 1), ("newest", 1), ("unseen", 3)])
def test_models_that_the_doctor_was_written_without_are_examined_in_all_balls(group, balls):
    one = Patient("one", group, lambda: None, "itself")
    assert run.sets_of(one, 0, 1) == [*("linf", "l2", "l1")[:balls], "rt"]


def test_an_examination_of_an_honest_network_finds_nothing_hidden():
    model, x, y = toy()
    patient = Patient("honest", "kept aside", lambda: model, "itself")
    found = examination.truth(patient, "linf", x, y)
    assert found["clean"] == "1" * 16
    assert sum(map(int, found["usual"])) - sum(map(int, found["knowing"])) <= 1
    crashed = examination.opinion(patient, "linf", x[:2], y[:2], examination.masking.Effort())
    assert "right on 2 of 2" in crashed["crash"]
    assert not assess(model, x, y, 1).wrong.any()


def test_the_scores_of_the_record_are_those_of_its_rows():
    record = records.read_record(run.ROOT / "book" / "results" / "masks.json")
    assert scores.summary(record["rows"]) == record["scores"]
    told = record["scores"]["doctor"]["group: unseen"]
    assert {
        "hiding": told["found"]["of"],
        "found": told["found"]["count"],
        "named": told["named"]["count"],
        "honest": told["honest called masked"]["of"],
    } == UNSEEN
    assert told["honest called masked"]["count"] == 0
    kinds = {(one["name"], one["group"]) for one in record["rows"] if one["hides"]}
    assert sum(group == "kept aside" for _, group in kinds) >= 20
    for name, (group, _) in LATE.items():
        assert sum(one == name for _, one in kinds) == len(group)
    assert len({one["name"] for one in record["rows"] if not one["hides"]}) >= 30
