"""The benchmark's unseen masks and honest networks do what is said of them."""

import copy

import pytest
import torch
from torch.nn import functional

from benchmarks.masks import unseen, unseen_honest, unseen_learned
from benchmarks.masks.bases import network
from helpers.masked import steep, toy
from helpers.toys import generator
from mpkit import data
from mpkit.attacks import CrossEntropy
from mpkit.attacks.gradients import input_gradient


@pytest.mark.parametrize("kind", unseen.ALONE)
def test_an_unseen_network_answers_nearly_like_its_twin_who_has_a_gradient(kind):
    _, x, _ = toy()
    (make,) = (one[1] for one in unseen.UNSEEN if one[0] == kind)
    network = make(None)
    with torch.no_grad():
        y = network(x).argmax(1)
        assert (network.knowing(x).argmax(1) == y).float().mean() >= 0.75
    assert steep(network.knowing, x, y).all()
    if kind != "coarse to fine":
        assert not steep(network, x, y).any()


def test_a_pair_that_is_named_says_nothing_of_the_others():
    _, x, _ = toy()
    pairs = unseen_learned.alone("coarse to fine")
    (named, other), rest = pairs(x).topk(2, 1).indices.T, pairs(x).sort(1).values[:, :8]
    assert torch.equal(named // 2, other // 2) and (rest == -20).all()


def test_distances_by_spread_are_so_large_that_softmax_is_flat():
    x, train = data.load("digits", "test").x[:60], data.load("digits", "train")
    mask = unseen.Mahalanobis(network("natural"), train)
    with torch.no_grad():
        first, second = mask(x).topk(2, 1).values.T
        y = mask(x).argmax(1)
    sure = first - second > 110
    assert sure.sum() > 10
    seen = input_gradient(mask, CrossEntropy(), x[sure], y[sure]).gradient
    assert (seen == 0).all() and steep(mask, x, y).all()


def test_gradients_of_unseen_masks_are_wrong_in_the_way_that_is_said():
    model, x, _ = toy()
    given = x.clone().requires_grad_(True)
    unseen.LowRank(model, generator())(given).sum().backward()
    assert given.grad.isnan().flatten(1).all(1).any()
    torch.testing.assert_close(
        unseen.LowRank(model, generator()).knowing(x), unseen.LowRank(model, generator())(x)
    )
    weight, images = torch.randn(5, 3, 3, 3), torch.randn(2, 3, 8, 8, requires_grad=True)
    told = unseen._Correlated.apply(images, weight, torch.zeros(5), 2)
    torch.testing.assert_close(told, functional.conv2d(images, weight, None, 2, 1))
    way = torch.randn_like(told)
    (false,) = torch.autograd.grad(told, images, way)
    turned = functional.conv2d(images, weight.flip(2, 3), None, 2, 1)
    torch.testing.assert_close(false, torch.autograd.grad(turned, images, way)[0])


def test_unseen_masks_that_are_no_functions_of_the_image_are_so_in_the_way_that_is_said():
    model, x, _ = toy()
    rota = unseen.Rota(model, generator())
    first, second, third, fourth = (rota(x) for _ in range(4))
    assert torch.equal(first, model(x)) and torch.equal(first, fourth)
    assert not torch.equal(first, second) and not torch.equal(second, third)
    ranged = unseen.Ranged(model, generator())
    assert not torch.allclose(ranged(torch.cat([x, 3 * x]))[:16], ranged(x), atol=1e-3)


def test_known_answers_of_unseen_masks():
    model, x, _ = toy()
    greys = unseen.OwnGreys(model, generator()).shown(x)
    assert max(len(image.unique()) for image in greys) == 3
    torch.testing.assert_close(greys.mean((1, 2, 3)), x.mean((1, 2, 3)))
    clean = unseen.Diffusion(model, generator())
    assert torch.equal(clean.knowing(x), clean(x))
    odds = torch.tensor([[0.0, 4.0], [0.0, 8.0], [0.0, 12.0]])
    told = unseen.ReverseSigmoid(torch.nn.Identity(), generator())(odds)
    assert (told[:, 1] > 0.5).all() and told[0, 1] > told[1, 1] > told[2, 1]


def test_known_answers_of_unseen_networks():
    _, x, _ = toy()
    train = data.load("digits", "train")
    gates = copy.deepcopy(unseen_learned.logic_gates())
    hard = gates(x)
    for choice in gates.choice:
        choice.data *= 1e4
    torch.testing.assert_close(gates.train()(x), hard)
    long = unseen_learned.Hyperdimensional(train, 200)
    sevenths = (7 * x).round() / 7
    torch.testing.assert_close(long.sums(sevenths, True), long.sums(x, False), atol=1e-3, rtol=0)
    one = unseen_learned.Elastic(train, 1)
    torch.testing.assert_close(one.knowing(x), 4 * one(x))
    assert (one(one.known[:, None]).diagonal() == 0).all()
    machine = unseen_learned.SupportVectors(train)
    pairs = machine.pairs(x.double())
    machine.machine.set_params(decision_function_shape="ovo")
    torch.testing.assert_close(pairs, machine(x.double()))


def test_gradients_of_unseen_honest_networks_that_do_not_follow_their_search_are_right():
    drive = torch.randn(3, 6, generator=generator(1), dtype=torch.float64).requires_grad_(True)
    turns = torch.randn(6, 6, generator=generator(2), dtype=torch.float64)
    turns = (turns / turns.abs().sum(1).max() / 2).requires_grad_(True)
    assert torch.autograd.gradcheck(unseen_honest._Rests.apply, (drive, turns))
    x = data.load("digits", "test").x[:2].double().requires_grad_(True)
    assert torch.autograd.gradcheck(unseen_honest.Synthesis(data.load("digits", "train")), (x,))
