"""Minimum-norm attacks for many gradients: exact distances of linear networks, box included."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.toys import generator, relu_net
from mpkit.attacks import FMN, LeastNorm
from mpkit.attacks.least_norm import PrimalDual, ShrinkingBall
from mpkit.audit.known_optima import Threshold, best_linear
from mpkit.sets import L1, L2, Ball, Linf

BALLS = {"linf": Linf(1.0), "l2": L2(1.0), "l1": L1(1.0)}
SHAPE = (1, 4, 4)


def linear(share: float, kind: Ball, seed: int) -> tuple[Threshold, Tensor, Tensor, float]:
    """A linear network whose border needs that share of what the box allows, and the distance."""
    rng = generator(seed)
    w, x = torch.randn(SHAPE, generator=rng), torch.rand(1, *SHAPE, generator=rng)
    x = torch.where(x < 0.3, 0, torch.where(x > 0.8, 1, x))
    need = share * float(best_linear(kind.everything(x), w, x))
    low, high = 0.0, float(kind.everything(x).eps)
    for _ in range(60):
        middle = (low + high) / 2
        enough = float(best_linear(type(kind)(middle), w, x)) >= need
        low, high = (low, middle) if enough else (middle, high)
    model = Threshold(w, float((w * x).double().sum()) + need).eval()
    return model, x.repeat(3, 1, 1, 1), torch.zeros(3, dtype=torch.int64), high


@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_the_exact_distance_of_a_linear_network(norm: str, share: float) -> None:
    model, x, y, distance = linear(share, BALLS[norm], 1)
    found = LeastNorm(BALLS[norm].everything(x), 200)(model, x, y, generator())
    assert bool((model(found.image).argmax(1) == 1).all())
    torch.testing.assert_close(
        BALLS[norm].norm(found.z), torch.full((3,), distance), rtol=2e-4, atol=1e-5
    )


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_primal_and_dual_steps_come_near_it(norm: str) -> None:
    model, x, y, distance = linear(0.2, BALLS[norm], 2)
    attack = PrimalDual(BALLS[norm].everything(x), 600)
    length = BALLS[norm].norm(attack(model, x, y, generator()).z)
    assert bool((length < 1.15 * distance).all()) and bool((length > 0.999 * distance).all())


def test_a_shrinking_ball_comes_near_it() -> None:
    model, x, y, distance = linear(0.2, BALLS["linf"], 3)
    length = Linf(1.0).norm(ShrinkingBall(Linf(1.0), 200)(model, x, y, generator()).z)
    assert bool((length < 1.02 * distance).all())


@pytest.mark.parametrize("norm", BALLS)
def test_it_comes_nearer_than_another_search_with_as_many_gradients(norm: str) -> None:
    model = relu_net(5, inputs=16, classes=4, dtype=torch.float32)
    x = torch.rand(24, *SHAPE, generator=generator(4))
    y = model(x).argmax(1)
    ball = BALLS[norm].everything(x)
    ours = LeastNorm(ball, 300)(model, x, y, generator())
    theirs = FMN(ball, 300)(model, x, y, generator())
    assert bool((model(ours.image).argmax(1) != y).all())
    assert float(ball.norm(ours.z).mean()) < float(ball.norm(theirs.z).mean())


def test_pixels_that_do_not_matter_stay_in_l1() -> None:
    w = torch.zeros(SHAPE)
    w[0, 0, :2] = torch.tensor([3.0, 1.0])
    model, x = Threshold(w, 3.0).eval(), torch.full((2, *SHAPE), 0.5)
    y = torch.zeros(2, dtype=torch.int64)
    z = PrimalDual(L1(16.0), 300)(model, x, y, generator()).z
    assert bool((z.flatten(1)[:, 2:] == 0).all())
    assert bool((L1(1.0).norm(z) < 0.35).all())  # (3 - 2) / 3 at the steeper pixel alone


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PrimalDual(Linf(0.3)), "set must be L1 or L2"),
        (lambda: PrimalDual(L1(1.0), rate=0), "rate"),
        (lambda: ShrinkingBall(Linf(0.3), 0), "steps"),
        (lambda: LeastNorm(L1(1.0), 99), "steps must be at least 100"),
        (lambda: LeastNorm(L1(1.0), targets=0), "targets"),
    ],
)
def test_unfit_settings_are_refused(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
