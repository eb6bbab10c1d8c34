"""The doctor as a whole: it finds masking of known and unseen kinds, and leaves the honest alone.

Every patient is examined under one ball, every honest network under one or all three.
"""

from functools import cache

import pytest
import torch
from torch import nn

from benchmarks.masks.distillation import distil
from benchmarks.masks.known import MASKS
from benchmarks.masks.tricks import unseen_honest, unseen_masks
from benchmarks.masks.unusual import HONEST, more_masks, trained, winners
from helpers.toys import generator
from mpbook.teaching import obfuscated
from mpkit import data, masking
from mpkit.attacks import APGD, PGD, SLIDE, Margin
from mpkit.masking.report import EXPERIENCE
from mpkit.models import small_cnn
from mpkit.sets import Union, usual
from mpkit.training import Natural, RadiusWarmup, Recipe, Single, accuracy, fit

pytestmark = pytest.mark.slow

BALLS = {name: one for name, one in usual("digits", (1, 8, 8)).items() if name != "rt"}
QUICK = masking.Effort(steps=12, queries=80, estimates=8, directions=20, draws=4, decisions=0)
POINTS = 36


def attack(name):
    kinds = {"linf": PGD, "l2": PGD, "l1": SLIDE}
    return kinds[name](BALLS[name], steps=7)


SCHEMES = {
    "natural": Natural(),
    "other": Natural(),
    **{name: RadiusWarmup(Single(attack(name)), (0.2, 0.6)) for name in BALLS},
}


@cache
def learn():
    return data.load("digits", "train")


@cache
def network(kind):
    """A network trained in a few epochs; the same each time."""
    seed = 1 + list(SCHEMES).index(kind)
    build = small_cnn(learn().shape, 10, generator(seed))
    fit(build, learn(), SCHEMES[kind], Recipe(epochs=8, batch=96), generator(seed))
    return build.eval()


@pytest.mark.parametrize("kind", SCHEMES)
def test_the_networks_have_learned_something(kind):
    assert accuracy(network(kind), data.load("digits", "test")) > 0.9


def verdict(model, threat, seed, points=POINTS):
    few = data.load("digits", "test").subset(points, generator(seed))
    return masking.diagnose(model, few.x, few.y, threat, generator(seed), QUICK)


def known(base):
    x = data.load("digits", "test").x
    return {
        "saturated": obfuscated.Saturated(base),
        "probabilities": obfuscated.Probabilities(base),
        "quantised": obfuscated.Quantised(base),
        "thresholded": obfuscated.Thresholded(base),
        "rounded waves": obfuscated.RoundedWaves(base),
        "shaken": obfuscated.Shaken(base, generator()),
        "noisy": obfuscated.Noisy(base, generator()),
        "detached": obfuscated.Detached(base),
        "flipped": obfuscated.Flipped(base),
        "steps": obfuscated.with_steps(base),
        "batch statistics": obfuscated.with_batch_statistics(base, x),
    }


def missed(patients):
    """Names of the patients in which nothing was found; each is seen under one of the balls."""
    found = {}
    for i, (name, model) in enumerate(patients.items()):
        found[name] = verdict(model, list(BALLS.values())[i % 3], i).masked
    return [name for name in found if not found[name]]


def in_turn(natural, robust):
    """Patients made of two networks: the first of the one, the second of the other, and so on."""
    pairs = enumerate(zip(natural.items(), robust.items(), strict=True))
    return dict(pair[i % 2] for i, pair in pairs)


def test_planted_masking_is_found():
    assert missed(in_turn(known(network("linf")), known(network("natural")))) == []


def test_a_distilled_network_is_found_and_a_temperature_breaks_it():
    student, teacher = (small_cnn(learn().shape, 10, generator(s)) for s in (7, 8))
    distil(teacher, student, learn(), generator(), recipe=Recipe(epochs=12, batch=128))
    assert accuracy(student, data.load("digits", "test")) > 0.9
    (one,) = verdict(student, BALLS["linf"], 0).sets.values()
    (reason,) = one.reasons
    assert reason.indicator == "cross-entropy against margin"
    assert "cross-entropy at temperature" in reason.finding
    assert "temperature" in reason.advice


def test_masking_of_unseen_kinds_is_found():
    two = (unseen_masks(network(kind), network("other"), seed=1) for kind in ("natural", "l2"))
    assert missed(in_turn(*two)) == []


def test_masking_of_more_unseen_kinds_is_found():
    patients = more_masks(network("natural"), network("other"), learn())
    found = {name: verdict(model, BALLS[ball], 3) for name, (model, ball) in patients.items()}
    assert [name for name, report in found.items() if not report.masked] == []
    reasons = {
        name: {reason.indicator for one in report.sets.values() for reason in one.reasons}
        for name, report in found.items()
    }
    assert "memory" in reasons["remembers"]
    assert "with and without gradients" in reasons["watches"]


def test_the_report_counts_the_networks_of_these_tests():
    base = network("natural")
    hiding = len(known(base)) + len(unseen_masks(base, network("other"), seed=1)) + len(KNOWN)
    hiding += len(more_masks(base, network("other"), learn())) + 2  # one distilled, one that jumps
    honest = len(SCHEMES) + len(HONEST) + len(unseen_honest(network("l2"), network("linf")))
    honest += 2  # probabilities, and two classes in colour
    assert {"hiding": hiding, "honest": honest} == EXPERIENCE


def test_gradients_of_a_network_that_jumps_are_found_out():
    """Little is left of it: what is hidden is small, and needs more images to be seen."""
    assert verdict(trained(4, winners, Natural(), learn(), 12), BALLS["linf"], 3, 100).masked


@pytest.mark.parametrize("kind", SCHEMES)
def test_honest_networks_are_left_alone(kind):
    threat = Union(*BALLS.values()) if kind == "natural" else BALLS["l1"]
    report = verdict(network(kind), threat, 0)
    assert report.verdict == masking.Verdict.NO_SIGN, report.text()


@pytest.mark.parametrize("kind", HONEST)
def test_honest_networks_of_unseen_kinds_are_left_alone(kind):
    build, scheme = HONEST[kind]
    seed = list(HONEST).index(kind)
    model = trained(seed, build, scheme, learn(), 1 if kind == "hardly trained" else 8)
    report = verdict(model, list(BALLS.values())[seed % 3], seed)
    assert report.verdict == masking.Verdict.NO_SIGN, report.text()


def test_unusual_but_honest_models_are_left_alone():
    for i, (name, model) in enumerate(unseen_honest(network("l2"), network("linf")).items()):
        report = verdict(model, list(BALLS.values())[i % 3], i)
        assert not report.masked, (name, report.text())


def test_probabilities_of_an_honest_network_are_advised_against_and_no_more():
    model = nn.Sequential(network("linf"), nn.Softmax(1))
    report = verdict(model, BALLS["linf"], 1)
    assert report.verdict == masking.Verdict.SUSPICIOUS, report.text()
    assert "Leave the softmax out" in report.text()


def test_two_classes_colour_and_double_precision_are_fine():
    few = data.load("digits", "test")
    rows = ((few.y == 3) | (few.y == 8)).nonzero().squeeze(1)[:POINTS]
    x = few.x[rows].repeat_interleave(4, 2).repeat_interleave(4, 3).repeat(1, 3, 1, 1).double()
    y = (few.y[rows] == 8).long()
    wide = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 1, 1), network("l2"), nn.Linear(10, 2))
    wide = wide.double().eval()
    with torch.no_grad():
        wide[1].weight.fill_(1 / 3), wide[1].bias.zero_()
        wide[3].weight.zero_(), wide[3].bias.zero_()
        wide[3].weight[0, 3] = wide[3].weight[1, 8] = 1
    report = masking.diagnose(wide, x, y, BALLS["linf"], generator(), QUICK)
    assert report.verdict == masking.Verdict.NO_SIGN, report.text()
    assert report.right > 0.9 * POINTS


KNOWN = {
    "decoys": "dead",
    "codes": "step",
    "palette": "step",
    "random rounds": "step",
    "anti-adversary": "loop",
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_mask_is_found_named_and_cured_as_well_as_by_who_knows_it(name):
    build, kind = MASKS[name]
    model, draws = build(network(kind), generator(1)).eval(), 8 if name.startswith("random") else 1
    points = 2 * POINTS if name == "anti-adversary" else POINTS  # its gap is small
    few = data.load("digits", "test").subset(points, generator(3))
    (one,) = verdict(model, BALLS["linf"], 3, points).sets.values()
    assert one.verdict == masking.Verdict.MASKED
    assert one.causes[0].key == KNOWN[name]
    right = ~masking.assess(model, few.x, few.y, draws).wrong
    knowing = masking.Sanitized(model.knowing)
    for attack in (APGD(BALLS["linf"], 60, Margin()), PGD(BALLS["linf"], 60, loss=Margin())):
        image = attack(knowing, few.x, few.y, generator(1)).image
        right &= ~masking.assess(model, image, few.y, draws).wrong
    truth = float(right.double().mean())
    assert one.accuracy["everything"].value <= truth + 0.06
