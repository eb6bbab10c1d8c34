"""The bilinear warp: exact cases, gradients, nothing wraps."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.strategies import tensors
from mpkit.sets import Affine, Linf, RotationTranslation
from mpkit.sets.spatial import warp


def pose(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@settings(deadline=None)
@given(st.data())
def test_identity_is_exact(data):
    for dtype in (torch.float32, torch.float64):
        x = data.draw(tensors(dtype, (2, 1, 4, 5), 0, 1))
        assert torch.equal(warp(x, torch.zeros(2, 3, dtype=dtype)), x)


def test_whole_shifts_are_exact_and_nothing_wraps():
    x = torch.rand(1, 2, 6, 7, dtype=torch.float64)
    right_and_down = warp(x, pose([2, 1, 0]))
    assert torch.equal(right_and_down[:, :, 1:, 2:], x[:, :, :-1, :-2])
    assert right_and_down[:, :, 0].abs().sum() == 0
    assert right_and_down[:, :, :, :2].abs().sum() == 0
    assert warp(x, pose([7, 0, 0])).abs().sum() == 0
    assert warp(x, pose([0, -60, 0])).abs().sum() == 0


def test_quarter_turn_is_anticlockwise():
    x = torch.rand(1, 1, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(warp(x, pose([0, 0, 90])), x.rot90(1, (2, 3)), atol=1e-12, rtol=0)
    x = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(warp(x, pose([0, 0, -90])), x.rot90(-1, (2, 3)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_numbers_find_every_pixel_of_a_large_image(dtype):
    x = torch.rand(1, 1, 60, 70, generator=torch.Generator().manual_seed(0)).to(dtype)
    shifted = warp(x, torch.tensor([[3.0, -2.0, 0.0]]))
    assert torch.equal(shifted[:, :, :-2, 3:], x[:, :, 2:, :-3])


def test_half_shift_averages_neighbours():
    x = torch.tensor([[[[0.0, 1.0, 0.5]]]], dtype=torch.float64)
    expected = torch.tensor([[[[0.0, 0.5, 0.75]]]], dtype=torch.float64)
    torch.testing.assert_close(warp(x, pose([0.5, 0, 0])), expected, atol=1e-15, rtol=0)


def test_gradients_of_images_and_poses():
    g = torch.Generator().manual_seed(3)
    x = torch.rand(3, 2, 5, 6, dtype=torch.float64, generator=g, requires_grad=True)
    z = torch.randn(3, 3, dtype=torch.float64, generator=g, requires_grad=True)
    assert torch.autograd.gradcheck(warp, (x, z))


def test_constant_image_stays_constant_inside():
    x = torch.ones(1, 1, 9, 9, dtype=torch.float64)
    turned = warp(x, pose([0.3, -0.2, 17]))
    torch.testing.assert_close(turned[0, 0, 3:6, 3:6], x[0, 0, 3:6, 3:6], atol=1e-12, rtol=0)


@settings(deadline=None)
@given(st.data())
def test_no_pixel_leaves_the_range_of_the_image_and_of_the_zeros_around_it(data):
    for dtype in (torch.float32, torch.float64):
        x = data.draw(tensors(dtype, (2, 1, 4, 5), 0, 1))
        z = data.draw(tensors(dtype, (2, 3), -7, 7)) * torch.tensor([1, 1, 30], dtype=dtype)
        turned = warp(x, z).flatten(1)
        assert (turned >= 0).all()
        assert (turned <= x.flatten(1).amax(1, keepdim=True)).all()


def test_wrong_pose_is_refused():
    with pytest.raises(ValueError, match="one pose per image"):
        warp(torch.zeros(2, 1, 3, 3), torch.zeros(1, 3))


def test_a_black_background_does_not_silence_the_gradient_through_a_pose():
    """torch may give a clamp the derivative 0 at its very walls, where background lies."""
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    x[0, 0, 2, 2] = 1
    poses, ball = RotationTranslation(2, 30), Linf(0.5)
    z = torch.zeros(1, 3, dtype=torch.float64)
    top = torch.zeros_like(x, requires_grad=True)
    weight = torch.rand(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    w = torch.full((1,), 0.5, dtype=torch.float64)
    (Affine(poses, ball).apply(x, (w, z, top)) * weight).sum().backward()
    torch.testing.assert_close(top.grad, weight)
    for pose in (torch.tensor([[0.25, 0.0, 0.0]]), torch.tensor([[0.5, -0.25, 10.0]])):
        turned = pose.double().requires_grad_()
        (poses.apply(x, turned) * weight).sum().backward()
        assert turned.grad.abs().sum() > 0
