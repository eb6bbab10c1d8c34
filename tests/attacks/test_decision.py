"""Decision-based attacks: allowed results, no trace on global randomness, a known distance."""

import numpy as np
import pytest
import torch

from helpers.toys import Linear, generator, linear_problem, relu_net
from mpkit.attacks import Boundary, HopSkipJump, Pointwise, TargetedMargin
from mpkit.sets import L1, L2, Linf

pytest.importorskip("foolbox")
ATTACKS = [
    Boundary(L2(0.5), steps=60),
    HopSkipJump(L2(0.5), steps=3),
    HopSkipJump(Linf(0.2), steps=3),
    Pointwise(L1(1.0)),
]


def net_problem(dtype=torch.float64):
    model = relu_net(0, inputs=16, classes=5, dtype=dtype)
    x = torch.rand(10, 1, 4, 4, generator=generator(), dtype=torch.float64).to(dtype)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{type(a).__name__}-{a.set}")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_found_is_allowed_and_randomness_is_ours(attack, dtype):
    model, x, y = net_problem(dtype)
    torch.manual_seed(1)
    before, numbers = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    found = attack(model, x, y, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numbers).all()  # noqa: NPY002
    assert attack.set.contains(x, found.z).all()
    assert found.image.dtype == dtype
    torch.testing.assert_close(found.score, attack.loss(model(found.image), y))
    torch.manual_seed(2)
    again = attack(model, x, y, generator(3))
    assert torch.equal(found.image, again.image)


@pytest.mark.parametrize(
    ("kind", "ball", "steps", "factor"),
    [
        (Boundary, L2, 600, 2.5),
        (HopSkipJump, L2, 10, 1.3),
        (HopSkipJump, Linf, 10, 1.3),
        (Pointwise, L1, 1, 1.01),
    ],
)
def test_they_come_near_the_distance_of_a_linear_model(kind, ball, steps, factor):
    """All weights equal: the distance is known in every norm, and the box is far."""
    w = torch.ones(1, 2, 4, dtype=torch.float64)
    x = 0.4 + 0.1 * torch.rand(6, 1, 2, 4, dtype=torch.float64, generator=generator())
    model, y = Linear(w, level=4.0), torch.zeros(6, dtype=torch.int64)
    distance = (4.0 - x.sum((1, 2, 3))) / ball(1.0).dual_norm(w[None])
    found = kind(ball(distance * factor), steps=steps)(model, x, y, generator())
    assert (model(found.image).argmax(1) == 1).all()
    near = kind(ball(distance * 0.95), steps=steps)(model, x, y, generator())
    assert (model(near.image).argmax(1) == 0).all()


def test_targets_are_kept():
    model, x, y = net_problem()
    target = (y + 1) % 5
    found = Boundary(L2(3.0), steps=30, loss=TargetedMargin(target), tries=40)(
        model, x, y, generator()
    )
    hit = model(found.image).argmax(1) == target
    assert hit.any()
    assert torch.equal(found.score > 0, hit)


def test_examples_without_a_start_stay_clean():
    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64)

    def certain(x):
        return torch.stack([x.new_ones(len(x)), x.new_zeros(len(x))], 1)

    found = Boundary(L2(0.5), steps=5)(certain, x, y, generator())
    assert torch.equal(found.image, x)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="use Pointwise"):
        HopSkipJump(L1(1.0))
    with pytest.raises(ValueError, match="Boundary: steps must be positive"):
        Boundary(L2(1.0), steps=0)
    with pytest.raises(ValueError, match="Pointwise: tries must be positive"):
        Pointwise(L1(1.0), tries=0)


def test_a_search_that_would_wait_for_ever_is_ended_with_its_reason():
    """From some question on the model errs no more, and a step is halved for ever."""
    model, x, y = net_problem()
    asked = []

    def tired(images):
        asked.append(1)
        return model(images) if len(asked) < 60 else torch.eye(5, dtype=x.dtype)[y[: len(images)]]

    with pytest.raises(ValueError, match=r"about the same images 100 times .* fix the model's"):
        HopSkipJump(L2(0.5), steps=3)(tired, x, y, generator())


def test_a_model_whose_answers_change_is_refused_in_words():
    """The first image is broken as it is; the others' starts are wrong once, and then right."""
    x, y = linear_problem(3)[1:]
    y[0], asked = 1, []

    def fickle(images):
        asked.extend([1] * (len(images) == 5))
        right = torch.equal(images, x) or len(asked) > 1
        return torch.eye(3, dtype=images.dtype)[[0 if right else 2] * len(images)]

    words = r"HopSkipJump: asked again, .* must depend on the image alone"
    with pytest.raises(ValueError, match=words):
        HopSkipJump(L2(0.5), steps=3)(fickle, x, y, generator())
