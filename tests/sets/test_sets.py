"""Laws of the perturbation sets: membership, sampling, scaling, radii in common use."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.strategies import balls, dtypes, shapes, tensors
from mpkit.core import trees
from mpkit.sets import L1, L2, Linf, RotationTranslation, usual

RT = RotationTranslation(pixels=3, degrees=30)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None)
@given(st.data(), st.integers(0, 2**31))
def test_samples_and_nothing_are_contained(data, seed):
    shape = data.draw(shapes)
    x = data.draw(tensors(data.draw(dtypes), shape, 0, 1))
    for threat in (data.draw(balls(shape[0])), RT):
        z = threat.sample(x, rng(seed))
        assert z.dtype == x.dtype
        assert threat.contains(x, z).all()
        image = threat.apply(x, z)
        assert image.shape == x.shape
        assert image.min() >= 0
        assert image.max() <= 1
        assert threat.contains(x, threat.zero(x)).all()
        assert torch.equal(threat.apply(x, threat.zero(x)), x)


@settings(deadline=None)
@given(st.data(), st.integers(0, 2**31))
def test_scaled_sets_are_nested(data, seed):
    shape = data.draw(shapes)
    x = data.draw(tensors(torch.float64, shape, 0, 1))
    w = data.draw(st.one_of(st.floats(0.01, 1), st.just(torch.linspace(0, 1, shape[0]))))
    for threat in (data.draw(balls(shape[0])), RT):
        z = threat.scaled(w).sample(x, rng(seed))
        assert threat.scaled(w).contains(x, z).all()
        assert threat.contains(x, z).all()


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.2), L1(0.3)])
def test_contains_refuses_what_is_just_outside(ball):
    x = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64)
    z = torch.full_like(x, 1.0)
    z = z * (ball.eps / ball.norm(z))
    assert ball.contains(x, z).all()
    assert not ball.contains(x, z * 1.0001).any()
    assert not type(ball)(9.0).contains(x, torch.full_like(x, 0.501)).any()
    assert not ball.contains(x, torch.full_like(x, float("nan"))).any()


@pytest.mark.parametrize("pose", [[3.01, 0, 0], [0, -3.01, 0], [0, 0, 30.1], [0, 0, -31]])
def test_rotation_translation_bounds(pose):
    x = torch.zeros(1, 1, 4, 4)
    assert not RT.contains(x, torch.tensor([pose])).any()
    assert RT.contains(x, RT.project(x, torch.tensor([pose]))).all()


def test_uniform_laws_have_the_right_moments():
    """In d dimensions E‖z‖₁ = eps d / (d + 1), E‖z‖₂ = eps d / (d + 1), E abs(z) = eps / 2."""
    x = torch.full((4000, 1, 1, 6), 0.5, dtype=torch.float64)
    for ball, mean in [(L1(0.5), 0.5 * 6 / 7), (L2(0.5), 0.5 * 6 / 7)]:
        assert ball.norm(ball.sample(x, rng())).mean().item() == pytest.approx(mean, abs=0.005)
    z = Linf(0.3).sample(x, rng())
    assert z.abs().mean().item() == pytest.approx(0.15, abs=0.003)
    assert z.mean().item() == pytest.approx(0, abs=0.005)
    poses = RT.sample(x, rng())
    torch.testing.assert_close(
        poses.abs().mean(0), torch.tensor([1.5, 1.5, 15]).double(), rtol=0.03, atol=0
    )


def test_linf_law_is_uniform_on_what_the_box_leaves():
    x = torch.full((4000, 1, 1, 1), 0.1, dtype=torch.float64)
    z = Linf(0.3).sample(x, rng())
    assert z.min() >= -0.1
    assert z.mean().item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@pytest.mark.parametrize("eps", [0.0, -0.1, float("nan"), float("inf")])
def test_bad_radius_names_class_argument_and_value(kind, eps):
    message = f"{kind.__name__}: eps must be positive and finite, got {eps}"
    with pytest.raises(ValueError, match=message):
        kind(eps)


def test_bad_bounds_name_the_argument():
    with pytest.raises(ValueError, match="RotationTranslation: pixels must be positive"):
        RotationTranslation(-1, 30)
    with pytest.raises(ValueError, match="RotationTranslation: degrees must be positive"):
        RotationTranslation(1, float("nan"))
    assert RotationTranslation(0, 30).degrees == 30


def test_radii_must_fit_the_batch():
    x = torch.zeros(3, 1, 2, 2)
    with pytest.raises(ValueError, match="one radius per image"):
        Linf(torch.tensor([0.1, 0.2])).check(x)
    with pytest.raises(ValueError, match="eps must be positive and finite"):
        Linf(torch.tensor([0.1, 0.2, float("nan")])).check(x)
    Linf(torch.tensor([0.1, 0.2, 0.0])).check(x)


def test_take_selects_the_radii_of_rows():
    ball = trees.take(Linf(torch.tensor([0.1, 0.2, 0.3])), torch.tensor([2, 0]))
    torch.testing.assert_close(ball.eps, torch.tensor([0.3, 0.1]))
    assert trees.take(Linf(0.1), torch.tensor([0])) is not None


def test_usual_radii():
    mnist = usual("mnist", (1, 28, 28))
    assert mnist["linf"] == Linf(0.3)
    assert mnist["l1"] == L1(10)
    assert mnist["l2"] == L2(2)
    assert mnist["rt"] == RT
    assert usual("cifar10", (3, 32, 32))["l1"] == L1(12)
    other = usual("my images", (3, 64, 64))
    assert other["linf"] == Linf(8 / 255)
    assert other["l2"] == L2(1.0)
    assert other["l1"] == L1(48.0)
    assert other["rt"] == RotationTranslation(6, 30)
    assert set(usual("digits", (1, 8, 8))) == set(mnist)
