"""Attacks made of attacks, and exhaustive search of poses."""

import pytest
import torch
from torch import nn

from helpers.toys import generator, linear_problem, relu_net
from mpkit.attacks import (
    DLR,
    PGD,
    SLIDE,
    Clean,
    CrossEntropy,
    Grid,
    Margin,
    MultiTargeted,
    Restarts,
    SpatialPGD,
    TargetedMargin,
    UntilBroken,
    Worst,
    WorstOfK,
)
from mpkit.sets import L1, L2, Linf, RotationTranslation, Union
from mpkit.sets.spatial import warp

RT = RotationTranslation(pixels=1, degrees=30)
NUDGE = RotationTranslation(pixels=0.1, degrees=2)
THREE = (PGD(Linf(0.1), 5), PGD(L2(0.4), 5), SLIDE(L1(0.8), 5))


def net_problem(seed=0, n=12, shape=(1, 4, 4)):
    pixels = shape[1] * shape[2]
    model = relu_net(seed, inputs=pixels, classes=5)
    x = torch.rand(n, *shape, generator=generator(seed), dtype=torch.float64)
    return model, x, model(x).argmax(1)


def broken(model, found, y):
    return model(found.image).argmax(1) != y


def test_worst_is_the_per_example_worst():
    model, x, y = net_problem()
    worst = Worst(THREE)(model, x, y, generator())
    rng = generator()
    alone = [attack(model, x, y, rng) for attack in THREE]
    each = torch.stack([broken(model, found, y) for found in alone])
    assert torch.equal(broken(model, worst, y), each.any(0))
    assert 0 < each.any(0).sum() < len(x)
    held = ~each.any(0)
    scores = torch.stack([CrossEntropy()(model(found.image), y) for found in alone])
    torch.testing.assert_close(worst.score[held], scores.amax(0)[held])


def test_worst_lives_on_the_union():
    model, x, y = net_problem()
    attack = Worst((*THREE, Grid(NUDGE, 3, 3)))
    found = attack(model, x, y, generator())
    assert isinstance(attack.set, Union)
    assert attack.set.contains(x, found.z).all()
    assert torch.equal(attack.set.apply(x, found.z), found.image)
    which, parts = found.z
    assert set(which.tolist()) > {0}
    for i, one in enumerate(attack.set.sets):
        rows = which == i
        assert one.contains(x, parts[i])[rows].all()
        torch.testing.assert_close(one.apply(x, parts[i])[rows], found.image[rows])


def test_union_membership_looks_at_the_used_set_only():
    x = torch.full((2, 1, 2, 2), 0.5)
    union = Union(Linf(0.1), L1(0.3))
    z = torch.full_like(x, 0.09)
    outside = torch.full_like(x, 0.3)
    assert union.contains(x, (torch.tensor([0, 0]), (z, outside))).all()
    assert not union.contains(x, (torch.tensor([1, 1]), (z, outside))).any()
    assert union.contains(x, union.sample(x, generator())).all()
    assert union.scaled(0.5) == Union(Linf(0.05), L1(0.15))
    with pytest.raises(ValueError, match="at least one set"):
        Union()


def test_restarts_only_help():
    model, x, y = net_problem()
    one = PGD(Linf(0.1), 3, loss=Margin())
    rng = generator()
    runs = torch.stack([one(model, x, y, rng).score for _ in range(4)])
    best = Restarts(one, 4)(model, x, y, generator())
    torch.testing.assert_close(best.score, runs.amax(0))
    assert (runs.amax(0) > runs[0]).any()


def test_worst_of_k_is_the_worst_of_k_draws():
    model, x, y = net_problem()
    found = WorstOfK(RT, 7, loss=Margin())(model, x, y, generator(4))
    rng = generator(4)
    draws = [Margin()(model(RT.apply(x, RT.sample(x, rng))), y) for _ in range(7)]
    torch.testing.assert_close(found.score, torch.stack(draws).amax(0))
    assert RT.contains(x, found.z).all()


def test_grid_is_exhaustive():
    model, x, y = net_problem(n=3)
    grid = Grid(RotationTranslation(3, 30), loss=Margin())
    assert grid.poses == 775
    found = grid(model, x, y, generator())
    scores = []
    for dx in torch.linspace(-3, 3, 5):
        for dy in torch.linspace(-3, 3, 5):
            for angle in torch.linspace(-30, 30, 31):
                pose = torch.stack([dx, dy, angle]).double().expand(3, 3)
                scores.append(Margin()(model(warp(x, pose)), y))
    torch.testing.assert_close(found.score, torch.stack(scores).amax(0).detach())


@pytest.mark.parametrize("together", [1, 2, 7, 1000])
def test_grid_does_not_depend_on_how_it_is_cut(together):
    model, x, y = net_problem(n=4)
    whole = Grid(RT, 3, 5, together=4, loss=Margin())(model, x, y, generator())
    cut = Grid(RT, 3, 5, together=together, loss=Margin())(model, x, y, generator())
    torch.testing.assert_close(cut.score, whole.score)


def test_grid_takes_a_target_for_each_example():
    model, x, y = net_problem(n=4)
    target = (y + 1) % 5
    found = Grid(RT, 3, 5, loss=TargetedMargin(target))(model, x, y, generator())
    torch.testing.assert_close(found.score, TargetedMargin(target)(model(found.image), y))


class ShiftedBlob(nn.Module):
    """Class 1 by how bright one pixel is: a smooth hill in the shifts, with a known top."""

    def forward(self, x):
        lead = x[:, 0, 2, 5] * 10 - 20
        return torch.stack([torch.zeros_like(lead), lead], 1)


def test_first_order_search_climbs_to_the_best_pose():
    x = torch.zeros(5, 1, 8, 8, dtype=torch.float64)
    spot = torch.exp(-((torch.arange(8).double() - 3.3) ** 2) / 8)
    x[:, 0] = spot[:, None] * spot[None, :]
    y = torch.zeros(5, dtype=torch.int64)
    shifts = RotationTranslation(pixels=2, degrees=0)
    found = Restarts(SpatialPGD(shifts, 40, loss=Margin()), 3)(ShiftedBlob(), x, y, generator())
    grid = Grid(shifts, 81, 1, loss=Margin())(ShiftedBlob(), x, y, generator())
    assert shifts.contains(x, found.z).all()
    assert (found.score >= grid.score - 0.01).all()


def test_multi_targeted_tries_every_class():
    model, x, y = net_problem(3)
    base = PGD(Linf(0.08), 8, loss=Margin(), start=Clean())
    found = MultiTargeted(base, targets=4)(model, x, y, generator())
    plain = base(model, x, y, generator())
    hits = broken(model, found, y)
    assert hits.sum() >= broken(model, plain, y).sum()
    each = []
    for target in range(5):
        aimed = PGD(Linf(0.08), 8, loss=TargetedMargin(target), start=Clean())
        each.append(broken(model, aimed(model, x, y, generator()), y) & (y != target))
    assert torch.equal(hits | torch.stack(each).any(0), hits)


def test_targeted_attack_reaches_the_target():
    model, x, y = linear_problem(0)
    found = PGD(Linf(0.5), 10, loss=TargetedMargin(1))(model, x, y, generator())
    assert (model(found.image).argmax(1) == 1).all()


def test_losses_that_need_more_classes_are_refused_inside_composites():
    model, x, y = net_problem()

    def two(x):
        return model(x)[:, :2]

    y = y.clamp(max=1)
    with pytest.raises(ValueError, match="at least 3 classes"):
        Worst((PGD(Linf(0.1), 2, loss=DLR()),))(two, x, y, generator())
    with pytest.raises(ValueError, match="at least 4 classes"):
        MultiTargeted(PGD(Linf(0.1), 2, loss=DLR()))(two, x, y, generator())


@pytest.mark.parametrize(
    "attack",
    [
        PGD(Linf(0.12), 12),
        PGD(L2(0.5), 12),
        SLIDE(L1(1.0), 12),
        Grid(NUDGE, 3, 5, together=3),
        Worst((PGD(Linf(0.1), 5, start=Clean()), Grid(NUDGE, 3, 3))),
    ],
)
def test_letting_broken_examples_go_changes_no_verdict(attack):
    model, x, y = net_problem(n=24)
    whole = attack(model, x, y, generator())
    sizes = []

    def counting(x):
        sizes.append(len(x))
        return model(x)

    early = UntilBroken(attack, every=2)(counting, x, y, generator())
    assert torch.equal(broken(model, early, y), broken(model, whole, y))
    assert 0 < broken(model, whole, y).sum() < len(x)
    assert min(sizes) < max(sizes)
    assert attack.set.contains(x, early.z).all()
    torch.testing.assert_close(early.score, attack.loss(model(early.image), y))


def test_examples_may_leave_with_their_own_radii_and_targets():
    model, x, y = net_problem(n=24)
    eps = torch.linspace(0.02, 0.3, 24)
    target = (y + 1) % 5
    attack = PGD(Linf(eps), 12, loss=TargetedMargin(target))
    whole, early = (a(model, x, y, generator()) for a in (attack, UntilBroken(attack, every=1)))
    reached = model(whole.image).argmax(1) == target
    assert torch.equal(model(early.image).argmax(1) == target, reached)
    assert 0 < reached.sum() < 24
    torch.testing.assert_close(early.score[~reached], whole.score[~reached])


def test_bad_settings_are_refused():
    for bad in (
        lambda: Restarts(THREE[0], 0),
        lambda: Worst(()),
        lambda: WorstOfK(RT, 0),
        lambda: Grid(RT, 0),
        lambda: SpatialPGD(RT, -1),
        lambda: UntilBroken(THREE[0], 0),
        lambda: MultiTargeted(THREE[0], 0),
    ):
        with pytest.raises(ValueError, match=r"positive|at least one"):
            bad()
