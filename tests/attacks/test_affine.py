"""Between two sets: linear programs, both readings of the box, never weaker than the ends."""

import cvxpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.strategies import balls, shapes, tensors
from helpers.toys import Linear, generator, linear_problem, relu_net
from mpkit.attacks import PGD, AffinePGD, Falling, Grid, Margin
from mpkit.sets import L1, L2, Affine, Blend, Linf, RotationTranslation
from mpkit.sets.convex_hull import box_pair, nearest_pair

NORMS = {Linf: "inf", L2: 2, L1: 1}
PAIRS = [Affine(L1(1.5), Linf(0.2)), Affine(Linf(0.2), L2(0.6)), Affine(L2(0.6), L1(1.5))]
pairs = pytest.mark.parametrize("between", PAIRS, ids=lambda p: f"{p.a}-{p.b}")
RT = RotationTranslation(1, 30)


def best_sum(between, w, x, share=None):
    """The greatest ⟨w, r + s⟩ over the affine set for one image, by a convex solver."""
    r, s = cvxpy.Variable(len(w)), cvxpy.Variable(len(w))
    beta = cvxpy.Variable() if share is None else share
    rules = [
        cvxpy.norm(r, NORMS[type(between.a)]) <= beta * between.a.eps,
        cvxpy.norm(s, NORMS[type(between.b)]) <= (1 - beta) * between.b.eps,
        x + r + s >= 0,
        x + r + s <= 1,
    ]
    if share is None:
        rules += [beta >= 0, beta <= 1]
    problem = cvxpy.Problem(cvxpy.Maximize(w @ (r + s)), rules)
    return problem.solve(solver=cvxpy.CLARABEL)


def document_example():
    """w = (1, 0.1 x 9), slack 0.5, eps_1 = 1, eps_inf = 0.55 / 1.9; the model never errs."""
    w = torch.tensor([1.0] + [0.1] * 9, dtype=torch.float64).view(1, 2, 5)
    x = torch.full((4, 1, 2, 5), 0.5, dtype=torch.float64)
    level = 0.5 * w.sum().item() + 5
    return Linear(w, level), x, torch.zeros(4, dtype=torch.int64), L1(1.0), Linf(0.55 / 1.9)


def test_the_box_lets_the_affine_adversary_beat_the_union_of_a_linear_model():
    model, x, y, l1, linf = document_example()
    w, image = model.weight.detach().flatten().numpy(), x[0].flatten().numpy()
    between = Affine(l1, linf)
    for share, value in [(1.0, 0.55), (0.0, 0.55), (0.25, 0.6625)]:
        assert best_sum(between, w, image, share) == pytest.approx(value, abs=1e-6)
    best = best_sum(between, w, image)
    assert best == pytest.approx(0.41 / 0.6, abs=1e-6)
    for end in (l1, linf):
        found = PGD(end, 100, loss=Margin(), schedule=Falling())(model, x, y, generator())
        torch.testing.assert_close(found.score + 5, x.new_full((4,), 0.55), atol=1e-3, rtol=0)
    attack = AffinePGD(between, 150, loss=Margin(), schedule=Falling(1e-4), way=10)
    found = attack(model, x, y, generator())
    assert between.contains(x, found.z).all()
    torch.testing.assert_close(found.score + 5, x.new_full((4,), best), atol=1e-4, rtol=0)


def test_when_each_part_must_be_feasible_the_union_is_as_strong():
    """The other reading of the box: theorem 3 survives, the worst share is an end."""
    model, x, y, l1, linf = document_example()
    blend = Blend(l1, linf)
    found = AffinePGD(blend, 100, loss=Margin())(model, x, y, generator())
    assert blend.contains(x, found.z).all()
    torch.testing.assert_close(found.score + 5, x.new_full((4,), 0.55), atol=1e-3, rtol=0)
    tries = [blend.sample(x, generator(i)) for i in range(50)]
    scores = [Margin()(model(blend.apply(x, z)), y) for z in tries]
    assert torch.stack(scores).max() + 5 <= 0.55 + 1e-9


@pairs
def test_linear_optimum_box_included(between):
    model, x, y = linear_problem(3, n=4, shape=(1, 4, 5))
    w = model.weight.detach().flatten().numpy()
    best = torch.tensor([best_sum(between, w, image.flatten().numpy()) for image in x])
    model.level = 20.0
    attack = AffinePGD(between, 200, loss=Margin(), way=40)
    found = attack(model, x, y, generator())
    assert between.contains(x, found.z).all()
    clean = (x * model.weight).flatten(1).sum(1).detach()
    gained = found.score + 20 - clean
    assert (gained <= best + 1e-6).all()
    assert (gained >= 0.99 * best).all()


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_nearest_pair_is_allowed_idempotent_and_nearest(data):
    shape = data.draw(shapes)
    a, b = data.draw(balls(shape[0])), data.draw(balls(shape[0]))
    p, q = (data.draw(tensors(torch.float64, shape, -40, 40)) for _ in range(2))
    w, p1, q1 = nearest_pair(a, b, p, q)
    zero = torch.zeros_like(p)
    assert a.scaled(w).fits(zero, p1).all()
    assert b.scaled(1 - w).fits(zero, q1).all()
    _, p2, q2 = nearest_pair(a, b, p1, q1)
    torch.testing.assert_close((p2, q2), (p1, q1), atol=1e-9, rtol=1e-9)
    share = torch.rand(shape[0], generator=generator(data.draw(st.integers(0, 99)))).double()
    half = torch.full_like(p, 0.5)
    for _ in range(3):
        r = a.scaled(share).sample(half, generator(1))
        s = b.scaled(1 - share).sample(half, generator(2))
        angle = (p - p1) * (r - p1) + (q - q1) * (s - q1)
        scale = 1 + p.abs().flatten(1).sum(1) + q.abs().flatten(1).sum(1)
        assert (angle.flatten(1).sum(1) <= 1e-7 * scale**2).all()


@settings(deadline=None)
@given(st.data())
def test_taking_off_what_leaves_the_box_lets_no_entry_grow(data):
    shape = data.draw(shapes)
    x = data.draw(tensors(torch.float64, shape, 0, 1))
    p, q = (data.draw(tensors(torch.float64, shape, -2, 2)) for _ in range(2))
    for a, b in [(Linf(1.0), L1(1.0)), (L2(1.0), Linf(1.0)), (L1(1.0), L2(1.0))]:
        p1, q1 = box_pair(a, b, x, p, q)
        assert (p1.abs() <= p.abs() + 1e-12).all()
        assert (q1.abs() <= q.abs() + 1e-12).all()
        image = x + p1 + q1
        assert image.min() >= -1e-12
        assert image.max() <= 1 + 1e-12


@pytest.mark.parametrize("between", [*PAIRS, Affine(RT, Linf(0.2)), Affine(RT, L1(1.0))])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_never_weaker_than_either_end(between, dtype):
    model = relu_net(1, inputs=16, classes=4, dtype=dtype)
    x = torch.rand(8, 1, 2, 8, generator=generator(), dtype=torch.float64).to(dtype)
    y = model(x).argmax(1)
    attack = AffinePGD(between, 10, loss=Margin())
    if isinstance(between.a, RotationTranslation):
        ends = (Grid(RT, 3, 5, loss=Margin()), PGD(between.b, 10, loss=Margin()))
        attack = AffinePGD(between, 10, loss=Margin(), ends=ends)
    found = attack(model, x, y, generator())
    assert between.contains(x, found.z).all()
    assert torch.equal(found.image, between.apply(x, found.z))
    rng = generator()
    for end in attack.ends or (attack.end(between.a), attack.end(between.b)):
        assert (found.score >= end(model, x, y, rng).score - 1e-6).all()


def test_share_and_parts_together_find_more_than_drawn_shares():
    model, x, y, l1, linf = document_example()
    between = Affine(l1, linf)
    drawn = torch.rand(4, generator=generator(), dtype=torch.float64)
    w = model.weight.detach().flatten().numpy()
    best_drawn = [best_sum(between, w, x[0].flatten().numpy(), float(s)) for s in drawn]
    found = AffinePGD(between, 100, loss=Margin())(model, x, y, generator())
    assert (found.score + 5 > torch.tensor(best_drawn)).all()


def test_shares_differ_between_examples():
    model, x, y = linear_problem(3, n=8, shape=(1, 4, 5))
    found = AffinePGD(PAIRS[0], 60).between()(model, x, y, generator())
    inner = (found.z[0] > 0.05) & (found.z[0] < 0.95)
    assert found.z[0][inner].unique().numel() > 2


def test_affine_wants_a_ball_second():
    with pytest.raises(ValueError, match="put the ball second"):
        Affine(Linf(0.1), RT)
    with pytest.raises(ValueError, match="Blend must be of two balls"):
        AffinePGD(Blend(RT, Linf(0.1)))
    with pytest.raises(ValueError, match="steps must be positive"):
        AffinePGD(PAIRS[0], 0)
