"""What every attack promises: it stays in its set, keeps its best point and leaves no trace."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.toys import generator, relu_net
from mpkit.attacks import DLR, PGD, SLIDE, Clean, Constant, CrossEntropy, Falling, Margin
from mpkit.attacks.base import Best
from mpkit.sets import L1, L2, Linf

ATTACKS = [
    PGD(Linf(0.2), 5),
    PGD(L2(0.5), 5, loss=Margin()),
    PGD(L1(1.0), 5, start=Clean(), schedule=Falling()),
    PGD(Linf(torch.full((6,), 0.1)), 5, step=0.05),
    SLIDE(L1(1.0), 5, quantile=0.8, loss=DLR()),
]
names = [f"{type(a).__name__}-{type(a.set).__name__}-{i}" for i, a in enumerate(ATTACKS)]
every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=names)


def net_problem(seed=0, n=6, dtype=torch.float64):
    model = relu_net(seed, inputs=8, classes=4, dtype=dtype)
    x = torch.rand(n, 1, 2, 4, generator=generator(seed), dtype=torch.float64).to(dtype)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


@every_attack
def test_more_steps_never_hurt_when_the_path_is_the_same(attack):
    model, x, y = net_problem()
    short = replace(attack, start=Clean(), step=0.05, schedule=Constant(), loss=Margin())
    long = replace(short, steps=3 * short.steps)
    a, b = (one(model, x, y, generator()).score for one in (short, long))
    assert (b >= a).all()
    assert (b > a).any()


def test_a_broken_point_beats_a_greater_score():
    """Cross-entropy can be larger at a point that is still classified well."""
    logits = torch.tensor([[0.34, 0.33, 0.33], [0.45, 0.55, 1e-9]]).log()

    def model(x):
        return logits[(x[:, 0, 0, 0] > 0.5).long()]

    x, y = torch.tensor([0.0]).view(1, 1, 1, 1), torch.tensor([0])
    best = Best.none_yet(x, x)
    for point in (x, x + 1, x):
        score = CrossEntropy()(model(point), y)
        best = best.or_better(Best(point, score, CrossEntropy().reached(model(point), y)))
    assert best.z.item() == 1.0
    assert best.score < CrossEntropy()(model(x), y)


class Exploding(nn.Module):
    def __init__(self, logits):
        super().__init__()
        self.drop = nn.Dropout()
        self.logits = logits

    def forward(self, x):
        return self.logits(x)


def bad_inputs():
    x, y = torch.rand(3, 1, 2, 4), torch.zeros(3, dtype=torch.int64)
    yield "labels too large", x, y + 4, "at least 5 classes, the model gives 4"
    yield "negative labels", x, y - 1, "labels must be ≥ 0, got -1"
    yield "float labels", x, y.float(), "one int64 label for each of the 3 images"
    yield "too few labels", x, y[:2], "one int64 label for each of the 3 images"
    yield "0..255 images", x * 255, y, r"pixels must lie in \[0, 1\]"
    yield "NaN images", x * float("nan"), y, "holds NaN in image 0"
    yield "bytes", (x * 255).byte(), y, "float32 or float64, got torch.uint8"
    yield "half precision", x.half(), y, "float32 or float64, got torch.float16"
    yield "one image", x[0], y[:1], r"batch of images \(B, C, H, W\)"
    yield "empty batch", x[:0], y[:0], "at least one"
    yield "other precision", x.double(), y, "works in torch.float32, the images are torch.float64"
    yield "other device", x, y.to("meta"), "y: is on meta"


@pytest.mark.parametrize(("name", "x", "y", "message"), list(bad_inputs()))
def test_bad_input_is_refused(name, x, y, message):
    model = relu_net(0, inputs=8, classes=4, dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        PGD(Linf(0.1), 2)(model, x, y, generator())


def test_bad_models_and_settings_are_refused():
    x, y = torch.rand(3, 1, 2, 4), torch.zeros(3, dtype=torch.int64)
    attack = PGD(Linf(0.1), 2)
    with pytest.raises(ValueError, match="must return logits of shape"):
        attack(lambda x: x, x, y, generator())
    with pytest.raises(ValueError, match="PGD: score holds NaN or infinity"):
        attack(lambda x: x.flatten(1) * float("nan"), x, y, generator())
    with pytest.raises(ValueError, match="model: is on meta"):
        attack(nn.Linear(2, 2, device="meta"), x, y, generator())
    with pytest.raises(ValueError, match="one radius per image"):
        PGD(Linf(torch.tensor([0.1])), 2)(lambda x: x.flatten(1), x, y, generator())
    for steps in (0, -1):
        with pytest.raises(ValueError, match="PGD: steps must be positive"):
            PGD(Linf(0.1), steps)
    with pytest.raises(ValueError, match=r"SLIDE: step must be positive and finite, got 0\.0"):
        SLIDE(L1(1), 5, step=0.0)
    with pytest.raises(ValueError, match="SLIDE: quantile must lie in"):
        SLIDE(L1(1), 5, quantile=99)


def test_mode_is_restored_after_an_exception():
    model = Exploding(lambda x: x)
    model.train()
    x, y = torch.rand(3, 1, 2, 4), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="logits"):
        PGD(Linf(0.1), 2)(model, x, y, generator())
    assert all(m.training for m in model.modules())


def test_slide_moves_the_share_of_entries_it_says():
    x = torch.zeros(6, 1, 4, 5, dtype=torch.float64)
    attack = SLIDE(L1(1.0), 1, quantile=0.75)
    gradient = torch.randn(x.shape, generator=generator(), dtype=x.dtype)
    step = attack.stride(x + 0.5, gradient, torch.ones(()))
    assert ((step != 0).flatten(1).sum(1) == 5).all()
    torch.testing.assert_close(step.abs().flatten(1).sum(1), x.new_ones(len(x)))
    moved = gradient.abs()[step != 0].view(len(x), -1).amin(1)
    still = gradient.abs().masked_fill(step != 0, 0).flatten(1).amax(1)
    assert (moved >= still).all()
    still = attack.stride(x + 0.5, torch.zeros_like(x), torch.ones(()))
    assert torch.equal(still, torch.zeros_like(x))
    one = replace(attack, quantile=0.999).stride(x + 0.5, gradient, torch.ones(()))
    assert torch.equal(one, L1(1.0).direction(gradient))
