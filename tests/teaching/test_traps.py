"""Errors of published code, each as a named test that our code does not make them.

The errors themselves are kept in mpbook.teaching.published_variants, so that each can be shown to
matter.
"""

import math

import pytest
import torch
from torch import nn

from helpers import ROOT
from helpers.toys import Linear, generator, linear_problem, relu_net
from mpbook.teaching import published_variants
from mpkit.attacks import PGD, SLIDE, Clean, Margin, Worst
from mpkit.sets import L1, L2, Linf, projections


def row(*values):
    return torch.tensor([values], dtype=torch.float64).view(1, 1, 1, -1)


MIDDLE = row(0.5, 0.5)


def test_threshold_counts_active_coordinates():
    """Trap 1: (10, 0) at eps = 1 goes to (1, 0); one coordinate too many gives (5.5, 0)."""
    d = row(10.0, 0.0)
    assert projections.nearest_in_l1_ball(d, 1.0).flatten().tolist() == [1.0, 0.0]
    roomy = row(-4.5, 0.5)  # an image for which the variant's own clip has no effect
    wrong = published_variants.OneTooMany(1.0).project(roomy, d).flatten().tolist()
    assert wrong == [5.5, 0.0]


def test_rows_inside_the_l1_ball_are_not_moved_onto_its_sphere():
    """Trap 1, second half."""
    inside = row(0.1, -0.2)
    assert torch.equal(projections.nearest_in_l1_ball(inside, 1.0), inside)
    assert torch.equal(L1(1.0).project(MIDDLE, inside), inside)
    assert not torch.equal(published_variants.OneTooMany(1.0).project(MIDDLE, inside), inside)


def test_rescaling_radially_is_not_the_l1_projection():
    """Trap 2: (1, 0.5) at eps = 1 goes to (0.75, 0.25), not to (2/3, 1/3)."""
    d = row(1.0, 0.5)
    exact = projections.nearest_in_l1_ball(d, 1.0)
    torch.testing.assert_close(exact, row(0.75, 0.25))
    scaled = published_variants.Rescaled(1.0).project(row(0.0, 0.0), d)
    torch.testing.assert_close(scaled, row(2 / 3, 1 / 3))
    assert (d - exact).norm() < (d - scaled).norm()


def test_starts_are_drawn_around_the_image():
    """Trap 3: a start clipped on the wrong scale blackens the image and leaves the ball."""
    x, y = torch.full((4, 1, 3, 3), 0.8), torch.zeros(4, dtype=torch.int64)
    problem = _Problem(x, y)
    for ball in (Linf(0.1), L2(0.2), L1(0.3)):
        assert ball.contains(x, PGD(ball, 3).begin(problem).z).all()
        wrong = published_variants.StartClippedToOne()(ball, problem)
        assert not ball.contains(x, wrong).any()
        assert (x + wrong).max() <= 1 / 255 + 1e-6


class _Problem:
    """Only what a start needs."""

    def __init__(self, x, y):
        self.x, self.y, self.rng = x, y, generator()


def test_clip_after_projection_is_feasible_but_not_nearest():
    """Trap 4: x + d leaves the box in one entry; the exact point gives its budget to the other."""
    x, d = row(0.9, 0.5), row(1.0, 0.4)
    ball = L1(0.5)
    exact, clipped = ball.project(x, d), published_variants.ClippedAfter(0.5).project(x, d)
    torch.testing.assert_close(exact, row(0.1, 0.4))
    torch.testing.assert_close(clipped, row(0.1, 0.0))
    assert ball.contains(x, clipped).all()
    assert (d - exact).norm() < (d - clipped).norm()


def test_ignoring_the_box_overestimates_l1_robustness():
    """Trap 4, its effect: a long gradient step buys more of a linear loss when it is exact."""
    model, x, _ = linear_problem(0, n=64, shape=(1, 6, 6))
    w = model.weight.detach()
    exact, clipped = (
        (w * kind(3.0).project(x, 10 * w.expand_as(x))).flatten(1).sum(1)
        for kind in (L1, published_variants.ClippedAfter)
    )
    assert (exact >= clipped - 1e-9).all()
    assert (exact > 1.5 * clipped).double().mean() > 0.9


class Tattle(nn.Module):
    """Errs only in training mode, and remembers in which modes it was called."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.drop = nn.Dropout(0.5)
        self.line = nn.Linear(4, 2)
        self.modes = []

    def forward(self, x):
        self.modes.append((self.training, self.norm.training, self.drop.training))
        return self.line(self.drop(self.norm(x)).flatten(1))


def test_attacks_run_in_eval_mode_and_restore_every_mode():
    """Trap 5."""
    model = Tattle()
    model.train()
    model.norm.eval()
    mean = model.norm.running_mean.clone()
    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)
    for attack in (PGD(Linf(0.1), 3), Worst((SLIDE(L1(0.5), 3), PGD(L2(0.1), 2)))):
        attack(model, x, y, generator())
        assert set(model.modes) == {(False, False, False)}
        assert (model.training, model.norm.training, model.drop.training) == (True, False, True)
    assert torch.equal(model.norm.running_mean, mean)


def test_slide_takes_its_quantile_at_every_step():
    """Trap 6: the entries that move follow the current gradient, not the first one."""
    model = relu_net(2, inputs=20, classes=3)
    x = torch.rand(4, 1, 4, 5, generator=generator(), dtype=torch.float64)
    y = model(x).argmax(1)
    attack = SLIDE(L1(3.0), 30, quantile=0.9, start=Clean(), loss=Margin())
    touched = (attack(model, x, y, generator()).z != 0).flatten(1).sum(1)
    assert (touched > 2).any()


def test_drawing_the_quantile_once_makes_one_attack_of_many():
    """Trap 6, the variant: one draw decides the sparsity of the whole attack."""
    w = torch.linspace(1, 2, 20, dtype=torch.float64).view(1, 4, 5)
    x = torch.full((1, 1, 4, 5), 0.5, dtype=torch.float64)
    y = torch.zeros(1, dtype=torch.int64)

    def moved(kind, seed):
        attack = kind(L1(0.2), 12, start=Clean(), quantile=0.99, lowest=0.0)
        return int((attack(Linear(w), x, y, generator(seed)).z != 0).sum())

    once = [moved(published_variants.QuantileOnce, seed) for seed in range(12)]
    each = [moved(published_variants.QuantileEachStep, seed) for seed in range(12)]
    assert max(once) - min(once) > max(each) - min(each)


def test_worst_case_is_taken_per_example_not_as_the_least_accuracy():
    """Trap 7: two attacks that break different halves break everything together."""
    x = torch.full((4, 1, 1, 2), 0.5, dtype=torch.float64)
    x[:2, ..., 0], x[2:, ..., 1] = 0.9, 0.9
    y = torch.zeros(4, dtype=torch.int64)

    def model(x):
        lead = x.flatten(1).amax(1) - 0.95
        return torch.stack([torch.zeros_like(lead), lead], 1)

    halves = [PGD(Linf(torch.tensor(eps)), 3) for eps in ([0.1, 0.1, 0, 0], [0, 0, 0.1, 0.1])]
    accuracies = [
        (model(one(model, x, y, generator()).image).argmax(1) == y).double().mean().item()
        for one in halves
    ]
    assert accuracies == [0.5, 0.5]
    together = Worst(tuple(halves))(model, x, y, generator())
    assert (model(together.image).argmax(1) == y).sum() == 0


def test_two_hundred_points_leave_seven_points_of_doubt():
    """Trap 8: the 95 % interval at 50 % has a half-width of 6.9 points."""
    assert 1.96 * math.sqrt(0.25 / 200) == pytest.approx(0.069, abs=5e-4)


def test_quirks_are_used_nowhere_else():
    """They exist to be shown."""

    root = ROOT
    files = [*(root / "mpkit").rglob("*.py"), *(root / "book" / "mpbook").rglob("*.py")]
    users = [file.name for file in files if "published_variants" in file.read_text()]
    assert len(files) > 100
    assert users == []
