"""Theorem 4's images: the union of the sets never fools the classifier, half of each always."""

import pytest
import torch

from mpkit.sets import Affine, Linf, RotationTranslation
from mpkit.theory import BrightPixel

WORLD = BrightPixel()


def some(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return WORLD.sample(n, torch.Generator().manual_seed(0))


def dimmest_and_brightest() -> tuple[torch.Tensor, torch.Tensor]:
    """The margins are linear in the brightness: its two ends stand for every image."""
    x, y = some(8)
    bright = (x > 0).double()
    return torch.cat([WORLD.dimmest * bright, bright]), torch.cat([y, y])


def test_images_are_images_of_both_classes():
    x, y = some(64)
    assert x.shape == (64, 1, 28, 28)
    assert ((x > 0).sum(dim=(1, 2, 3)) == 1).all()
    assert x.max() <= 1
    assert set(y.tolist()) == {-1.0, 1.0}
    assert (y * WORLD.score(x) >= WORLD.dimmest).all()


def test_the_union_never_fools_the_classifier():
    """Every shift of a quarter-pixel grid within ±3 px, and the exact worst of the ball."""
    x, y = dimmest_and_brightest()
    assert WORLD.margin(x, y, WORLD.pixels, 0.0, step=0.25).min() >= 0.99 * 0.8 * WORLD.around
    assert WORLD.margin(x, y, 0.0, WORLD.eps).min() > 0


def test_no_shift_at_all_fools_it():
    """The score after any shift is an average of weights, none below b: random shifts agree."""
    x, y = some(200)
    turns = RotationTranslation(pixels=WORLD.pixels, degrees=0.001)
    rng = torch.Generator().manual_seed(1)
    for _ in range(20):
        z = turns.sample(x, rng) * torch.tensor([1.0, 1.0, 0.0])
        assert (y * WORLD.score(turns.apply(x, z)) > 0).all()


def test_half_of_each_budget_fools_it_always():
    x, y = dimmest_and_brightest()
    assert WORLD.affine_margin(x, y, 0.5).max() < 0
    assert WORLD.affine_margin(x, y, 1 / 3).max() < 0


def test_the_affine_set_of_images_holds_such_an_image():
    """One pixel of shift and half of the ball, in the coordinates of `mpkit.sets`."""
    x, y = some(20)
    affine = Affine(RotationTranslation(pixels=3, degrees=30), Linf(WORLD.eps))
    share = torch.full_like(y, 0.5)
    pose = torch.tensor([1.0, 0.0, 0.0], dtype=x.dtype).expand(20, 3)
    shifted = affine.a.apply(x, pose)
    z = (share, pose, WORLD.ball(shifted, y, WORLD.eps / 2) - shifted)
    assert affine.contains(x, z).all()
    assert (y * WORLD.score(affine.apply(x, z)) < 0).all()


def test_the_ends_of_the_affine_set_are_the_union():
    x, y = dimmest_and_brightest()
    assert WORLD.affine_margin(x, y, 0.0).min() > 0
    assert WORLD.affine_margin(x, y, 1.0).min() > 0


def test_margins_in_closed_form():
    """V - ε(2 + Lb) in the ball; V b after a shift; between them, V b and the ball's part.

    A third of the shift budget is one pixel: one pixel is bright. Half of it is 1.5 pixels along
    both axes: four pixels are a quarter as bright, and the ball can darken each of them.
    """
    x, y = dimmest_and_brightest()
    bright, b, eps, neighbours = x.amax(dim=(1, 2, 3)), 0.01, 0.3, 48
    torch.testing.assert_close(WORLD.margin(x, y, 0.0, eps), bright - eps * (2 + neighbours * b))
    torch.testing.assert_close(WORLD.margin(x, y, 3.0, 0.0, step=1.0), b * bright)
    one = bright * b - 2 * eps / 3 * (1 + (neighbours + 1) * b)
    torch.testing.assert_close(WORLD.affine_margin(x, y, 1 / 3, step=1.0), one)
    four = bright * b - eps / 2 * (1 + (neighbours + 4) * b)
    torch.testing.assert_close(WORLD.affine_margin(x, y, 0.5, step=0.5), four)


@pytest.mark.parametrize("direction", [(3.0, 0.0), (-3.0, 0.0), (0.0, 3.0), (0.0, -3.0)])
def test_shifts_of_either_sign_are_tried(direction):
    """At the edge of the template, one more pixel in the same direction leaves it."""
    x, y = some(4)
    pose = torch.tensor([*direction, 0.0], dtype=x.dtype).expand(4, 3)
    edge = RotationTranslation(pixels=3, degrees=30).apply(x, pose)
    assert (y * WORLD.score(edge) > 0).all()
    assert (WORLD.margin(edge, y, 1.0, 0.0) == 0).all()


def test_the_ball_is_the_worst_of_the_ball():
    x, y = some(4)
    rng = torch.Generator().manual_seed(2)
    worst = y * WORLD.score(WORLD.ball(x, y, 0.3))
    for _ in range(50):
        noise = 0.3 * torch.rand(x.shape, generator=rng, dtype=x.dtype).sub(0.5).sign()
        assert (y * WORLD.score((x + noise).clamp(0, 1)) >= worst - 1e-12).all()


def test_the_network_is_the_classifier():
    x, y = some(10)
    logits = WORLD.network()(x)
    torch.testing.assert_close(logits[:, 1] - logits[:, 0], WORLD.score(x))
    assert torch.equal(logits.argmax(dim=1), (y > 0).long())


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: BrightPixel(eps=0.5), "the ball alone would win"),
        (lambda: BrightPixel(eps=0.001), "half a budget each would not win"),
        (lambda: BrightPixel(pixels=1), "need pixels ≥ 2"),
        (lambda: BrightPixel(size=12), "need pixels ≥ 2 and size"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
