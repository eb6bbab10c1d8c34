"""Bounds: exact on linear networks, never passed by an image, better than intervals."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from helpers import oracles
from helpers.toys import generator, relu_net
from mpkit.certify import BallRegion, BoxRegion, LinearRelaxation, ReluNetwork, intervals
from mpkit.certify.bounds import Interval, before_relus, linear_bound, margins, rivals
from mpkit.models import Normalize, small_cnn, small_mlp
from mpkit.sets import L1, L2, Linf

BALLS = {"Linf": Linf(0.1), "L2": L2(0.3), "L1": L1(0.6)}
SHAPE = (1, 6, 6)


def images(count=4, seed=0):
    x = torch.rand(count, *SHAPE, generator=generator(seed), dtype=torch.float64)
    return torch.where(x < 0.2, 0, torch.where(x > 0.8, 1, x))


def networks():
    """A dense and a convolutional one, with strides, padding and normalization."""
    rng = generator(3)
    conv = nn.Sequential(
        Normalize((0.3,), (0.6,)),
        nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU()),
        nn.Conv2d(3, 4, 2, 2, bias=False),
        nn.ReLU(),
        nn.Dropout(),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    with torch.no_grad():
        for p in conv.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) / 2)
    return {"dense": small_mlp(SHAPE, 5, rng).double(), "convolutional": conv.double()}


def real_margins(network, x, y):
    logits = network(x)
    return logits.gather(1, y[:, None]) - logits.gather(1, rivals(y, network.classes))


@pytest.mark.parametrize("name", networks())
def test_the_network_taken_apart_is_the_network(name):
    model, x = networks()[name].eval(), images()
    network = ReluNetwork.exactly(model, SHAPE)
    torch.testing.assert_close(network(x), model(x))
    v = x.flatten(1)
    for number, (weight, bias) in enumerate(network.dense()):
        v = (v.relu() if number else v) @ weight.T + bias
    torch.testing.assert_close(v, model(x))


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("kind", BALLS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), steps=st.sampled_from([0, 3]))
def test_no_image_of_the_set_passes_a_bound(name, kind, seed, steps):
    model, x, ball = networks()[name].eval(), images(seed=seed), BALLS[kind]
    network = ReluNetwork.exactly(model, SHAPE)
    y, region = network(x).argmax(1), BallRegion(ball, x)
    least, before = LinearRelaxation(steps, steps).both(network, region, y)
    plain = intervals(network, region)
    tops = [x + ball.project(x, 9 * ball.sample(x, generator(seed + k))) for k in range(20)]
    inner = [x + ball.sample(x, generator(seed + k)) for k in range(20)]
    for image in [x, *tops, *inner]:
        assert (real_margins(network, image, y) >= least - 1e-9).all()
        v = image
        for number, group in enumerate(network.groups):
            for layer in group:
                v = layer(v)
            for low, high in [plain[number], *before[number : number + 1]]:
                assert (v >= low - 1e-9).all() and (v <= high + 1e-9).all()
            v = v.relu()


@pytest.mark.parametrize("kind", BALLS)
def test_a_linear_network_is_bounded_exactly(kind):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    x, ball = images(), BALLS[kind]
    network = ReluNetwork.exactly(model, SHAPE)
    y = network(x).argmax(1)
    found = LinearRelaxation().margins(network, BallRegion(ball, x), y)
    now = real_margins(network, x, y)
    weight, others = model[1].weight.detach(), rivals(y, 3)
    for i in range(len(x)):
        for k in range(2):
            w = (weight[others[i, k]] - weight[y[i]]).numpy()
            lost = oracles.best_linear(kind, w, x[i].flatten().numpy(), ball.eps)
            assert float(found[i, k]) == pytest.approx(float(now[i, k]) - lost, abs=1e-9)


@pytest.mark.parametrize("name", networks())
@pytest.mark.parametrize("kind", BALLS)
def test_relaxation_is_better_than_intervals_and_searching_better_still(name, kind):
    x, network = images(8), ReluNetwork.exactly(networks()[name], SHAPE)
    y, region = network(x).argmax(1), BallRegion(BALLS[kind], x)
    plain = intervals(network, region)
    before = before_relus(network, region)
    for loose, tight in zip(plain[:-1], before, strict=True):
        assert (tight.low >= loose.low - 1e-12).all() and (tight.high <= loose.high + 1e-12).all()
    spec = margins(y, network.classes)
    by_intervals = (spec.clamp(min=0) @ plain[-1].low[..., None]) + (
        spec.clamp(max=0) @ plain[-1].high[..., None]
    )
    least = LinearRelaxation().margins(network, region, y)
    searched = LinearRelaxation(0, 8).margins(network, region, y)
    assert (least.mean() > by_intervals.mean()) and (searched >= least - 1e-12).all()
    assert searched.mean() > least.mean()


def test_a_box_of_one_image_gives_its_logits():
    network, x = ReluNetwork.exactly(networks()["convolutional"], SHAPE), images()
    y = network(x).argmax(1)
    found = LinearRelaxation().margins(network, BoxRegion(x, x), y)
    torch.testing.assert_close(found, real_margins(network, x, y))


def test_multipliers_of_known_signs_only_help():
    """A bound with a multiplier for "this neuron is on" holds wherever the neuron is on."""
    network, x = ReluNetwork.exactly(relu_net(4, 36, 3), SHAPE), images(1)
    y, region = network(x).argmax(1), BallRegion(Linf(0.2), x)
    before = before_relus(network, region)
    spec, ball = margins(y, 3), Linf(0.2)
    neuron = int(((before[0].low < 0) & (before[0].high > 0)).nonzero()[0, 1])
    pull = [torch.zeros(1, 2, 12, dtype=torch.float64) for _ in before]
    pull[0][..., neuron] = 0.05
    least = linear_bound(network, region, spec, before, pull=pull)
    for k in range(400):
        image = x + ball.project(x, 3 * ball.sample(x, generator(k)))
        first = image
        for layer in network.groups[0]:
            first = layer(first)
        if first[0, neuron] >= 0:
            assert (real_margins(network, image, y) >= least - 1e-9).all()


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.Flatten(), nn.Linear(36, 4), nn.Sigmoid(), nn.Linear(4, 3)], "Sigmoid is neither"),
        ([nn.Conv2d(1, 2, 3, padding="same"), nn.Flatten()], "zero padding given in numbers"),
        ([nn.Conv2d(1, 2, 3, dilation=2), nn.Flatten()], "no dilation"),
        ([nn.Flatten(), nn.Linear(36, 4), nn.ReLU()], "end the network in a Linear layer"),
        ([nn.Conv2d(1, 2, 3)], "end the network in a Linear layer"),
    ],
)
def test_a_network_of_another_kind_is_refused_with_what_to_do(layers, words):
    with pytest.raises(ValueError, match=words):
        ReluNetwork(nn.Sequential(*layers), SHAPE)


def test_images_and_labels_are_looked_at():
    network = ReluNetwork.exactly(small_mlp(SHAPE, 3, generator()), SHAPE)
    x = images()
    with pytest.raises(ValueError, match="y: must hold one int64"):
        LinearRelaxation().margins(network, BallRegion(Linf(0.1), x), torch.zeros(3))
    with pytest.raises(ValueError, match="one radius per image"):
        BallRegion(Linf(torch.ones(3)), x)


def test_the_maintained_library_agrees():
    """auto-LiRPA, where it can be imported: equal on a dense network, in its norms without a box.

    Without Normalize in front: in l_2 and l_1 its version 0.7.1 takes what lies behind a
    subtraction for unperturbed there. On convolutions its bounds in l_2 and l_1 are looser.
    """
    lirpa = pytest.importorskip("auto_LiRPA")
    perturbations = pytest.importorskip("auto_LiRPA.perturbations")
    x = 0.4 + 0.2 * images()  # the box is far
    for build in (small_mlp, small_cnn):
        model = build(SHAPE, 5, generator(1)).double()[1:]
        network = ReluNetwork.exactly(model, SHAPE)
        y = network(x).argmax(1)
        spec = margins(y, 5)
        for p, ball in ((math.inf, Linf(0.05)), (2.0, L2(0.2)), (1.0, L1(0.3))):
            wrapped = lirpa.BoundedModule(model, torch.empty_like(x))
            image = lirpa.BoundedTensor(x, perturbations.PerturbationLpNorm(norm=p, eps=ball.eps))
            theirs, _ = wrapped.compute_bounds(
                x=(image,), C=spec, method="backward", bound_upper=False
            )
            region, before = BallRegion(ball, x), []
            for shape in network.shapes:  # as the library does, without intervals
                eye = torch.eye(shape.numel(), dtype=torch.float64).view(1, -1, *shape)
                eye = eye.expand(len(x), -1, *shape)
                ends = [linear_bound(network, region, s * eye, before) for s in (1, -1)]
                before.append(Interval(ends[0].view(-1, *shape), -ends[1].view(-1, *shape)))
            ours = linear_bound(network, region, spec, before)
            assert (ours >= theirs - 1e-9).all()
            if build is small_mlp or p == math.inf:
                torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
