"""Theorem 4's images: the union of the sets never fools the classifier, half of each always."""

import pytest
import torch

from mpbook.theory import BrightPixel
from mpkit.sets import Affine, Linf, RotationTranslation

WORLD = BrightPixel()
STILL = torch.zeros(1, 3, dtype=torch.float64)


def some(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    return WORLD.sample(n, torch.Generator().manual_seed(0))


def dimmest_and_brightest() -> tuple[torch.Tensor, torch.Tensor]:
    """The margin is a function of label and brightness: its least is at an end of the latter."""
    x, y = some(8)
    chosen = torch.stack([(y < 0).nonzero()[0, 0], (y > 0).nonzero()[0, 0]])
    bright = (x[chosen] > 0).double()
    return torch.cat([WORLD.dimmest * bright, bright]), y[chosen].repeat(2)


def test_images_are_images_of_both_classes():
    x, y = some(64)
    assert x.shape == (64, 1, 28, 28)
    assert ((x > 0).sum(dim=(1, 2, 3)) == 1).all()
    assert x.max() <= 1
    assert set(y.tolist()) == {-1.0, 1.0}
    assert (y * WORLD.score(x) >= WORLD.dimmest).all()


def test_the_union_never_fools_the_classifier():
    """A grid of half pixels and two degrees over ±3 px and ±30°; the exact worst of the ball."""
    x, y = dimmest_and_brightest()
    spatial = WORLD.margin(x, y, WORLD.poses(1.0, shifts=13, angles=31), 0.0)
    assert (spatial >= WORLD.dimmest * WORLD.around / 4).all()
    assert (WORLD.margin(x, y, STILL, WORLD.eps) > 0.08).all()


def test_no_random_pose_fools_it():
    x, y = some(500)
    turns = RotationTranslation(pixels=WORLD.pixels, degrees=WORLD.degrees)
    rng = torch.Generator().manual_seed(1)
    for _ in range(20):
        warped = turns.apply(x, turns.sample(x, rng))
        assert (y * WORLD.score(warped) >= WORLD.dimmest * WORLD.around / 4).all()


def test_half_of_each_budget_fools_it_always():
    x, y = dimmest_and_brightest()
    assert (WORLD.affine_margin(x, y, 0.5) < -0.1).all()
    assert (WORLD.affine_margin(x, y, 1 / 3) < -0.1).all()


def test_the_affine_set_of_images_holds_such_an_image():
    """One pixel of shift and half of the ball, in the coordinates of `mpkit.sets.threat_model`."""
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
    assert (WORLD.affine_margin(x, y, 0.0) > 0).all()
    assert (WORLD.affine_margin(x, y, 1.0) > 0).all()


def test_margins_in_closed_form():
    """With A = 1 + L b: V - ε(1 + A) in the ball, V b after a shift, V b - ½ ε(A + b) between.

    The last for a shift of one pixel and half of the ball. A shift of 1.5 pixels
    along both axes leaves four pixels a quarter as bright, and the ball darkens each: A + 4 b.
    """
    x, y = dimmest_and_brightest()
    bright, b, eps = x.amax(dim=(1, 2, 3)), WORLD.around, WORLD.eps
    template = float(WORLD.template.clamp(min=0).sum())
    assert template == pytest.approx(WORLD.total)
    torch.testing.assert_close(WORLD.margin(x, y, STILL, eps), bright - eps * (1 + template))
    whole = WORLD.poses(1.0, shifts=7, angles=1) * torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(WORLD.margin(x, y, whole, 0.0), b * bright)
    one = torch.tensor([[1.0, 0.0, 0.0]], dtype=x.dtype)
    expected = b * bright - eps / 2 * (template + b)
    torch.testing.assert_close(WORLD.margin(x, y, one, eps / 2), expected)
    four = torch.tensor([[1.5, -1.5, 0.0]], dtype=x.dtype)
    expected = b * bright - eps / 2 * (template + 4 * b)
    torch.testing.assert_close(WORLD.margin(x, y, four, eps / 2), expected)


def test_the_grid_of_poses_spans_its_share():
    grid = WORLD.poses(0.5, shifts=5, angles=3)
    assert grid.shape == (75, 3)
    assert grid.amin(dim=0).tolist() == [-1.5, -1.5, -15]
    assert grid.amax(dim=0).tolist() == [1.5, 1.5, 15]
    assert (grid == 0).all(dim=1).sum() == 1


def test_a_pose_out_of_the_template_is_noticed():
    """The template is not endless: far outside the bounds, the score is gone."""
    x, y = some(4)
    far = torch.tensor([[0.0, 10.0, 0.0]], dtype=x.dtype)
    assert (WORLD.margin(x, y, torch.cat([STILL, far]), 0.0) == 0).all()


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
        (lambda: BrightPixel(size=20), "two templates of"),
    ],
)
def test_bad_input_is_named(build, words):
    with pytest.raises(ValueError, match=words):
        build()
