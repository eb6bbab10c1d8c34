"""Augmentation: what comes out is a window of the padded image, or its mirror."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpkit.data import Crop, Elastic, Flip
from mpkit.sets import RotationTranslation
from mpkit.sets.spatial import warp
from mpkit.training import RandomPose


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def numbered(count, channels, height, width):
    """Images whose pixels are all different and not zero."""
    size = count * channels * height * width
    return torch.arange(1, size + 1, dtype=torch.float64).view(count, channels, height, width)


@settings(max_examples=30, deadline=None)
@given(
    border=st.integers(1, 4),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    seed=st.integers(0, 2**31),
)
def test_a_crop_is_a_window_of_the_padded_image(border, height, width, seed):
    x = numbered(3, 2, height, width)
    wide = torch.zeros(3, 2, height + 2 * border, width + 2 * border, dtype=x.dtype)
    wide[:, :, border : border + height, border : border + width] = x
    for image, whole in zip(Crop(border)(x, rng(seed)), wide, strict=True):
        windows = [
            whole[:, top : top + height, left : left + width]
            for top in range(2 * border + 1)
            for left in range(2 * border + 1)
        ]
        assert any(torch.equal(image, window) for window in windows)


def test_every_window_is_equally_likely():
    x = torch.zeros(18000, 1, 5, 5)
    x[:, 0, 2, 2] = 1  # after the crop, the bright pixel tells the place
    places = Crop(1)(x, rng()).flatten(1).argmax(1)
    counts = torch.bincount(places, minlength=25).view(5, 5)
    assert counts.sum() == counts[1:4, 1:4].sum() == 18000
    assert (counts[1:4, 1:4] - 2000).abs().max() < 5 * (18000 * 8 / 81) ** 0.5


def test_a_flip_is_the_image_or_its_mirror():
    x = numbered(4000, 1, 2, 3)
    out = Flip()(x, rng())
    same = (out == x).flatten(1).all(1)
    mirrored = (out == x.flip(-1)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert abs(int(same.sum()) - 2000) < 5 * 1000**0.5


@pytest.mark.parametrize("change", [Crop(2), Flip(), RandomPose(RotationTranslation(2, 10))])
def test_the_generator_decides_and_the_images_stay(change):
    x = numbered(64, 3, 6, 6).float()
    before = x.clone()
    one, again, other = (change(x, rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert torch.equal(x, before) and one.dtype == x.dtype and one.shape == x.shape


def test_a_pose_is_drawn_from_its_set_for_each_image():
    x = numbered(200, 1, 6, 6) / 7200
    poses = RotationTranslation(1.5, 20)
    drawn = poses.sample(x, rng(3))
    assert torch.equal(RandomPose(poses)(x, rng(3)), warp(x, drawn))
    assert poses.contains(x, drawn).all() and drawn.unique(dim=0).shape == drawn.shape
    assert (drawn.abs().amax(0) > 0.95 * torch.tensor([1.5, 1.5, 20])).all()
    assert torch.equal(RandomPose(RotationTranslation(0, 0))(x, rng()), x)


def test_a_border_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"Crop: border must be at least 1 pixel, got 0"):
        Crop(0)


def test_rubber_that_is_not_bent_is_the_image_and_bent_it_stays_one():
    x = torch.rand(5, 1, 6, 6, generator=rng(), dtype=torch.float64)
    assert torch.allclose(Elastic(0.0, 0.0)(x, rng(0)), x, atol=1e-6)
    one, same, other = (Elastic()(x, rng(s)) for s in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert one.shape == x.shape and one.min() >= 0 and one.max() <= 1
    with pytest.raises(ValueError, match="Elastic: bend and turn"):
        Elastic(-1.0)
