"""Recorded steps give what plain ones give, and say so where they cannot be recorded."""

from dataclasses import dataclass, replace
from itertools import cycle

import pytest
import torch
from torch import nn
from torch.nn.functional import linear as linear_map

from helpers import every
from helpers.small_runs import SHORT, linear, rng, tiny, trained, weights
from helpers.stand_ins import Taped
from mpkit.attacks import MSD, PGD, GraphedAttack, SpatialPGD
from mpkit.core import cuda_graphs
from mpkit.data import Crop, Flip
from mpkit.sets import Linf, RotationTranslation, Union
from mpkit.training import (
    SGD,
    Average,
    Checkpoints,
    Max,
    Natural,
    RadiusWarmup,
    Random,
    Recipe,
    Scheme,
    Single,
    fit,
    step,
)
from mpkit.training.recipes import fingerprint
from mpkit.training.run import Run

NEAR, FAR = PGD(Linf(0.05), 3), PGD(Linf(0.2), 2)
SCHEMES = [
    Single(NEAR),
    Natural(),
    Average((NEAR, FAR)),
    Max((NEAR, FAR)),
    RadiusWarmup(Max((NEAR, FAR)), (0.5,)),
    Single(MSD(Union(Linf(0.05), Linf(0.1)), 3)),
    Single(SpatialPGD(RotationTranslation(1, 10), 3)),
]
RECIPES = [
    SHORT,
    Recipe(epochs=2, batch=16, lr=0.1, optimizer=SGD(), averaging=0.9, clip=0.5, shards=2),
    Recipe(epochs=2, batch=16, lr=0.1, augment=(Crop(1), Flip())),
    Recipe(epochs=2, batch=16, lr=0.1, natural=0.5),
]


def test_the_stand_in_freezes_what_the_host_decides():
    factors = iter((2.0, 3.0, 4.0))
    tape = Taped(lambda x: x * next(factors), [torch.ones(2)])
    assert torch.equal(tape(torch.full((2,), 5.0)), torch.full((2,), 10.0))


@pytest.mark.parametrize(("scheme", "recipe"), zip(SCHEMES, cycle(RECIPES), strict=False))
def test_recorded_steps_train_to_the_same_bits(scheme, recipe):
    """Learning rate, running mean and random numbers move on, though the graph stays the same."""
    plain, history = trained(recipe, scheme)
    model, its_history = trained(recipe, scheme, recorder=Taped)
    assert torch.equal(weights(model), weights(plain)) and its_history == history


def normalized():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    for p in (model := model.double()).parameters():
        nn.init.uniform_(p, -0.5, 0.5, generator=rng(3))
    return model


def test_recording_leaves_the_buffers_of_a_network_alone():
    models = normalized(), normalized()
    for model, recorder in zip(models, (None, Taped), strict=True):
        fit(model, tiny(), Single(NEAR), SHORT, rng(), recorder=recorder)
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], tensor), name
    assert int(models[1][2].num_batches_tracked) == 9


def test_every_scheme_is_recorded_once():
    before = Taped.made
    trained(Recipe(epochs=3, batch=2, lr=0.1), Single(NEAR), recorder=Taped)
    assert Taped.made == before + 1
    trained(Recipe(epochs=3, batch=2, lr=0.1), RadiusWarmup(Single(NEAR), (0.5,)), recorder=Taped)
    assert Taped.made == before + 3


def test_random_schemes_draw_on_the_host_and_are_recorded_once_for_each_attack():
    before = Taped.made
    scheme = Random((NEAR, FAR))
    first, second = (weights(trained(SHORT, scheme, recorder=Taped)[0]) for _ in range(2))
    assert torch.equal(first, second) and Taped.made == before + 4
    run = Run(linear(), tiny(), scheme, SHORT, 5, Taped)
    run.stretch({})
    seen = {scheme.settled(rng(seed)).attack for seed in range(20)}
    assert seen == {NEAR, FAR}


@pytest.mark.parametrize("shards", [1, 2, 4, 8])
def test_there_is_one_recording_for_each_attack_for_any_number_of_shards(shards):
    """All shards replay it; the key is no combination of what they drew."""
    before = Taped.made
    scheme = Random(tuple(PGD(Linf(eps), 1) for eps in (0.05, 0.1, 0.2)))
    recipe = Recipe(epochs=9, batch=8, lr=0.1, shards=shards)
    run = Run(linear(), tiny(), scheme, recipe, 5, Taped)
    while run.done < 40:
        run.stretch({}, 5)
    assert Taped.made - before == 3


@pytest.mark.parametrize("scheme", every.SCHEMES.values(), ids=every.SCHEMES)
def test_recordings_are_at_most_the_settled_schemes(scheme):
    settled = {fingerprint(scheme.at(3, {}).settled(rng(seed))) for seed in range(20)}
    before = Taped.made
    run = Run(linear(), tiny(), scheme.at(3, {}), Recipe(epochs=4, batch=8, shards=4), 5, Taped)
    while run.done < 20:
        run.stretch({}, 5)
    assert Taped.made - before <= len(settled)


def test_the_recording_that_was_not_used_for_longest_leaves(monkeypatch):
    monkeypatch.setattr(step, "MOST", 2)
    run = Run(linear(), tiny(), Natural(), SHORT, 5, Taped)
    rows, made = torch.arange(16), []
    for eps in (0.1, 0.2, 0.1, 0.3, 0.1, 0.2):
        before = Taped.made
        run.gradient(Single(PGD(Linf(eps), 1)), rows, [1])
        made.append(Taped.made - before)
    assert made == [1, 1, 0, 1, 0, 1]


@dataclass(frozen=True)
class Partly(Scheme):
    """Leaves out the bias where the generator's first number says so, as no real scheme does."""

    bias: bool = True

    def settled(self, rng):
        return replace(self, bias=bool(torch.rand((), generator=rng) < 0.5))

    def __call__(self, model, x, y, rng):
        layer = model[1]
        return linear_map(x.flatten(1), layer.weight, layer.bias if self.bias else None).sum(1)


def test_a_weight_without_a_gradient_in_some_shards_has_that_of_the_others():
    gradients = []
    for recorder in (None, Taped):
        run = Run(linear(), tiny(), Partly(), Recipe(epochs=1, batch=16, shards=4), 5, recorder)
        run.gradient.settles = True
        run.gradient(Partly(), torch.arange(16), [1, 2, 3, 4])
        gradients.append([weight.grad for weight in run.weights])
    for plain, recorded in zip(*gradients, strict=True):
        assert torch.equal(plain, recorded)


def test_an_interrupted_run_of_recorded_steps_goes_on_to_the_same_bits(tmp_path):
    recipe = Recipe(epochs=3, batch=2, lr=0.1, optimizer=SGD(), averaging=0.9)
    whole = Run(linear(), tiny(), Single(NEAR), recipe, 5, Taped)
    while whole.done < 72:
        whole.stretch({})
    first = Run(linear(), tiny(), Single(NEAR), recipe, 5, Taped)
    first.stretch({})
    kept = {name: tensor.clone() for name, tensor in first.tensors().items()}
    second = Run(linear(1), tiny(), Single(NEAR), recipe, 5, Taped)
    second.stretch({})
    second.restore(kept, first.done)  # in place, where the recording reads
    while second.done < 72:
        second.stretch({})
    assert torch.equal(weights(second.model), weights(whole.model))
    trained(SHORT, Single(NEAR), checkpoints=Checkpoints(tmp_path), recorder=Taped)
    trained(SHORT, Single(NEAR), checkpoints=Checkpoints(tmp_path))  # the same run: no ValueError


def cannot(work, inputs, rngs=(), kept=()):
    work(*inputs)
    raise RuntimeError("operation not permitted when stream is capturing")


@dataclass(frozen=True)
class Nameless(Scheme):
    """Holds a network, which has no name by which a recording could be found again."""

    teacher: nn.Module

    def __call__(self, model, x, y, rng):
        return Natural()(model, x, y, rng)


@pytest.mark.parametrize(
    ("scheme", "recorder", "why"),
    [
        (Single(NEAR), cannot, r"Single cannot be recorded \(operation not permitted"),
        (Nameless(nn.Identity()), Taped, r"Nameless cannot be recorded \(canonical: no form"),
    ],
)
def test_what_cannot_be_recorded_is_said_once_and_run_plainly(scheme, recorder, why):
    plain, history = trained(SHORT, scheme)
    with pytest.warns(UserWarning, match=why) as caught:
        model, its_history = trained(SHORT, scheme, recorder=recorder)
    assert len(caught) == 1
    assert torch.equal(weights(model), weights(plain)) and its_history == history


def test_a_recorded_attack_falls_back_to_the_attack():
    model, images = linear(), tiny(12)
    with pytest.warns(UserWarning, match=r"GraphedAttack: recording PGD failed \(operation not"):
        search = GraphedAttack(NEAR, model, images.x, images.y, cannot)
    plain = NEAR(model, images.x, images.y, rng())
    assert torch.equal(search(images.x, images.y, rng()).image, plain.image)
    later = GraphedAttack(NEAR, model, images.x, images.y, Taped)
    later.recorder = cannot
    with pytest.warns(UserWarning, match="recording PGD failed"):
        later(images.x[:5], images.y[:5], rng())
    assert torch.equal(later(images.x, images.y, rng()).image, plain.image)
    with pytest.raises(ValueError, match="pixels must lie in"):
        GraphedAttack(NEAR, model, images.x + 1, images.y)


def test_a_recorded_attack_is_recorded_once_for_each_shape():
    model, images, before = linear(), tiny(12), Taped.made
    search = GraphedAttack(NEAR, model, images.x, images.y, Taped)
    for count in (12, 5, 12, 5, 7, 12):
        x, y = images.x[:count], images.y[:count]
        found = search(x, y, rng(count))
        assert torch.equal(found.image, NEAR(model, x, y, rng(count)).image)
    assert Taped.made - before == 3 and list(search.works)[-1][0] == (12, 1, 4, 4)


def test_within_a_recording_a_recorded_attack_is_the_attack(monkeypatch):
    model, images, before = linear(), tiny(12), Taped.made
    search = GraphedAttack(NEAR, model, images.x, images.y, Taped)
    monkeypatch.setattr(cuda_graphs, "under_way", lambda: True)
    found = search(images.x[:5], images.y[:5], rng())
    assert torch.equal(found.image, NEAR(model, images.x[:5], images.y[:5], rng()).image)
    assert Taped.made == before + 1


def test_nothing_is_recorded_where_there_is_no_gpu():
    assert cuda_graphs.usual(torch.device("cpu")) is cuda_graphs.plainly
