"""The doctor as a whole: it finds masking of known and unseen kinds, and leaves the honest alone.

Every patient is examined under one ball, every honest network under three.
"""

from functools import cache

import pytest
import torch
from torch import nn
from toys import generator
from unseen import unseen_honest, unseen_masks

from mpkit import data, masking, ward
from mpkit.attacks import PGD, SLIDE
from mpkit.curricula import Ramp
from mpkit.models import small_cnn
from mpkit.schemes import Max, Natural, Single
from mpkit.sets import Union, usual
from mpkit.train import Recipe, accuracy, fit

pytestmark = pytest.mark.slow

BALLS = {name: one for name, one in usual("digits", (1, 8, 8)).items() if name != "rt"}
QUICK = masking.Effort(steps=20, queries=120, estimates=12, directions=32, draws=6)
POINTS = 50


def attack(name):
    kinds = {"linf": PGD, "l2": PGD, "l1": SLIDE}
    return kinds[name](BALLS[name], steps=7)


SCHEMES = {
    "natural": Natural(),
    "other": Natural(),
    "dense": Natural(),
    "max": Ramp(Max(tuple(attack(name) for name in BALLS)), (0.2, 0.6)),
    **{name: Ramp(Single(attack(name)), (0.2, 0.6)) for name in BALLS},
}


def dense(seed):
    """A wide network without convolutions; weights from a generator only."""
    layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 200), nn.ReLU(), nn.Linear(200, 10))
    with torch.no_grad():
        for weight in layers.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator(seed)) / 10)
    return layers


@cache
def network(kind):
    """A network trained in a few epochs; the same each time."""
    learn, seed = data.load("digits", "train"), 1 + list(SCHEMES).index(kind)
    build = small_cnn(learn.shape, 10, generator(seed)) if kind != "dense" else dense(seed)
    epochs = 6 if kind == "max" else 10
    fit(build, learn, SCHEMES[kind], Recipe(epochs=epochs), generator(seed))
    return build.eval()


@pytest.mark.parametrize("kind", SCHEMES)
def test_the_networks_have_learned_something(kind):
    assert accuracy(network(kind), data.load("digits", "test")) > 0.9


def verdict(model, threat, seed):
    few = data.load("digits", "test").subset(POINTS, generator(seed))
    return masking.diagnose(model, few.x, few.y, threat, generator(seed), QUICK)


def known(kind):
    base, x = network(kind), data.load("digits", "test").x
    return {
        "saturated": ward.Saturated(base),
        "probabilities": ward.Probabilities(base),
        "quantised": ward.Quantised(base),
        "thresholded": ward.Thresholded(base),
        "rounded waves": ward.RoundedWaves(base),
        "shaken": ward.Shaken(base, generator()),
        "noisy": ward.Noisy(base, generator()),
        "detached": ward.Detached(base),
        "flipped": ward.Flipped(base),
        "steps": ward.with_steps(base),
        "batch statistics": ward.with_batch_statistics(base, x),
    }


def missed(patients):
    """Names of the patients in which nothing was found; each is seen under one of the balls."""
    found = {}
    for i, (name, model) in enumerate(patients.items()):
        found[name] = verdict(model, list(BALLS.values())[i % 3], i).masked
    return [name for name in found if not found[name]]


@pytest.mark.parametrize("kind", ["natural", "linf"])
def test_planted_masking_is_found(kind):
    assert missed(known(kind)) == []


@pytest.mark.parametrize("kind", ["natural", "max"])
def test_masking_of_unseen_kinds_is_found(kind):
    assert missed(unseen_masks(network(kind), network("other"), seed=1)) == []


@pytest.mark.parametrize("kind", SCHEMES)
def test_honest_networks_are_left_alone(kind):
    report = verdict(network(kind), Union(*BALLS.values()), 0)
    assert report.verdict == masking.Verdict.NO_SIGN, report.text()


def test_unusual_but_honest_models_are_left_alone():
    for i, (name, model) in enumerate(unseen_honest(network("l2"), network("linf")).items()):
        report = verdict(model, list(BALLS.values())[i % 3], i)
        assert not report.masked, (name, report.text())
