"""The rank zone: its width, its proposition, what it refuses, and the attacks that know of it."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.toys import generator, relu_net
from mpkit.attacks import PGD, BelowRank
from mpkit.evaluation import evaluate, standard
from mpkit.models import RankRule, RankZone, front_in, front_of, load_model
from mpkit.models import network as network_of
from mpkit.sets import L1, L2, Linf

PIXELS, RULE = 36, RankRule()


def drawing(seed, rows=6):
    """Images of black and white pixels, in float64."""
    x = torch.rand(rows, 1, 6, 6, generator=generator(seed), dtype=torch.float64)
    return (x > 0.6).to(torch.float64)


def by_hand(x, rank, most, exempt):
    """The output for one image (1, H, W), pixel by pixel."""
    _, height, width = x.shape
    greys = []
    for i in range(height):
        for j in range(width):
            near = [(i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)]
            near = [(a, b) for a, b in near if 0 <= a < height and 0 <= b < width]
            beside = [x[0, a, b].item() for a, b in [(i, j), *near]]
            on = min(beside) <= most and max(beside) >= 1 - most
            grey = min(x[0, i, j].item(), 1 - x[0, i, j].item())
            greys.append(0.0 if on and exempt else grey)
    a = min(most, sorted(greys, reverse=True)[rank - 1])
    return ((x - a) / (1 - 2 * a)).clamp(0, 1)


@given(st.integers(0, 10**6), st.integers(1, PIXELS), st.booleans())
@settings(max_examples=100, deadline=None)
def test_it_is_a_dead_zone_as_wide_as_the_pixel_of_the_rank_is_grey(seed, rank, exempt):
    x = torch.rand(3, 1, 6, 6, generator=generator(seed), dtype=torch.float64)
    expected = torch.stack([by_hand(one, rank, 0.3, exempt) for one in x])
    torch.testing.assert_close(
        RankZone(RankRule(rank, 0.3, exempt))(x), expected, rtol=0, atol=1e-12
    )


@given(st.integers(0, 10**6), st.integers(1, 6), st.floats(0.01, 0.45), st.floats(0.05, 1))
@settings(max_examples=300, deadline=None)
def test_the_proposition(seed, eps, most, crowded):
    """Where all pixels count, the l_1 ball holds it and l_2; l_inf moves fewer than the rank."""
    x, rng = drawing(seed), generator(seed + 1)
    zone = RankZone(RankRule(2 * eps, most, exempt=False))
    moves = torch.rand(x.shape, generator=rng, dtype=torch.float64) < crowded
    size = torch.rand(x.shape, generator=rng, dtype=torch.float64) * moves
    near = L1(float(eps)).project(x, (1 - 2 * x) * size * PIXELS)
    assert (zone(x + near) - x).abs().flatten(1).sum(1).max() <= eps + 1e-9
    small = (1 - 2 * x) * size * most
    moved = (zone(x + small) - x).abs().flatten(1)
    assert ((moved > 1e-12).sum(1) < 2 * eps).all() and moved.max() <= most
    assert moved.sum(1).max() <= (2 * eps - 1) * most
    wide = RankZone(RankRule(2 * eps, max(most, 0.25), exempt=False))
    near = L2(math.sqrt(2 * eps) / 2).project(x, (1 - 2 * x) * size * PIXELS)
    assert (wide(x + near) - x).abs().flatten(1).sum(1).max() <= eps + 1e-9


@pytest.mark.parametrize("width", [0.0, 0.1, 0.2, 0.3])
def test_the_bound_in_l1_is_attained_at_every_width(width):
    """So many pixels turned, and others grey, that both cost the whole radius."""
    eps, x = 5, torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    z = torch.zeros(1, PIXELS, dtype=torch.float64)
    z[:, :eps], z[:, eps : 2 * eps] = 1 - width, width
    assert z.sum() == pytest.approx(eps)
    zone = RankZone(RankRule(2 * eps, exempt=False))
    assert zone(x + z.view_as(x)).sum() == pytest.approx(eps)


@given(st.integers(0, 10**6), st.integers(1, PIXELS))
@settings(max_examples=50, deadline=None)
def test_every_pixel_has_a_slope(seed, rank):
    x = torch.rand(3, 1, 6, 6, generator=generator(seed), dtype=torch.float64).requires_grad_()
    rule = RankRule(rank)
    out, a = RankZone(rule)(x), rule.width(x.detach())
    (slope,) = torch.autograd.grad(out.sum(), x)
    on_ramp = (out > 0) & (out < 1)
    expected = torch.where(on_ramp, 1 / (1 - 2 * a), 1 / (1 - a))
    torch.testing.assert_close(slope, expected)


def test_pixels_on_the_border_may_be_grey():
    x, one = torch.zeros(1, 1, 6, 6), RankRule(1)
    x[..., 2:] = 1
    assert one.border(x)[0, 0].nonzero()[:, 1].unique().tolist() == [1, 2]
    x[..., 2] = 0.6  # between black and white: the column itself is left
    assert one.border(x)[0, 0].nonzero()[:, 1].unique().tolist() == [2]
    assert one.width(x) == 0 and RankRule(1, exempt=False).width(x) == pytest.approx(0.3)
    x[0, 0, 3, 5] = 0.9
    assert one.width(x) == pytest.approx(0.1)


def test_what_is_no_zone_is_refused():
    with pytest.raises(ValueError, match=r"a must lie in \[0, 0.5\)"):
        RankRule(20, 0.5)
    with pytest.raises(ValueError, match="rank must be at least 1, got 0; try 20"):
        RankRule(0)
    with pytest.raises(ValueError, match="rank 37 is more than the 36 values of an image"):
        RankZone(RankRule(37))(drawing(0))


def test_names_of_networks_tell_of_the_zone():
    made = network_of("small_mlp@rank12")((1, 8, 8), 10, generator(0))
    assert front_of(made) == made[0].rule == RankRule(12, 0.3)
    assert front_in("small_mlp@rank12") == RankRule(12)
    for name in ("small_mlp@rank", "small_mlp@rank-3", "small_mlp@rankten"):
        with pytest.raises(ValueError, match="is no width of a dead zone"):
            front_in(name)
    with pytest.raises(ValueError, match="comes without weights"):
        load_model("small_mlp@rank12", None, (1, 8, 8), 10)


@given(st.integers(0, 10**6), st.sampled_from([Linf(0.3), L1(4.0), L2(1.2)]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_what_stays_below_the_rank_is_allowed_and_leaves_the_width_alone(seed, ball, exempt):
    x, rng, rule = drawing(seed), generator(seed), RankRule(6, exempt=exempt)
    net = torch.nn.Sequential(RankZone(rule), relu_net(seed, inputs=PIXELS)).double()
    y = net(x).argmax(1)
    for width, rounds in itertools.product((0.0, 0.2), (1, 3)):
        left = BelowRank.left(ball, rule, width)
        attack = BelowRank(PGD(left, 5), ball, rule, width, rounds)
        found = attack(net, x, y, rng)
        assert attack.set == ball and ball.contains(x, found.z).all()
        if ball.order == math.inf and rounds == 1:  # black stays black, so that the border stays
            count = (~rule.border(x)).flatten(1).sum(1)
            assert (rule.width(found.image).flatten() <= width + 1e-9)[count >= 11].all()


def test_what_a_width_costs():
    assert BelowRank.left(Linf(0.3), RULE, 0.3) == Linf(0.3)
    assert BelowRank.left(L1(10.0), RULE, 0.0) == L1(10.0)
    assert BelowRank.left(L1(10.0), RULE, 0.3).eps == pytest.approx(4)
    assert BelowRank.left(L2(2.0), RULE, 0.3).eps == pytest.approx(math.sqrt(2.2))
    for ball, width in ((L1(10.0), 0.5), (L1(torch.ones(3)), 0.1)):
        assert BelowRank.left(ball, RULE, width) is None


@pytest.mark.parametrize(("most", "count"), [(0.0, 1), (0.01, 5), (0.3, 5)])
def test_a_suite_has_one_search_for_each_width(most, count):
    names = [one.name for one in standard(Linf(0.3), "quick", 10, RankRule(20, most))]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("below-") for name in names) == count


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds must be positive"):
        BelowRank(PGD(Linf(0.3), 2), Linf(0.3), RULE, rounds=0)


def test_a_suite_that_knows_of_it_begins_below_the_rank():
    """A network that sums the pixels: l_inf on all is lost in the zone, on eleven it is not."""

    class Light(torch.nn.Module):
        def forward(self, u):
            total = u.flatten(1).sum(1, keepdim=True)
            return torch.cat([2.5 - total, total - 2.5], dim=1)

    net = torch.nn.Sequential(RankZone(RankRule(12, exempt=False)), Light())
    x, y = torch.zeros(4, 1, 6, 6), torch.zeros(4, dtype=torch.int64)
    suite = standard(Linf(0.3), "quick", 2, front_of(net))
    ledger = evaluate(net, x, y, suite, generator(0))
    assert ledger.union_accuracy()[0] == 0 and "below-0" in ledger.gains()[0].name
