"""Projections, directions and norms against independent answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import oracles
from helpers.strategies import ball_cases, radii, shapes, tensors
from mpkit.attacks.pgd import movable
from mpkit.sets import L1, L2, Linf, norms, projections, thresholds
from mpkit.sets.norms import size_and_room

ALONE = {
    "Linf": projections.nearest_in_linf_ball,
    "L2": projections.nearest_in_l2_ball,
    "L1": projections.nearest_in_l1_ball,
}
BOXED = {
    "Linf": projections.nearest_in_linf_ball_and_box,
    "L2": projections.nearest_in_l2_ball_and_box,
    "L1": projections.nearest_in_l1_ball_and_box,
}


@settings(deadline=None)
@given(ball_cases())
def test_projection_is_inside_idempotent_and_leaves_inside_rows_alone(case):
    ball, x, z, _ = case
    p = ball.project(x, z)
    assert ball.contains(x, p).all()
    assert torch.equal(ball.project(x, p), p)
    already = ball.contains(x, z) & (ball.norm(z) <= norms.per_row(ball.eps, ball.norm(z)))
    assert torch.equal(p[already], z[already])


@settings(deadline=None)
@given(ball_cases(most=30.0), st.integers(0, 2**31))
def test_projection_is_nearest(case, seed):
    """The obtuse-angle law: ⟨z - p, q - p⟩ ≤ 0 for every q of the convex set."""
    ball, x, z, _ = case
    p = ball.project(x, z).double()
    q = ball.sample(x, torch.Generator().manual_seed(seed)).double()
    angle = ((z.double() - p) * (q - p)).flatten(1).sum(1)
    scale = 1e-5 if x.dtype == torch.float32 else 1e-12
    assert (angle <= scale * (1 + z.double().abs().flatten(1).sum(1)) ** 2).all()


@settings(deadline=None)
@given(st.data())
def test_float32_is_exact_to_1e_5_of_the_radius(data):
    shape = data.draw(shapes)
    eps = data.draw(st.floats(0.05, 20))
    x = data.draw(tensors(torch.float32, shape, 0, 1))
    d = data.draw(tensors(torch.float32, shape, -3 * eps, 3 * eps))
    for kind in ALONE:
        truth = ALONE[kind](d.double(), eps)
        assert (ALONE[kind](d, eps) - truth).abs().max() <= 1e-5 * eps
        truth = BOXED[kind](d.double(), eps, x.double())
        assert (BOXED[kind](d, eps, x) - truth).abs().max() <= 1e-5 * eps


@settings(deadline=None)
@given(st.data())
def test_float64_matches_the_sorting_oracle(data):
    shape = data.draw(shapes)
    eps = data.draw(radii(shape[0]))
    x = data.draw(tensors(torch.float64, shape, 0, 1))
    d = data.draw(tensors(torch.float64, shape, -40, 40))
    each = eps.double().numpy() if isinstance(eps, torch.Tensor) else np.full(shape[0], eps)
    rows = [a.flatten(1).numpy() for a in (d, x)]
    l1 = projections.nearest_in_l1_ball(d, eps).flatten(1).numpy()
    l1_box = projections.nearest_in_l1_ball_and_box(d, eps, x).flatten(1).numpy()
    l2_box = projections.nearest_in_l2_ball_and_box(d, eps, x).flatten(1).numpy()
    for i, (di, xi) in enumerate(zip(*rows, strict=True)):
        close = {"rtol": 0, "atol": 1e-11 * 40}
        np.testing.assert_allclose(l1[i], oracles.nearest_l1(di, each[i]), **close)
        np.testing.assert_allclose(l1_box[i], oracles.nearest_l1(di, each[i], xi), **close)
        np.testing.assert_allclose(l2_box[i], oracles.nearest_l2(di, each[i], xi), **close)


@pytest.mark.parametrize("kind", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("seed", range(3))
def test_against_cvxpy(kind, seed):
    rng = np.random.default_rng(seed)
    d, x = rng.normal(size=20), rng.random(20)
    eps = {"Linf": 0.4, "L2": 1.2, "L1": 3.0}[kind]
    as_batch = [torch.from_numpy(a)[None] for a in (d, x)]
    mine = ALONE[kind](as_batch[0], eps)[0].numpy()
    np.testing.assert_allclose(mine, oracles.nearest_by_cvxpy(kind, d, eps), atol=1e-6)
    mine = BOXED[kind](as_batch[0], eps, as_batch[1])[0].numpy()
    np.testing.assert_allclose(mine, oracles.nearest_by_cvxpy(kind, d, eps, x), atol=1e-6)


@pytest.mark.parametrize("scale", [0.01, 0.1, 1, 10])
def test_wide_rows_match_the_oracle(scale):
    g = torch.Generator().manual_seed(0)
    d = torch.randn(3, 3072, generator=g) * scale
    x = torch.rand(3, 3072, generator=g)
    got = projections.nearest_in_l1_ball_and_box(d, 12.0, x)
    alone = projections.nearest_in_l1_ball(d, 12.0)
    for i in range(3):
        truth = oracles.nearest_l1(d[i].double().numpy(), 12.0, x[i].double().numpy())
        np.testing.assert_allclose(got[i].numpy(), truth, atol=12e-5)
        truth = oracles.nearest_l1(d[i].double().numpy(), 12.0)
        np.testing.assert_allclose(alone[i].numpy(), truth, atol=12e-5)


@settings(deadline=None)
@given(ball_cases(), st.integers(0, 2**31))
def test_steepest_is_the_dual_maximizer(case, seed):
    ball, x, _, g = case
    s = ball.steepest(g)
    reach = norms.per_row(ball.eps, ball.dual_norm(g)) * ball.dual_norm(g)
    torch.testing.assert_close((g * s).flatten(1).sum(1), reach, rtol=1e-5, atol=1e-6)
    eps = norms.per_row(ball.eps, ball.norm(s))
    assert (ball.norm(s) <= eps * (1 + 1e-5)).all()
    other = ball.sample(x, torch.Generator().manual_seed(seed))
    gained = (g * other).flatten(1).sum(1)
    assert (gained <= reach * (1 + 1e-5) + 1e-4).all()


def test_unit_direction_survives_tiny_and_huge_gradients():
    g = torch.tensor([[3e-30, 4e-30], [3e30, 4e30], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 0.0]])
    torch.testing.assert_close(norms.unit_direction(g), expected)
    torch.testing.assert_close(norms.l2_norm(g[:2]), torch.tensor([5e-30, 5e30]))


@pytest.mark.parametrize("function", [*ALONE.values(), *BOXED.values()])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_input_is_refused(function, bad):
    d = torch.zeros(2, 3)
    d[1, 2] = bad
    x = () if function in ALONE.values() else (torch.zeros(2, 3),)
    with pytest.raises(ValueError, match="d holds NaN or infinity in row 1"):
        function(d, 1.0, *x)
    with pytest.raises(ValueError, match="eps must be positive and finite"):
        function(torch.zeros(2, 3), bad, *x)
    with pytest.raises(ValueError, match="eps must be positive and finite"):
        function(torch.zeros(2, 3), torch.tensor([1.0, bad]), *x)


@pytest.mark.parametrize("function", [*ALONE.values(), *BOXED.values()])
@pytest.mark.parametrize("eps", [0.0, -1.0])
def test_radius_must_be_positive(function, eps):
    x = () if function in ALONE.values() else (torch.zeros(2, 3),)
    with pytest.raises(ValueError, match=r"eps must be positive and finite, got -?\d"):
        function(torch.zeros(2, 3), eps, *x)


@pytest.mark.parametrize("ball", [Linf(torch.tensor([0.0, 1.0])), L2(torch.tensor([0.0, 1.0]))])
def test_a_row_may_have_radius_zero(ball):
    x, z = torch.full((2, 1, 1, 2), 0.5), torch.full((2, 1, 1, 2), 0.25)
    assert torch.equal(ball.project(x, z)[0], torch.zeros(1, 1, 2))
    assert torch.equal(ball.project(x, z)[1], z[1])


def test_degenerate_images():
    zeros = torch.zeros(2, 1, 2, 2)
    for ball in (Linf(0.5), L2(0.5), L1(0.5)):
        assert torch.equal(ball.project(zeros, zeros), zeros)
        assert torch.equal(ball.direction(zeros), zeros)
        one = torch.full((1, 1, 1, 1), 0.5)
        assert torch.equal(ball.project(one, 3 * one), one)
        tied = ball.project(torch.full((1, 1, 2, 2), 0.5), torch.full((1, 1, 2, 2), 9.0))
        assert torch.equal(tied, tied.flatten()[0].expand(1, 1, 2, 2))
    wide = L1(1e6).project(zeros + 0.5, torch.full_like(zeros, 7.0))
    assert torch.equal(wide, zeros + 0.5)


def test_projection_of_a_tensor_that_requires_grad():
    d = torch.full((1, 4), 2.0, requires_grad=True)
    for function in ALONE.values():
        assert not function(d, 1.0).requires_grad


@pytest.mark.parametrize("far", [1, 16, 256, 4096, 1e5])
@pytest.mark.parametrize("boxed", [False, True], ids=["ball", "ball and box"])
def test_points_far_away_project_to_the_rounding_of_the_point(far, boxed):
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(50, 1, 8, 8, generator=rng)
    d = torch.randn(50, 1, 8, 8, generator=rng) * far
    eps = 2.0
    if boxed:
        near = projections.nearest_in_l1_ball_and_box(d, eps, x)
        exact = projections.nearest_in_l1_ball_and_box(d.double(), eps, x.double())
        size, room = d.double().abs(), torch.where(d > 0, 1 - x.double(), x.double())
    else:
        near = projections.nearest_in_l1_ball(d, eps)
        exact = projections.nearest_in_l1_ball(d.double(), eps)
        size, room = d.double().abs(), torch.full_like(x, torch.inf, dtype=torch.float64)
    low, high = torch.zeros(50, 1, 1, 1).double(), size.amax((1, 2, 3), keepdim=True)
    for _ in range(120):  # the threshold, by halving alone
        middle = (low + high) / 2
        spent = torch.minimum((size - middle).clamp(min=0), room).sum((1, 2, 3), keepdim=True)
        low, high = (torch.where(spent > eps, middle, low), torch.where(spent > eps, high, middle))
    oracle = torch.minimum((size - high).clamp(min=0), room) * d.sign()
    inside = torch.minimum(size, room).sum((1, 2, 3), keepdim=True) <= eps
    oracle = torch.where(inside, torch.minimum(size, room) * d.sign(), oracle)
    rounding = float(d.abs().max()) * torch.finfo(torch.float32).eps
    assert float((near.double() - oracle).abs().max()) <= max(1e-5 * eps, 4 * rounding)
    rounding = float(d.abs().max()) * torch.finfo(torch.float64).eps
    assert float((exact - oracle).abs().max()) <= max(1e-12, 16 * rounding)


@pytest.mark.parametrize("law", ["normal", "heavy", "spread", "sparse", "ties"])
def test_the_way_of_a_gpu_gives_the_same_projections(law, monkeypatch):
    """Sorting and a fixed number of steps, without a look: exact to 1e-5 of the radius."""
    g = torch.Generator().manual_seed(0)
    x, d = torch.rand(64, 784, generator=g), torch.randn(64, 784, generator=g)
    share = torch.rand(64, 784, generator=g)
    x[:8], x[8:16] = 0, (x[8:16] > 0.5).float()
    d = {
        "normal": d,
        "heavy": d**5,
        "spread": d.sign() * 10 ** (8 * share - 6),
        "sparse": torch.where(share < 0.02, 5 * d, 0),
        "ties": d.sign(),
    }[law]
    cases = [
        (lambda d, x: projections.nearest_in_l1_ball(d, 10.0), 10.0, None),
        (lambda d, x: projections.nearest_in_l1_ball_and_box(d, 10.0, x), 10.0, L1(10.0)),
        (lambda d, x: projections.nearest_in_l2_ball_and_box(d, 2.0, x), 2.0, L2(2.0)),
    ]
    for factor in (1e-3, 0.1, 1.0, 30.0):
        far = d * factor
        for project, radius, ball in cases:
            exact = project(far.double(), x.double())
            with monkeypatch.context() as patch:
                for module in (thresholds, projections):
                    patch.setattr(module, "blind", lambda tensor: True)
                near, double = project(far, x), project(far.double(), x.double())
            rounding = 1e-6 * float(far.abs().max()) / radius
            assert float((near - exact).abs().max()) / radius <= max(1e-5, rounding)
            assert float((double - exact).abs().max()) <= 1e-9 * max(1, float(far.abs().max()))
            assert ball is None or bool(ball.contains(x, near).all())


def test_far_points_use_the_whole_radius():
    """Newton steps may not swing between the two ends of their bracket for ever."""
    g = torch.Generator().manual_seed(0)
    x, d = torch.rand(64, 784, generator=g), torch.randn(64, 784, generator=g)
    x, d = x.double(), (0.1 * d**5).double()
    near = projections.nearest_in_l1_ball_and_box(d, 10.0, x)
    kept = projections.clip_to_box(d, x).abs().sum(1)
    torch.testing.assert_close(near.abs().sum(1), kept.clamp(max=10.0), rtol=1e-9, atol=0.0)


def test_room_is_negative_beyond_the_wall():
    """Where one part of an affine pair has left the box, the other has to bring it back."""
    x = torch.tensor([[1.25, -0.5, 0.25, 0.25]], dtype=torch.float64)
    d = torch.tensor([[2.0, -1.0, 3.0, -3.0]], dtype=torch.float64)
    size, room = size_and_room(d, x)
    assert torch.equal(size, d.abs())
    assert torch.equal(room, torch.tensor([[-0.25, -0.5, 0.75, 0.25]], dtype=torch.float64))


def test_entries_at_or_beyond_their_wall_do_not_move():
    image = torch.tensor([1.25, 1.0, 0.5, 0.0, -0.5]).repeat(2).view(1, 1, 2, 5)
    gradient = torch.tensor([1.0] * 5 + [-1.0] * 5).view(1, 1, 2, 5)
    wanted = torch.tensor([0.0, 0, 1, 1, 1, -1, -1, -1, 0, 0]).view(1, 1, 2, 5)
    assert torch.equal(movable(image, gradient), wanted)
