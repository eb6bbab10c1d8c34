"""No attack and no training step waits for a GPU: tried on a device that has no values."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException

from helpers.small_runs import rng
from helpers.stand_ins import ghost, there
from mpkit.attacks import (
    APGD,
    DLR,
    FMN,
    MSD,
    PGD,
    SLIDE,
    AffinePGD,
    Batched,
    BoundaryStart,
    Falling,
    Grid,
    Margin,
    MultiTargeted,
    Restarts,
    SpatialPGD,
    Square,
    Worst,
    WorstOfK,
)
from mpkit.attacks.base import Problem
from mpkit.attacks.gradients import Guarded
from mpkit.core.checks import unread
from mpkit.data import Crop, Flip, Images
from mpkit.sets import L1, L2, Affine, Blend, Linf, RotationTranslation, Union
from mpkit.training import SGD, Average, LogitPairing, Natural, Recipe
from mpkit.training.run import Run

POSES = RotationTranslation(3, 30)
BALLS = Linf(0.3), L2(2.0), L1(10.0)
ATTACKS = [
    PGD(Linf(0.3), 2, loss=Margin(), schedule=Falling()),
    APGD(Linf(0.3), 12),
    APGD(L2(2.0), 5, DLR()),
    APGD(L1(10.0), 11),
    SLIDE(L1(10.0), 2),
    MSD(Union(*BALLS), 2),
    Square(Linf(0.3), 2),
    Square(L1(10.0), 2),
    FMN(L2(2.0), 2, start=BoundaryStart(1, 2)),
    MultiTargeted(APGD(Linf(0.3), 2, DLR()), 2),
    Worst((Restarts(PGD(L2(2.0), 2), 2), Batched(SpatialPGD(POSES, 2), 3))),
    Grid(POSES, 2, 2),
    WorstOfK(Union(POSES, *BALLS), 2),
    AffinePGD(Affine(Linf(0.3), L2(2.0)), 2),
    AffinePGD(Affine(POSES, Linf(0.3)), 2),
    AffinePGD(Blend(Linf(0.3), L2(2.0)), 2),
]


def batch(n=4):
    x = torch.empty(n, 1, 8, 8, device="cuda")
    return x, torch.empty(n, dtype=torch.int64, device="cuda")


def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{type(a).__name__}-{a.set!r}"[:40])
def test_no_attack_waits_for_the_device(attack):
    model = network()
    with ghost():
        found = attack.find(Problem(Guarded(there(model), 10), *batch(), rng()))
    assert found.image.is_cuda and found.image.shape == (4, 1, 8, 8)


def test_the_stand_in_notices_who_waits():
    model = network()
    with ghost():
        (x, y), model = batch(), there(model)
        with pytest.raises(DataDependentOutputException):
            PGD(Linf(0.3), 3)(model, x, y, rng())  # its checks look at the images
        with unread():
            PGD(Linf(0.3), 3)(model, x, y, rng())
        with pytest.raises(RuntimeError, match="host's numbers"):
            torch.tensor([1.0], device="cuda")


SCHEMES = [
    Natural(),
    Average((PGD(Linf(0.3), 2), SLIDE(L1(10.0), 2))),
    LogitPairing(APGD(L2(2.0), 2), SpatialPGD(POSES, 2)),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_no_training_step_waits_for_the_device(scheme):
    """With augmentation, clipping, a running mean, 16 bits and another layout."""
    recipe = Recipe(
        epochs=1,
        batch=4,
        optimizer=SGD(),
        clip=1.0,
        averaging=0.9,
        compute=torch.bfloat16,
        layout=torch.channels_last,
        augment=(Crop(1), Flip()),
    )
    images = Images(torch.rand(8, 1, 8, 8, generator=rng()), torch.arange(8), tuple("abcdefgh"), "")
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, 8))
    run = Run(model, images, scheme, recipe, 0)
    rows = torch.arange(4)
    with ghost() as patch:
        x, y = torch.empty(8, 1, 8, 8, device="cuda"), torch.empty(8, 1, device="cuda").long()[:, 0]
        there(model)
        run.weights[:] = model.parameters()
        object.__setattr__(run.images, "x", x)
        object.__setattr__(run.images, "y", y)
        run.optimizer = recipe.optimizer.build(run.weights, 0.1)
        run.average = [torch.empty_like(one) for one in run.weights]
        run.losses, rows = torch.empty(2, device="cuda"), torch.empty(4, device="cuda").long()

        def backward(loss):
            for weight in run.weights:
                weight.grad = torch.empty_like(weight)

        patch.setattr(torch.autograd, "backward", backward)
        run._step(scheme, 0, 0, rows)
