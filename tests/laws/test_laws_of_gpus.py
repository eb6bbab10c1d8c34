"""What a GPU is asked to do by every attack and scheme, with real values on a CPU."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers import every, launches
from helpers.pretend import Claims, Count, count_kernels
from helpers.stand_ins import ghost, there
from helpers.toys import generator
from mpkit.attacks import PGD
from mpkit.attacks.base import Problem
from mpkit.attacks.gradients import Guarded
from mpkit.core import trees
from mpkit.core.checks import unread
from mpkit.data import Crop, Flip, Images
from mpkit.masking import TransferPGD
from mpkit.sets import L1, L2, Linf
from mpkit.training import SGD, Natural, Recipe, Single
from mpkit.training.run import Run

FREE = {name: row for name, row in every.ATTACKS.items() if not row.waits}
SMALL = {name: ball for name, ball in every.SETS.items() if hasattr(ball, "project")}


def asked(attack):
    """What one search asks of a device, without the checks around it."""
    model, x, y = every.problem()
    problem = Problem(Guarded(model.eval().requires_grad_(False), 4), x, y, generator(1))
    with Claims(), torch.no_grad(), unread(), Count() as count:
        attack.find(problem)
    return count


@pytest.mark.parametrize("name", FREE)
def test_an_attack_waits_for_nothing_and_launches_no_more_than_it_did(name):
    count = asked(FREE[name].attack)
    assert not count.waits
    if name in every.LAUNCHES:  # a new attack need not promise anything
        assert 0 < count.launched <= every.LAUNCHES[name]


@pytest.mark.parametrize("name", launches.STEPS)
@pytest.mark.parametrize("kernels", [False, True])
def test_a_step_on_whole_images_launches_no_more_than_it_did(name, kernels):
    assert 0 < launches.launched(name, kernels) <= launches.shown()[name][kernels]


def test_every_row_of_the_table_of_launches_is_counted():
    assert list(launches.shown()) == list(launches.STEPS)


@pytest.mark.parametrize("name", every.LAUNCHES)
def test_kernels_for_rows_save_launches_and_wait_for_nothing(name, monkeypatch):
    attack = every.ATTACKS[name].attack
    if hasattr(attack, "guide"):
        attack = replace(attack, guide=copy.deepcopy(attack.guide).float())
    model, x, y = every.problem(dtype=torch.float32)
    problem = Problem(Guarded(model.eval().requires_grad_(False), 4), x, y, generator(1))
    with Claims(), torch.no_grad(), unread(), Count() as count:
        count_kernels(monkeypatch, count)
        attack.find(problem)
    assert not count.waits and count.launched < every.LAUNCHES[name]


def test_every_number_belongs_to_an_attack():
    assert set(every.LAUNCHES) <= set(every.ATTACKS)


def test_the_count_notices_waits_masks_and_kernels():
    x = torch.rand(4, 3)
    with Claims(), Count() as count:
        assert x.is_cuda
        bool((x > 0).all())
        x[x[:, 0] > 0.5]
        x.view(3, 4).add_(1)
    assert {name for name, _ in count.waits} == {"_local_scalar_dense", "index"}
    assert count.kernels["add_"] == 1 and "view" not in count.kernels
    assert not x.is_cuda


def test_a_look_every_few_steps_is_all_that_a_search_waits_for_which_lets_examples_go():
    waits = asked(every.ATTACKS["until broken"].attack).waits
    assert {line.split(":")[0] for _, line in waits} == {"attacks/base.py"}


def test_the_steps_of_a_transfer_attack_wait_for_nothing_outside_of_a_recording_either():
    model, x, y = every.problem()
    seen = []
    for steps in (2, 6):
        attack = TransferPGD(L2(0.5), steps, guide=every.GUIDE)
        with Claims(), Count() as count:
            attack(model, x, y, generator(1))
        seen.append(sum(count.waits.values()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("scheme", every.SCHEMES.values(), ids=every.SCHEMES)
def test_a_training_step_waits_for_nothing(scheme):
    """With augmentation, a running mean, 16 bits and another layout."""
    model, x, y = every.problem(dtype=torch.float32)
    recipe = Recipe(
        epochs=1,
        batch=4,
        optimizer=SGD(),
        averaging=0.9,
        shards=2,
        compute=torch.bfloat16,
        layout=torch.channels_last,
        augment=(Crop(1), Flip()),
    )
    run = Run(model, Images(x, y, tuple("abcd"), "noise"), scheme, recipe, 0)
    scheme, rows = scheme.at(1, {}).settled(generator()), run._rows(0)[0]
    with Claims(), Count() as count:
        run._step(scheme, 0, 0, rows)
    assert not count.waits and count.launched


def test_a_training_step_casts_each_weight_once_for_all_passes_of_its_search():
    """And once for each pass that asks for the weights' own gradient."""

    def casts(steps):
        model, x, y = every.problem(dtype=torch.float32)
        recipe = Recipe(epochs=1, batch=4, compute=torch.bfloat16)
        run = Run(model, Images(x, y, tuple("abcd"), "noise"), Natural(), recipe, 0)
        with Claims(), Count() as count:
            run._step(Single(PGD(Linf(0.1), steps)), 0, 0, run._rows(0)[0])
        return count.kernels["_to_copy"]

    weights = 6
    per_step = (casts(12) - casts(2)) / 10
    assert per_step <= 5  # images and logits, there and back, and one mask
    assert casts(2) <= 2 * per_step + 3 * weights + 8


@pytest.mark.parametrize("ball", [Linf, L2, L1])
def test_radii_of_the_host_follow_the_images(ball):
    """Once for a search, not in every step."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    with ghost(), unread():
        there(model)
        attack = PGD(ball(torch.empty(every.IMAGES)), 3)
        x = torch.empty(every.IMAGES, 1, 4, 4, device="cuda")
        y = torch.empty(every.IMAGES, dtype=torch.int64, device="cuda")
        with Count() as count:
            moved = trees.moved(attack, x.device)
        assert sum(count.crossings.values()) == 1 and moved.set.eps.device == x.device
        assert trees.moved(moved, x.device) is moved
        with Count() as count:
            moved.find(Problem(Guarded(model, 4), x, y, generator()))
        assert not count.crossings


@pytest.mark.parametrize("ball", SMALL.values(), ids=SMALL)
@pytest.mark.parametrize("far", [0.01, 1.0, 100.0])
def test_a_gpus_projection_gives_the_cpus_values(ball, far):
    _, x, _ = every.problem(dtype=torch.float32)
    z = ball.sample(x, generator(2))
    z = z + far * torch.randn(z.shape, generator=generator(3))
    with Claims():
        there = ball.project(x, z)
        again = ball.project(x, there)
        assert ball.contains(x, there).all() and torch.equal(again, there)
    torch.testing.assert_close(there, ball.project(x, z), rtol=0, atol=2e-5)


@pytest.mark.parametrize("ball", [Linf(0.3), L2(2.0), L1(10.0)], ids=["linf", "l2", "l1"])
@pytest.mark.parametrize("law", ["normal", "sparse", "ties"])
def test_a_gpus_projection_of_whole_images_is_the_nearest_point(ball, law):
    rng = generator(4)
    x = torch.rand(4, 1, 28, 28, generator=rng)
    x = torch.where(torch.rand(x.shape, generator=rng) < 0.5, 0, x)
    for scale in (1e-2, 1.0, 1e3):
        d = torch.randn(x.shape, generator=rng) * scale
        if law == "sparse":
            d *= torch.rand(x.shape, generator=rng) < 0.02
        elif law == "ties":
            d = d.sign() * scale
        exact = ball.project(x.double(), d.double())
        with Claims():
            found = ball.project(x, d)
        assert ball.contains(x, found).all()
        rounding = 784 * scale * 2**-24 / ball.eps  # of points that are so far away
        assert float((ball.norm(found.double() - exact) / ball.eps).max()) < max(2e-5, rounding)
