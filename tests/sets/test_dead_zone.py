"""The dead zone: its proposition, its inverse, and what the set behind it contains."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.toys import generator, relu_net
from mpkit.attacks import APGD, SLIDE, BehindZone, Margin, StraightThrough
from mpkit.evaluation import evaluate, standard
from mpkit.models import DeadZone, front_in, front_of
from mpkit.models import network as network_of
from mpkit.sets import L1, L2, BehindDeadZone, Linf, parse_threat
from mpkit.sets.dead_zone import back, nearest, ramp

WIDTHS = st.floats(0, 0.45)


def pair(seed, a, binary):
    """Images and images near them, of 12 pixels, in float64."""
    g = generator(seed)
    x = torch.rand(8, 1, 3, 4, generator=g, dtype=torch.float64)
    x = x.round() if binary else x
    far = torch.rand(8, 1, 1, 1, generator=g, dtype=torch.float64)
    other = (x + far * torch.randn(x.shape, generator=g, dtype=torch.float64)).clamp(0, 1)
    return x, other


@given(st.integers(0, 10**6), WIDTHS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_the_proposition(seed, a, binary):
    """Rates 1 / (1 - a) on black and white pixels and 1 / (1 - 2a) on any; nothing up to a."""
    x, other = pair(seed, a, binary)
    z, moved = other - x, ramp(other, a) - ramp(x, a)
    rate = 1 / (1 - a) if binary else 1 / (1 - 2 * a)
    assert (moved.abs() <= z.abs() * rate + 1e-12).all()
    if binary:
        assert (moved[z.abs() <= a] == 0).all()
        free = (z.abs() - a).clamp(min=0) / (1 - 2 * a)
        assert (moved.abs() <= free + 1e-12).all()
    for p in (1, 2):
        norms = [t.flatten(1).norm(p=p, dim=1) for t in (moved, z)]
        assert (norms[0] <= norms[1] * rate + 1e-12).all()


def test_the_rate_is_attained():
    """A black pixel raised to 1 - a moves the output by one."""
    ends = ramp(torch.tensor([0.3, 0.7], dtype=torch.float64), 0.3)
    torch.testing.assert_close(ends, torch.tensor([0, 1], dtype=torch.float64))


@given(st.integers(0, 10**6), WIDTHS)
@settings(max_examples=100, deadline=None)
def test_the_nearest_image_gives_the_output_and_is_nearest(seed, a):
    x, other = pair(seed, a, False)
    u = ramp(other, a)
    near = nearest(x, u, a)
    torch.testing.assert_close(ramp(near, a), u)
    assert ((near - x).abs() <= (other - x).abs() + 1e-12).all()
    torch.testing.assert_close(ramp(back(u, a), a), u, rtol=0, atol=2e-6)


@given(st.integers(0, 10**6), st.floats(0.05, 0.4))
@settings(max_examples=50, deadline=None)
def test_balls_lie_in_the_set_behind_the_dead_zone_on_binary_images(seed, a):
    x, _ = pair(seed, a, True)
    rng = generator(seed)
    for ball in (L1(2.0), L2(1.0)):
        behind = BehindDeadZone(ball.scaled(1 / (1 - a)), a)
        for one in (ball, Linf(a)):
            assert behind.contains(x, one.sample(x, rng)).all()


@pytest.mark.parametrize("width", [-0.1, 0.5, float("nan")])
def test_widths_are_refused(width):
    for make in (DeadZone, lambda a: BehindDeadZone(L1(1.0), a)):
        with pytest.raises(ValueError, match=r"a must lie in \[0, 0.5\)"):
            make(width)


def test_words():
    assert parse_threat("zone(0.3 & l1:14)").parts() == (BehindDeadZone(L1(14.0), 0.3),)
    with pytest.raises(ValueError, match="has no width and ball"):
        parse_threat("zone(l1:14)")


def network():
    """A random network of 12 pixels behind a dead zone, and black and white images it gets."""
    net = torch.nn.Sequential(DeadZone(0.3), relu_net(3, inputs=12))
    x = torch.rand(40, 1, 3, 4, generator=generator(1), dtype=torch.float64).round()
    return net, x, net(x).argmax(1).detach()


def test_a_search_behind_the_zone_sees_what_one_in_front_does_not():
    """On black and white images no gradient passes; on the output it does, and straight through."""
    net, x, y = network()
    blind = APGD(L1(1.5), 40, Margin())(net, x, y, generator())
    behind = BehindZone(APGD(L1(1.5 / 0.7), 40, Margin()), 0.3)(net, x, y, generator())
    straight = StraightThrough(APGD(L1(1.5), 40, Margin()), 0.3)(net, x, y, generator())
    assert BehindDeadZone(L1(1.5 / 0.7), 0.3).contains(x, behind.z).all()
    assert L1(1.5).contains(x, straight.z).all()
    broken = [int((net(one.image).argmax(1) != y).sum()) for one in (blind, straight, behind)]
    assert broken[0] < broken[1] <= broken[2]
    for one in (blind, straight, behind):
        torch.testing.assert_close(Margin()(net(one.image), y), one.score, rtol=0, atol=1e-3)


def test_a_search_behind_the_zone_is_that_of_the_network_alone():
    """The tail of the network, attacked at the output, is broken as often."""
    net, x, y = network()
    attack = SLIDE(L1(2.0), 20, quantile=0.8, loss=Margin())
    found = BehindZone(attack, 0.3)(net, x, y, generator())
    alone = attack(net[1], net[0](x), y, generator())
    torch.testing.assert_close(found.score, alone.score, rtol=0, atol=1e-3)


def test_a_suite_that_knows_of_the_zone_breaks_what_another_does_not():
    net, x, y = network()
    threat = parse_threat("l1:1.5 + linf:0.2")
    left = []
    for front in (None, front_of(net)):
        suite = standard(threat, "quick", 3, front)
        ledger = evaluate(net, x, y, suite, generator(), batch=40)
        left.append(ledger.accuracy("l1:1.5").value)
    names = [entry.name for entry in suite]
    assert {"straight apgd-ce l1:1.5", "behind l1:1.5", "straight pgd linf:0.2"} <= set(names)
    assert left[1] <= left[0]
    told = {g.name: g.broken for g in ledger.gains()}
    assert told["straight pgd l1:1.5"] > 0


def test_a_name_tells_the_width():
    rng = generator()
    made = network_of("small_cnn@0.25")((1, 8, 8), 10, rng)
    assert front_of(made) == front_in("small_cnn@0.25") == 0.25
    assert front_of(made[1]) is front_in("small_cnn") is None
    with pytest.raises(ValueError, match=r"a must lie in \[0, 0.5\)"):
        network_of("small_cnn@0.7")
    with pytest.raises(ValueError, match="'thick' is no width of a dead zone"):
        network_of("small_cnn@thick")
