"""Counting what training costs: formulas that hold exactly, and draws that are counted in full."""

import pytest
import torch

from helpers.toys import generator, relu_net
from mpkit.attacks import APGD, MSD, PGD, SLIDE, WorstOfK
from mpkit.models import QueryCounter
from mpkit.sets import L1, L2, Linf, RotationTranslation, Union
from mpkit.studies import catalog
from mpkit.training import (
    Average,
    Balanced,
    LogitPairing,
    Max,
    Natural,
    RadiusWarmup,
    Random,
    Single,
)
from mpkit.training.costs import parts, passes

SHAPE = (1, 6, 6)
BALLS = (Linf(0.1), L2(0.5), L1(2.0))


def searches(k):
    return PGD(BALLS[0], k), PGD(BALLS[1], k), SLIDE(BALLS[2], k)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_the_formulas_of_the_book_count_every_scheme(k):
    """A search looks k + 1 times and differentiates k times; see the chapter on costs."""
    several, n = searches(k), 3
    turned = WorstOfK(RotationTranslation(1, 10), k)
    apgd = APGD(BALLS[2], 2 * k)
    counted = {
        Natural(): (1, 1),
        Single(several[0]): (k + 2, k + 1),
        Single(turned): (k + 1, 1),
        Single(apgd): (2 * k + 2, 2 * k + 1),
        Average(several): (n * (k + 2), n * (k + 1)),
        Max(several): (n * (k + 2) + 1, n * k + 1),
        Random(several): (k + 2, k + 1),
        Single(MSD(Union(*BALLS), k)): (k * (n + 1) + 1, k + 1),
        LogitPairing(several[0], apgd): (3 * k + 6, 3 * k + 2),
        Average((several[0], turned)): (2 * k + 3, k + 2),
        Max((several[0], turned)): (2 * k + 4, k + 1),
    }
    assert {scheme: tuple(passes(scheme, SHAPE)) for scheme in counted} == counted


@pytest.mark.parametrize("name", list(catalog.ABOUT))
def test_every_recipe_is_counted_without_a_draw(name):
    made = catalog.plan(f"digits-{name}", (1, 8, 8))
    assert passes(made.scheme, (1, 8, 8)) == passes(made.scheme, (1, 8, 8), draws=3)


def test_unequal_attacks_drawn_with_equal_chances_cost_their_mean():
    pair = (PGD(BALLS[0], 2), APGD(BALLS[2], 20))
    both = [passes(Single(attack), SHAPE) for attack in pair]
    mean = tuple(sum(one) / 2 for one in zip(*both, strict=True))
    named = Balanced((("linf", pair[0]), ("l1", pair[1])))
    for scheme in (Random(pair), Random(pair, (0.5, 0.5)), named, RadiusWarmup(named)):
        assert tuple(passes(scheme, SHAPE)) == mean


def test_a_choice_with_weights_stays_one_part_and_costs_their_mean():
    pair = (PGD(BALLS[0], 2), PGD(BALLS[0], 20))
    assert parts(Random(pair, (1.0, 0.0))) == (Random(pair, (1.0, 0.0)),)
    assert passes(Random(pair, (1.0, 0.0)), SHAPE) == (4, 3)
    assert passes(RadiusWarmup(Random(pair, (3.0, 1.0))), SHAPE) == (3 / 4 * 4 + 22 / 4, 15 / 2)


def test_a_recipe_with_weights_is_counted_without_a_draw():
    made = catalog.plan("mnist-random@0.3", (1, 28, 28))
    assert passes(made.scheme, (1, 28, 28)) == passes(made.scheme, (1, 28, 28), draws=3)


def test_passes_for_the_weights_are_those_in_training_mode():
    x = torch.rand(4, 1, 4, 4, generator=generator(), dtype=torch.float64)
    model = QueryCounter(relu_net(0, inputs=16, classes=5)).train()
    scheme = Average((PGD(Linf(0.1), 3), PGD(L2(0.5), 3)))
    scheme(model, x, torch.tensor([0, 1, 2, 3]), generator()).sum().backward()
    assert (model.forwards, model.backwards, model.learned) == (4 * 10, 4 * 8, 4 * 2)


def test_longer_searches_leave_the_rest_as_it_is():
    one, other = (passes(Max(searches(k)), SHAPE) for k in (4, 9))
    assert other.forward - one.forward == other.backward - one.backward == 3 * 5
