"""Recorded steps give what plain ones give, and say so where they cannot be recorded."""

from dataclasses import dataclass
from itertools import cycle

import pytest
import torch
from torch import nn

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
)
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
    with pytest.raises(ValueError, match="pixels must lie in"):
        GraphedAttack(NEAR, model, images.x + 1, images.y)


def test_nothing_is_recorded_where_there_is_no_gpu():
    assert cuda_graphs.usual(torch.device("cpu")) is cuda_graphs.plainly
