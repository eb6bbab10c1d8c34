"""Auto-PGD's schedule, its sparsity, and what it adds to plain steps."""

import pytest
import torch

from helpers.toys import generator, relu_net
from mpkit.attacks import (
    APGD,
    DLR,
    MSD,
    PGD,
    SLIDE,
    BoundaryStart,
    Clean,
    CrossEntropy,
    Margin,
    MultiTargeted,
    Square,
    TargetedMargin,
    Uniform,
    UntilBroken,
    Worst,
)
from mpkit.attacks.apgd import SparseAPGD, checkpoints, sparse_signs
from mpkit.attacks.base import Problem
from mpkit.sets import L1, L2, Linf, RotationTranslation, Union

BALLS = [Linf(0.1), L2(0.4), L1(0.8)]
each_ball = pytest.mark.parametrize("ball", BALLS, ids=lambda b: type(b).__name__)


def net_problem(seed=0, n=24, dtype=torch.float64):
    model = relu_net(seed, inputs=16, classes=5, dtype=dtype)
    x = torch.rand(n, 1, 4, 4, generator=generator(seed), dtype=torch.float64).to(dtype)
    return model, x, model(x).argmax(1)


def test_checkpoints_of_a_hundred_steps():
    """0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99 of the steps, as in the source."""
    marks = checkpoints(100)
    assert list(marks) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert list(marks.values()) == [22, 19, 16, 13, 10, 7, 6, 6]
    assert all(0 < mark <= 3 for mark in checkpoints(3))


def test_long_steps_in_l2_end_at_the_walls_and_are_then_shortened_alike():
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(8, 1, 4, 4, generator=rng, dtype=torch.float64)
    far = 5 * torch.randn(x.shape, generator=rng, dtype=torch.float64)
    ball = L2(0.5)
    climb = APGD(ball, 10).unrolled()
    cut = (x + far).clamp(0, 1) - x
    shortened = cut * (0.5 / cut.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    assert torch.allclose(climb.land(x, far, 4), shortened, rtol=0, atol=1e-12)
    assert torch.equal(climb.land(x, far, 5), ball.project(x, far))
    other = APGD(Linf(0.5), 10).unrolled()
    assert torch.equal(other.land(x, far, 0), other.land(x, far, 9))


@each_ball
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 2, 7, 40])
def test_found_is_allowed_and_says_the_truth(ball, dtype, steps):
    model, x, y = net_problem(dtype=dtype)
    for attack in (APGD(ball, steps), APGD(ball, steps, DLR()), Square(ball, steps)):
        found = attack(model, x, y, generator())
        assert ball.contains(x, found.z).all()
        assert found.image.dtype == dtype
        torch.testing.assert_close(found.score, attack.loss(model(found.image), y))


@each_ball
def test_not_weaker_than_plain_steps(ball):
    model, x, y = net_problem()
    plain = SLIDE(ball, 50, loss=Margin()) if isinstance(ball, L1) else PGD(ball, 50, loss=Margin())
    a, b = (attack(model, x, y, generator()) for attack in (APGD(ball, 50, Margin()), plain))
    assert (a.score > 0).sum() >= (b.score > 0).sum()
    assert a.score.mean() >= b.score.mean()


@each_ball
def test_letting_broken_examples_go_changes_no_verdict(ball):
    model, x, y = net_problem()
    attack = APGD(ball, 40)
    whole, early = (a(model, x, y, generator()) for a in (attack, UntilBroken(attack, every=1)))
    broken = model(whole.image).argmax(1) != y
    assert 0 < broken.sum() < len(x)
    assert torch.equal(model(early.image).argmax(1) != y, broken)
    assert ball.contains(x, early.z).all()


@pytest.mark.parametrize("ball", [Linf(0.05), L2(0.2), L1(0.4)], ids=lambda b: type(b).__name__)
def test_a_start_beyond_the_border_is_brought_into_the_set(ball):
    """Border points lie outside of balls as small as these; none of them may be returned."""
    model, x, y = net_problem()
    for kind in (PGD, APGD):
        found = kind(ball, 1, start=BoundaryStart())(model, x, y, generator())
        assert ball.contains(x, found.z).all()
    beyond = BoundaryStart()(ball, Problem(model, x, y, generator()))
    assert not ball.contains(x, beyond).all()


def test_points_of_the_larger_balls_are_never_returned():
    model, x, y = net_problem()
    attack = SparseAPGD(L1(0.8), 40, CrossEntropy(), Uniform())
    assert [attack.ball(k).eps for k in (0, 11, 12, 23, 24, 39)] == pytest.approx(
        [2.4, 2.4, 1.6, 1.6, 0.8, 0.8]
    )
    assert L1(0.8).contains(x, attack(model, x, y, generator()).z).all()


def test_checkpoints_are_four_in_a_hundred_of_their_stage():
    """Stages of 30, 30 and 40 steps: at every step; of 120, 120 and 160: each 4, 4 and 6."""
    short, long = (SparseAPGD(L1(0.8), n, CrossEntropy(), Uniform()) for n in (100, 400))
    assert all(short.adapts(k) for k in range(100))
    found = [k for k in range(400) if long.adapts(k)]
    assert found == [*range(3, 240, 4), *range(245, 400, 6)]


def test_sparse_signs_move_as_many_entries_as_asked():
    g = torch.randn(3, 2, 10, 10, generator=generator(), dtype=torch.float64)
    step = sparse_signs(g, torch.tensor([0.0, 0.1, 0.5], dtype=torch.float64))
    assert (step != 0).flatten(1).sum(1).tolist() == [1, 20, 100]
    torch.testing.assert_close(step.abs().flatten(1).sum(1), g.new_ones(3))
    for i in range(3):
        moved = step[i] != 0
        assert g[i].abs()[moved].min() >= g[i].abs()[~moved].max()
    assert torch.equal(torch.sign(step), torch.where(step != 0, g.sign(), 0))
    zero = sparse_signs(torch.zeros_like(g), torch.full((3,), 0.5, dtype=torch.float64))
    assert torch.equal(zero, torch.zeros_like(g))


def test_targets_and_multi_targets():
    model, x, y = net_problem()
    target = (y + 1) % 5
    found = APGD(L2(2.0), 40, TargetedMargin(target))(model, x, y, generator())
    hit = model(found.image).argmax(1) == target
    assert hit.double().mean() > 0.5
    assert torch.equal(found.score > 0, hit)
    many = MultiTargeted(APGD(L2(0.4), 20, DLR()), 4)(model, x, y, generator())
    plain = APGD(L2(0.4), 20, DLR())(model, x, y, generator())
    broken = [(model(f.image).argmax(1) != y).sum() for f in (many, plain)]
    assert broken[0] >= broken[1]


def test_msd_lives_on_the_union_and_breaks_like_its_parts():
    model, x, y = net_problem()
    attack = MSD(Union(*BALLS), 30, loss=Margin())
    found = attack(model, x, y, generator())
    assert attack.set.contains(x, found.z).all()
    torch.testing.assert_close(found.score, Margin()(model(found.image), y))
    worst = Worst(tuple(PGD(b, 30, loss=Margin(), start=Clean()) for b in BALLS), Margin())
    reference = worst(model, x, y, generator()).score
    assert found.score.mean() >= reference.mean() - 0.2 * reference.std()
    early = UntilBroken(attack, every=2)(model, x, y, generator())
    assert torch.equal(early.score > 0, found.score > 0)


def test_msd_wants_balls():
    with pytest.raises(ValueError, match="all sets of the union must be balls"):
        MSD(Union(Linf(0.1), RotationTranslation(1, 10)))
    with pytest.raises(ValueError, match="one length for each of the 2 balls"):
        MSD(Union(Linf(0.1), L2(0.1)), step=(0.1,))
    with pytest.raises(ValueError, match="share must lie"):
        Square(Linf(0.1), share=0.0)
    with pytest.raises(ValueError, match="steps must be positive"):
        APGD(Linf(0.1), 0)
