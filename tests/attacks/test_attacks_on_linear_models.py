"""Known answers: linear models in closed form, box included; a ReLU network exhaustively."""

import numpy as np
import pytest
import torch

from helpers import oracles
from helpers.toys import Linear, generator, linear_problem, relu_net
from mpkit.attacks import (
    APGD,
    DLR,
    FMN,
    MSD,
    PGD,
    SLIDE,
    Clean,
    CrossEntropy,
    Falling,
    GreedyPixels,
    Margin,
    MultiTargeted,
    Restarts,
    Square,
    TargetedDLR,
    TargetedMargin,
    Uniform,
    WorstOfK,
)
from mpkit.sets import L1, L2, Linf, Union

BALLS = [Linf(0.2), L2(0.8), L1(2.0), L1(0.4)]


def reach(attack, seed, shape=(1, 3, 4), eps=None, kind=None):
    """The gain of the attack over the best possible gain, for each image of a linear model."""
    model, x, y = linear_problem(seed, shape=shape)
    w = model.weight.detach().flatten().numpy()
    kind, eps = kind or type(attack.set).__name__, eps or attack.set.eps
    best = [oracles.best_linear(kind, w, image.flatten().numpy(), eps) for image in x]
    found = attack(model, x, y, generator(seed))
    assert attack.set.contains(x, found.z).all()
    gain = ((found.image - x) * model.weight).flatten(1).sum(1).detach()
    return gain / torch.tensor(best, dtype=x.dtype)


def exact(ball):
    """Each gradient attack with how much of the optimum it must reach."""
    step = ball.eps / 2 if isinstance(ball, L2) else None
    yield PGD(ball, 60, step=step, loss=Margin(), schedule=Falling()), 0.998
    yield PGD(ball, 60, step=step, loss=CrossEntropy(), schedule=Falling()), 0.998
    yield PGD(ball, 60, step=step, loss=DLR(), schedule=Falling()), 0.998
    yield PGD(ball, 60, step=step, loss=TargetedMargin(1), schedule=Falling()), 0.998
    yield PGD(ball, 60, step=step, loss=TargetedDLR(1), schedule=Falling()), 0.998
    yield MultiTargeted(PGD(ball, 60, step=step, loss=Margin(), schedule=Falling()), 1), 0.998
    yield APGD(ball, 60, Margin()), 0.96 if isinstance(ball, L1) else 0.9999
    yield APGD(ball, 60, CrossEntropy()), 0.88 if isinstance(ball, L1) else 0.9999


CASES = [(attack, least) for ball in BALLS for attack, least in exact(ball)]


@pytest.mark.parametrize(("attack", "least"), CASES, ids=lambda a: str(a)[:60])
def test_linear_optimum_box_included(attack, least):
    for seed in range(3):
        share = reach(attack, seed)
        assert (share >= least).all()
        assert (share <= 1 + 1e-9).all()


def family(ball):
    """Attacks × budgets × starts, and how much of the optimum each must reach at least."""
    for start in (Clean(), Uniform()):
        plain = 0.95 if isinstance(ball, L2) and start == Uniform() else 0.975
        for steps in (40, 200):  # in l_2 plain steps do not forget where they began
            yield PGD(ball, steps, loss=Margin(), start=start), plain
        for steps in (40, 100, 200):
            yield APGD(ball, steps, Margin(), start), 0.98 if steps == 100 else 0.97
        if isinstance(ball, L1):
            for steps in (40, 200):
                yield SLIDE(ball, steps, loss=Margin(), start=start), 0.999
    if isinstance(ball, L1 | L2):
        for first in (0, 1024):
            yield GreedyPixels(ball, first=first), 0.97


FAMILY = [
    (attack, least)
    for ball in (Linf(0.3), L2(2.0), L1(0.5), L1(3.0))
    for attack, least in family(ball)
]


@pytest.mark.parametrize(("attack", "least"), FAMILY, ids=lambda a: str(a)[:90])
@pytest.mark.parametrize("low", [0.45, 0.0], ids=["grey images", "images up to the walls"])
def test_all_gradient_attacks_come_near_the_optimum_at_any_budget(attack, least, low):
    """100 pixels in [low, 1 - low], two linear networks; the default budgets are among these."""
    for seed in range(2):
        g = generator(seed)
        w = torch.randn(1, 10, 10, generator=g, dtype=torch.float64)
        x = low + (1 - 2 * low) * torch.rand(8, 1, 10, 10, generator=g, dtype=torch.float64)
        found = attack(Linear(w), x, torch.zeros(8, dtype=torch.int64), generator(seed))
        gain = ((found.image - x) * w).flatten(1).sum(1).detach().numpy()
        kind, eps = type(attack.set).__name__, attack.set.eps
        best = [oracles.best_linear(kind, w.flatten().numpy(), i.flatten().numpy(), eps) for i in x]
        assert (gain >= least * np.array(best)).all()


@pytest.mark.parametrize("ball", [Linf(0.2), L1(0.4)])
def test_plain_steps_are_exact_where_the_box_is_far(ball):
    """PGD with its default steps, and SLIDE moving one entry, on images with room all round."""
    model, x, y = linear_problem(0)
    x = 0.5 + 0.01 * (x - 0.5)
    best = ball.eps * ball.dual_norm(model.weight[None])
    for attack in (PGD(ball, 40, loss=Margin()), SLIDE(L1(0.4), 40, loss=Margin())):
        if type(attack.set) is type(ball):
            found = attack(model, x, y, generator())
            gain = (found.z * model.weight).flatten(1).sum(1)
            torch.testing.assert_close(gain, best.expand(6), rtol=5e-3, atol=0)


def test_slide_shares_its_step_among_the_largest_entries():
    """With equal weights on as many entries as move, sharing costs nothing: the optimum."""
    w = torch.tensor([2.0, -2.0, 2.0, -2.0, 1.0, 0.5, 0.1, 0.0]).double().view(1, 2, 4)
    x = torch.full((3, 1, 2, 4), 0.5, dtype=torch.float64)
    y = torch.zeros(3, dtype=torch.int64)
    attack = SLIDE(L1(1.2), 60, quantile=0.5, loss=Margin())
    found = attack(Linear(w), x, y, generator())
    torch.testing.assert_close((found.z * w).sum((1, 2, 3)), x.new_full((3,), 2.4))


@pytest.mark.parametrize(
    ("attack", "least"),
    [
        (Square(Linf(0.2), 1500), 0.9999),
        (Square(L2(0.8), 3000), 0.75),
        (Square(L1(2.0), 3000), 0.85),
        (WorstOfK(Linf(0.2), 500, loss=Margin()), 0.3),
    ],
)
def test_gradient_free_search_comes_near_the_linear_optimum(attack, least):
    share = reach(attack, 0)
    assert (share >= least).all()
    assert (share <= 1 + 1e-9).all()


@pytest.mark.parametrize("which", range(3))
def test_msd_reaches_the_best_of_its_balls(which):
    """The balls are made so that each in turn is the one that counts."""
    balls = [Linf(0.02), L2(0.08), L1(0.1)]
    balls[which] = [Linf(0.2), L2(0.8), L1(1.5)][which]
    attack = MSD(Union(*balls), 150, loss=Margin(), step=(0.01, 0.2, 0.02))
    ball = balls[which]
    share = reach(attack, 0, eps=ball.eps, kind=type(ball).__name__)
    assert (share >= 0.93).all()


@pytest.mark.parametrize(("ball", "off"), [(Linf(1.0), 2e-3), (L2(4.0), 1e-4), (L1(12.0), 0.01)])
def test_minimum_norm_on_a_linear_model(ball, off):
    """The distance to the boundary, box included, found by halving the closed form."""
    model, x, y = linear_problem(0)
    lead = (x * model.weight).flatten(1).sum(1).detach()
    model.level = lead.max().item() + 0.5
    found = FMN(ball, 100)(model, x, y, generator())
    assert (model(found.image).argmax(1) == 1).all()
    w, kind = model.weight.detach().flatten().numpy(), type(ball).__name__
    for i, image in enumerate(x.flatten(1).numpy()):
        low, high = 0.0, ball.eps
        for _ in range(50):
            middle = (low + high) / 2
            enough = oracles.best_linear(kind, w, image, middle) > model.level - lead[i]
            low, high = (low, middle) if enough else (middle, high)
        assert ball.norm(found.z)[i].item() == pytest.approx(high, rel=off)


def test_minimum_norm_outside_the_set_is_brought_back():
    model, x, y = linear_problem(0)
    model.level = (x * model.weight).flatten(1).sum(1).max().item() + 0.5
    small = FMN(L2(0.01), 30)
    found = small(model, x, y, generator())
    assert small.set.contains(x, found.z).all()
    assert (model(found.image).argmax(1) == 0).all()
    torch.testing.assert_close(found.score, Margin()(model(found.image), y))


def best_on_a_grid(model, ball, x, y, points=41):
    """The greatest margin over a fine grid of a ball ∩ box on three pixels, for each image."""
    line = torch.linspace(-1, 1, points, dtype=x.dtype)
    grid = torch.cartesian_prod(line, line, line)
    best = []
    for image, label in zip(x, y, strict=True):
        low, high = torch.clamp(-image, min=-ball.eps), torch.clamp(1 - image, max=ball.eps)
        z = (low + high).flatten() / 2 + grid * (high - low).flatten() / 2
        z = z[ball.norm(z) <= ball.eps].view(-1, 1, 1, 3)
        with torch.no_grad():
            margin = Margin()(model(image + z), label.expand(len(z)))
        best.append(margin.max())
    return torch.stack(best)


@pytest.mark.parametrize("ball", [Linf(0.15), L2(0.2), L1(0.3)])
@pytest.mark.parametrize(("kind", "mean"), [(PGD, 0.1), (APGD, 0.0), (Square, 0.12)])
def test_relu_network_by_exhaustive_search(ball, kind, mean):
    """Mean gaps to the optimum in units of its spread: APGD has none, the others little."""
    model = relu_net(5, inputs=3, classes=4)
    x = torch.rand(12, 1, 1, 3, generator=generator(1), dtype=torch.float64)
    y = model(x).argmax(1)
    best = best_on_a_grid(model, ball, x, y)
    steps = 200 if kind is Square else 40
    found = Restarts(kind(ball, steps, loss=Margin()), 8)(model, x, y, generator())
    gap = ((best - found.score) / best.std()).clamp(min=0)
    assert gap.mean() <= mean + 1e-9
    assert gap.min() <= 0.01
