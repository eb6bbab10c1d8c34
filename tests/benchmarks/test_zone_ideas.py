"""An idea tried behind a dead zone: a bounded loss, in the last passes."""

import torch

from benchmarks.training.ideas import Bounded, Limited
from helpers.every import problem
from mpkit.attacks import WholePixels
from mpkit.sets import L1
from mpkit.training import Random, Single

A = 0.3


def test_the_bounded_loss_is_its_formula_and_tends_to_cross_entropy():
    net, x, y = problem()
    attack, rng = WholePixels(L1(2.0), A, 2, blur=0.0), torch.Generator()
    p = net(attack(net, x, y, rng).image).softmax(1).gather(1, y[:, None])[:, 0]
    assert torch.allclose(Limited(attack, 0.7)(net, x, y, rng), (1 - p**0.7) / 0.7)
    entropy = Single(attack)(net, x, y, rng)
    assert torch.allclose(Limited(attack, 1e-6)(net, x, y, rng), entropy, rtol=1e-4)


def test_it_begins_when_the_first_epochs_are_over():
    attack = WholePixels(L1(2.0), A)
    scheme = Bounded((attack,), (), q=0.7, begin=3)
    assert scheme.at(2, {}) == Random((attack,)) and scheme.at(3, {}) is scheme
    assert scheme.settled(torch.Generator()) == Limited(attack, 0.7)
