"""Cells of poses: every pixel of every pose lies in its interval; decisions agree with grids."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.toys import generator, relu_net
from mpkit.attacks import Grid, Margin
from mpkit.certify import PoseCells, Status
from mpkit.certify.poses import pixels_over
from mpkit.sets import RotationTranslation
from mpkit.sets.spatial import warp


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(0, 1), side=st.sampled_from([3, 4, 6]))
def test_no_pose_of_a_cell_leaves_its_intervals(seed, size, side):
    rng = generator(seed)
    x = torch.rand(3, 2, side, side, generator=rng, dtype=torch.float64)
    scale = torch.tensor([1.5, 1.5, 180.0], dtype=torch.float64)
    middle = (2 * torch.rand(3, 3, generator=rng, dtype=torch.float64) - 1) * scale
    half = (
        size
        * torch.rand(3, 3, generator=rng, dtype=torch.float64)
        * scale
        / scale.new_tensor([5, 5, 25])
    )
    reach, (low, high) = pixels_over(x, middle, half)
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
    inner = 2 * torch.rand(40, 3, generator=rng, dtype=torch.float64) - 1
    for share in torch.cat([corners, inner]):
        image = warp(x, middle + share * half)
        inside = (image >= low - 1e-12) & (image <= high + 1e-12)
        assert inside.flatten(1).all(1)[reach <= 1].all()


def test_a_cell_of_one_pose_is_its_image():
    x = torch.rand(4, 1, 5, 5, generator=generator(), dtype=torch.float64)
    pose = torch.tensor([[0.3, -0.7, 12.0]], dtype=torch.float64).expand(4, 3)
    _, (low, high) = pixels_over(x, pose, torch.zeros_like(pose))
    torch.testing.assert_close(low, warp(x, pose), atol=1e-7, rtol=0)
    torch.testing.assert_close(high, warp(x, pose), atol=1e-7, rtol=0)


def test_decisions_agree_with_a_fine_grid():
    """No pose of 9 x 9 x 21 fools a network that is certified; both answers occur."""
    poses, seen = RotationTranslation(0.3, 8), set()
    for seed in range(2):
        net = relu_net(seed, inputs=16, classes=3)
        x = torch.rand(6, 1, 4, 4, generator=generator(seed), dtype=torch.float64)
        y = net(x).argmax(1)
        found = PoseCells(shifts=1, angles=1, cells=800)(net, x, y, poses)
        grid = Grid(poses, 9, 21, loss=Margin())(net, x, y, generator())
        broken = net(grid.image).argmax(1) != y
        assert not (broken & (found.status == Status.CERTIFIED)).any()
        mine = found.which(Status.BROKEN)
        image = poses.apply(x[mine], found.z[mine])
        assert poses.contains(x[mine], found.z[mine]).all()
        assert (net(image).argmax(1) != y[mine]).all()
        seen |= set(found.status.tolist())
    assert {0, 1} <= seen
