"""Complete decisions: they agree with every pattern tried, with each other, and with attacks."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from helpers.toys import generator, linear_problem
from mpkit.attacks import APGD, AttackResult, Margin
from mpkit.certify import Decisions, Exact, IntegerProgram, LinearRelaxation, PoseCells, Status
from mpkit.certify.leaves import Leaf, nearest_in_region
from mpkit.certify.network import ReluNetwork
from mpkit.evaluation import verified
from mpkit.sets import L0, L1, L2, Linf, RotationTranslation, Union

SHAPE = (1, 3, 4)
BALLS = {"Linf": Linf(0.12), "L2": L2(0.3), "L1": L1(0.6)}


def tiny(seed, widths):
    """A network on 12 pixels with so few neurons that every pattern of signs can be tried."""
    rng, sizes = generator(seed), (12, *widths, 3)
    layers = [nn.Flatten()]
    for n, m in itertools.pairwise(sizes):
        layers += [nn.Linear(n, m), nn.ReLU()]
    net = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=rng))
    return net


def problem(seed, count=5, widths=(4, 3)):
    net = tiny(seed, widths)
    x = torch.rand(count, *SHAPE, generator=generator(seed + 100), dtype=torch.float64)
    x = torch.where(x < 0.2, 0, torch.where(x > 0.85, 1, x))
    return net, x, net(x).argmax(1)


def by_every_pattern(net, x, y, ball):
    """Whether any pattern of signs, of all there are, holds an image that another class wins."""
    dense = [(d.weight.numpy(), d.bias.numpy()) for d in ReluNetwork.exactly(net, SHAPE).dense()]
    widths, image = [len(b) for _, b in dense[:-1]], x.flatten().numpy()
    for bits in itertools.product((False, True), repeat=sum(widths)):
        on = np.split(np.array(bits), np.cumsum(widths)[:-1])
        told = [np.ones_like(one) for one in on]
        for rival in {0, 1, 2} - {y}:
            spec = np.eye(3)[y] - np.eye(3)[rival]
            worst = Leaf.of(dense, image, on, told, spec).worst(ball)
            if worst is not None:
                return True
    return False


def holds(net, x, y, threat, found: Decisions):
    """Every witness lies in its set and fools the network, by the second word on membership."""
    rows = found.which(Status.BROKEN)
    rows = rows[net(x[rows]).argmax(1) == y[rows]]
    if len(rows):
        image = threat.apply(x[rows], found.z[rows])
        result = AttackResult(image, found.z[rows], y[rows].double())
        image, kept = verified("the witness", threat, x[rows], result)
        assert kept.all() and (net(image).argmax(1) != y[rows]).all()


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("seed", range(2))
def test_it_agrees_with_every_pattern_of_signs(kind, seed):
    net, x, y = problem(seed, 2)
    found = Exact(attack=0)(net, x, y, BALLS[kind])
    for i in range(len(x)):
        assert found.status[i] == (not by_every_pattern(net, x[i], int(y[i]), BALLS[kind]))
    holds(net, x, y, BALLS[kind], found)


@pytest.mark.parametrize("kind", BALLS)
def test_both_answers_occur_and_need_branching(kind):
    """Without an attack and with a poor relaxation, so that the search itself does the work."""
    status, most = [], 0
    for seed in range(4):
        (net, x, y), ball = problem(seed, widths=(9, 6)), BALLS[kind].scaled(0.9)
        poor = Exact(attack=0, relaxation=LinearRelaxation(), steps=1)(net, x, y, ball)
        best = Exact()(net, x, y, ball)
        assert torch.equal(poor.status, best.status)
        status += best.status.tolist()
        most = max(most, int(poor.work.max()))
    assert {0, 1} == set(status) and most > 2  # of two rivals, one at least was split


@pytest.mark.parametrize("kind", ["Linf", "L1"])
@pytest.mark.parametrize("seed", range(2))
def test_integer_programs_agree_with_branch_and_bound(kind, seed):
    net, x, y = problem(seed)
    one, other = (way(net, x, y, BALLS[kind]) for way in (Exact(), IntegerProgram()))
    assert torch.equal(one.status, other.status)
    holds(net, x, y, BALLS[kind], other)


@pytest.mark.parametrize("kind", BALLS)
@pytest.mark.parametrize("seed", range(3))
def test_attacks_break_nothing_that_is_certified(kind, seed):
    net, x, y = problem(seed, 10)
    found = Exact(attack=0)(net, x, y, BALLS[kind])
    attack = APGD(BALLS[kind], 60, Margin())(net, x, y, generator())
    broken = net(attack.image).argmax(1) != y
    assert not (broken & (found.status == Status.CERTIFIED)).any()
    assert not (found.status == Status.UNKNOWN).any()


@pytest.mark.parametrize("kind", BALLS)
def test_a_linear_network_is_decided_at_its_margin(kind):
    """Just below and just above the radius at which the closed form says that it falls."""
    model, x, y = linear_problem(1)
    w = model.weight.detach()
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros(12), w.flatten()]))
        net[1].bias.copy_(torch.tensor([0.0, -float((w * x[0]).sum()) - 0.2]))
    low, high = 0.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        ball = type(BALLS[kind])(middle)
        short = float(ball.support(x[:1], w.view(1, 1, *w.shape))) < 0.2
        low, high = (middle, high) if short else (low, middle)
    for share, status in ((0.999, Status.CERTIFIED), (1.001, Status.BROKEN)):
        ball = type(BALLS[kind])(low * share)
        assert Exact()(net, x[:1], y[:1], ball).status.tolist() == [status]


def test_the_nearest_point_of_a_region_is_that_of_the_projection():
    """One half-space, and two at right angles."""
    one = nearest_in_region(np.array([[3.0, 4.0]]), np.array([10.0]))
    np.testing.assert_allclose(one, [1.2, 1.6])
    two = nearest_in_region(np.eye(2), np.array([1.0, 2.0]))
    np.testing.assert_allclose(two, [1.0, 2.0])
    assert nearest_in_region(np.array([[1.0], [-1.0]]), np.array([1.0, 1.0])) is None


def test_too_few_cases_give_no_answer_but_never_a_wrong_one():
    found = total = 0
    for seed in range(6):
        net, x, y = problem(seed)
        short = Exact(attack=0, relaxation=LinearRelaxation(), cases=1)(net, x, y, Linf(0.12))
        whole = Exact()(net, x, y, Linf(0.12))
        unknown = short.status == Status.UNKNOWN
        assert torch.equal(short.status[~unknown], whole.status[~unknown])
        found, total = found + int(unknown.sum()), total + len(x)
    assert 0 < found < total


def test_an_example_that_is_wrong_when_clean_is_broken_by_nothing():
    net, x, y = problem(0)
    found = Exact()(net, x, (y + 1) % 3, Linf(0.01))
    assert (found.status == Status.BROKEN).all() and not found.z.any()


@pytest.mark.parametrize(
    ("way", "threat", "words"),
    [
        (Exact(), Linf(torch.full((5,), 0.1)), "Exact: ball must be Linf, L2 or L1 with a number"),
        (Exact(), L0(3), "Exact: ball must be Linf, L2 or L1"),
        (Exact(), Union(Linf(0.1)), "Exact: ball must be"),
        (IntegerProgram(), L2(0.1), "IntegerProgram: ball must be Linf or L1, got L2; take Exact"),
        (PoseCells(), Linf(0.1), "balls are decided by Exact"),
        (Exact(), RotationTranslation(1, 10), "decided by PoseCells"),
    ],
)
def test_other_sets_are_refused_with_what_to_take(way, threat, words):
    net, x, y = problem(0)
    with pytest.raises(ValueError, match=words):
        way(net, x, y, threat)


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="Exact: cases must be positive"):
        Exact(cases=0)
    with pytest.raises(ValueError, match="IntegerProgram: seconds must be positive"):
        IntegerProgram(seconds=-1)
    with pytest.raises(ValueError, match="PoseCells: width must be positive"):
        PoseCells(width=0)
