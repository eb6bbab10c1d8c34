"""The active test: a plant is surely there, gradients find it, and hidden gradients do not."""

import pytest
import torch

from benchmarks.masks.known import Rounds
from helpers.toys import generator, linear_problem
from mpkit import masking
from mpkit.attacks import APGD, Grid
from mpkit.masking import Planted, Weight, active, plant
from mpkit.models import small_cnn
from mpkit.sets import L0, L1, L2, Linf, RotationTranslation, Union

SETS = [Linf(0.1), L2(0.7), L1(2.0), RotationTranslation(1.0, 15), L0(4)]
EFFORT = masking.Effort(steps=15, queries=80, decisions=0)


def toy(n=40):
    model = small_cnn((1, 8, 8), 10, generator(3)).eval()
    x = torch.rand(n, 1, 8, 8, generator=generator(4))
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@pytest.mark.parametrize("threat", [*SETS, Union(*SETS[:4])], ids=str)
def test_a_plant_lies_in_the_set_and_reaches_the_goal_and_the_clean_image_does_not(threat):
    model, x, y = toy()
    with torch.no_grad():
        z, loss, there = plant(model, x, threat, generator(), draws=16)
        assert there.double().mean() > 0.5
        assert threat.contains(x, z)[there].all()
        assert loss.reached(model(threat.apply(x, z)), y)[there].all()
        assert not loss.reached(model(x), y)[there].any()


def test_of_all_draws_only_the_plant_reaches_the_goal():
    """The same draws again: one of them passes the level for each image."""
    model, x, y = toy()
    passed = torch.zeros(len(x))
    with torch.no_grad():
        _, loss, there = plant(model, x, L2(0.7), generator(5), draws=12)
        again = generator(5)
        torch.randn(len(x), 10, generator=again)  # the direction is drawn first
        for _ in range(12):
            image = x + L2(0.7).sample(x, again)
            passed += loss.reached(model(image), y)
    assert there.any()
    assert (passed[there] == 1).all()


def test_a_constant_model_has_no_plants():
    _, x, y = toy()

    def ask(x):
        return torch.ones(len(x), 10) + 0 * x.flatten(1).sum(1, keepdim=True)

    assert not plant(ask, x, L2(0.7), generator(), 8).there.any()
    (found,) = active(ask, x, y, L2(0.7), generator(), EFFORT).values()
    assert found.weight == Weight.NOT_RUN


def test_the_plant_of_a_linear_model_is_found_by_auto_pgd():
    model, x, y = linear_problem(3, n=12)
    planted = plant(model, x, L2(0.3), generator())
    found = APGD(L2(0.3), 30, planted.loss)(model, x, y, generator())
    assert (found.score[planted.there] > 0).all()


def test_a_plant_stays_with_its_rows():
    loss = Planted(torch.eye(3, 4), torch.tensor([0.0, 1.0, 2.0]))
    logits = torch.arange(12.0).view(3, 4)
    assert loss(logits, None).tolist() == [0.0, 4.0, 8.0]
    assert loss.reached(logits, None).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="no targets"):
        loss.toward(1)
    with pytest.raises(ValueError, match="draws must be at least 2"):
        plant(lambda x: x.flatten(1), torch.rand(3, 1, 2, 2), L2(0.1), generator(), 1)


def test_honest_networks_pass_in_every_set_and_a_rounded_one_fails_where_gradients_count():
    model, x, y = toy()
    threat = Union(*SETS[:4])
    passed = active(model, x, y, threat, generator(), EFFORT)
    assert list(passed) == [part.describe() for part in threat.parts()]
    assert [e.weight for e in passed.values()] == [Weight.FINE] * 4
    failed = active(Rounds(model, generator()), x, y, Union(*SETS[:3]), generator(), EFFORT)
    assert [e.weight for e in failed.values()] == [Weight.SIGN] * 3
    assert all(e.rate.high < 0.9 for e in failed.values())


def test_a_grid_finds_poses_without_a_gradient():
    model, x, y = toy(12)
    planted = plant(model, x, RotationTranslation(1.0, 15), generator(), 8)
    found = Grid(RotationTranslation(1.0, 15), 5, 15, loss=planted.loss)(model, x, y, generator())
    assert (found.score > 0).double().mean() > 0.5
