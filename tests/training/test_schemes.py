"""Schemes: exact relations between the losses that several attacks give."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from mpkit.attacks import PGD, SLIDE, AttackResult, Clean, Restarts, Worst
from mpkit.models import small_cnn
from mpkit.sets import L1, L2, Linf, RotationTranslation
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
from mpkit.training.curricula import with_budgets
from mpkit.training.recipes import fingerprint
from mpkit.training.schemes import pairing

CALM = [  # attacks that draw nothing, so that they find the same images in every scheme
    PGD(Linf(0.2), steps=2, start=Clean()),
    PGD(L2(1.0), steps=2, start=Clean()),
    SLIDE(L1(3.0), steps=2, start=Clean()),
]
attacks = st.lists(st.sampled_from(CALM), min_size=1, max_size=3).map(tuple)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=5, dtype=torch.float64):
    x = torch.rand(n, 1, 8, 8, generator=rng(3), dtype=dtype)
    return x, torch.arange(n) % 3


@pytest.fixture(scope="module")
def model():
    return small_cnn((1, 8, 8), 3, rng()).double().train()


@dataclass(frozen=True)
class Shift:
    """A toy: adds a constant, and notes the mode in which it saw the model."""

    by: float
    seen: list

    def __call__(self, model, x, y, rng):
        self.seen.append(model.training)
        return AttackResult((x + self.by).clamp(0, 1), None, torch.zeros(len(x)))


def test_natural_is_the_cross_entropy(model):
    x, y = batch()
    losses = Natural()(model, x, y, rng())
    assert torch.equal(losses, cross_entropy(model(x), y, reduction="none"))
    assert losses.shape == (5,) and losses.requires_grad


@pytest.mark.parametrize("attack", CALM)
def test_single_is_the_cross_entropy_at_what_was_found(model, attack):
    x, y = batch()
    image = attack(model, x, y, rng()).image
    expected = cross_entropy(model(image), y, reduction="none")
    assert torch.equal(Single(attack)(model, x, y, rng()), expected)


@settings(max_examples=10, deadline=None)
@given(attacks=attacks)
def test_average_is_the_mean_of_the_single_losses(model, attacks):
    x, y = batch()
    single = torch.stack([Single(attack)(model, x, y, rng()) for attack in attacks])
    average = Average(attacks)(model, x, y, rng())
    torch.testing.assert_close(average, single.mean(dim=0), rtol=1e-13, atol=0)


@settings(max_examples=10, deadline=None)
@given(attacks=attacks)
def test_max_is_the_greatest_single_loss_of_every_example(model, attacks):
    x, y = batch()
    single = torch.stack([Single(attack)(model, x, y, rng()) for attack in attacks])
    worst = Max(attacks)(model, x, y, rng())
    torch.testing.assert_close(worst, single.amax(dim=0), rtol=1e-13, atol=0)
    average = Average(attacks)(model, x, y, rng())
    assert (worst >= average * (1 - 1e-13)).all()


def test_max_compares_losses_not_scores(model):
    x, y = batch()
    far, near = Shift(0.9, []), Shift(0.0, [])
    single = torch.stack([Single(a)(model, x, y, rng()) for a in (far, near)])
    assert single.argmax(dim=0).unique().numel() == 2  # both are worst for some example
    torch.testing.assert_close(Max((far, near))(model, x, y, rng()), single.amax(dim=0))


def logits(n=6, k=3, seed=1):
    return torch.randn(2, n, k, generator=rng(seed), dtype=torch.float64).requires_grad_()


def test_pairing_without_weight_is_max(model):
    x, y = batch()
    worst = Max((CALM[0], CALM[2]))(model, x, y, rng())
    unpaired = LogitPairing(CALM[0], CALM[2], 0.0)(model, x, y, rng())
    torch.testing.assert_close(unpaired, worst, rtol=1e-12, atol=0)
    more = LogitPairing(CALM[0], CALM[2], 2.0)(model, x, y, rng())
    twice = LogitPairing(CALM[0], CALM[2], 4.0)(model, x, y, rng())
    assert (more >= worst).all()
    torch.testing.assert_close(twice - worst, 2 * (more - worst))


def test_pairing_an_attack_with_itself_changes_nothing(model):
    x, y = batch()
    alone = Single(CALM[1])(model, x, y, rng())
    assert torch.equal(LogitPairing(CALM[1], CALM[1], 7.0)(model, x, y, rng()), alone)


def test_the_pairing_term_is_zero_for_equal_answers_and_never_negative():
    first, second = logits()
    y = first.argmax(dim=1)
    assert torch.equal(pairing(first, first, y), torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(pairing(first, first + 3, y), torch.zeros_like(first[:, 0]))
    assert (pairing(first, second, y) > 0).all()


def test_the_pairing_term_is_the_mean_divergence_where_the_first_is_right():
    first, second = logits()
    y = first.argmax(dim=1)
    y[:2] = (y[:2] + 1) % 3  # wrong at the first two of six
    p, q = first.softmax(dim=1), second.softmax(dim=1)
    divergence = (p * (p / q).log()).sum(dim=1)
    term = pairing(first, second, y)
    assert torch.equal(term[:2], torch.zeros(2, dtype=torch.float64))
    torch.testing.assert_close(term.mean(), divergence[2:].mean())
    ahead, behind = torch.autograd.grad(term.sum(), (first, second))
    assert ahead[2:].ne(0).all() and behind[2:].ne(0).all()
    assert not ahead[:2].any() and not behind[:2].any()


def test_the_pairing_term_is_zero_where_nothing_is_right():
    first, second = logits()
    term = pairing(first, second, (first.argmax(dim=1) + 1) % 3)
    assert torch.equal(term, torch.zeros(6, dtype=torch.float64))
    term.sum().backward()


def test_paired_sets_grow_and_bad_weights_are_refused():
    small = RadiusWarmup(LogitPairing(CALM[0], CALM[2]), (0.5,)).at(0, {})
    assert (small.first.set.eps, small.second.set.eps, small.weight) == (0.1, 1.5, 1.5)
    with pytest.raises(ValueError, match="LogitPairing: needs a tuple of at least one attack"):
        LogitPairing(CALM[0], None)
    for weight in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"LogitPairing: weight must be finite.*1\.5"):
            LogitPairing(CALM[0], CALM[2], weight)


def test_random_takes_one_attack_for_the_whole_batch(model):
    x, y = batch()
    single = [Single(attack)(model, x, y, rng()) for attack in CALM]
    drawn = []
    for seed in range(60):
        losses = Random(tuple(CALM))(model, x, y, rng(seed))
        drawn += [i for i, other in enumerate(single) if torch.equal(losses, other)]
    assert len(drawn) == 60 and set(drawn) == {0, 1, 2}


def test_random_respects_its_weights():
    calls = [[], [], []]
    scheme = Random(tuple(Shift(0.0, seen) for seen in calls), (3.0, 0.0, 1.0))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).double()
    x, y = batch(1)
    generator = rng()
    for _ in range(400):
        scheme(net, x, y, generator)
    often, never, seldom = map(len, calls)
    assert never == 0 and often + seldom == 400
    assert 260 < often < 340  # 300 expected; five standard deviations


def test_every_scheme_keeps_each_layers_mode_and_the_gradients_clean():
    net = small_cnn((1, 8, 8), 3, rng()).double().train()
    net[0].eval()
    modes = [module.training for module in net.modules()]
    x, y = batch()
    several = (kind(tuple(CALM)) for kind in (Average, Max, Random))
    for scheme in (Single(CALM[0]), *several, LogitPairing(CALM[0], CALM[2])):
        scheme(net, x, y, rng())
        assert [module.training for module in net.modules()] == modes
        assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("scheme", [Average, Max, Random, Balanced])
@pytest.mark.parametrize("attacks", [(), [], None])
def test_no_attacks_is_an_error_that_says_what_to_do(scheme, attacks):
    with pytest.raises(
        (ValueError, TypeError), match=r"at least one attack|not iterable"
    ) as caught:
        scheme(attacks)
    if attacks is not None:
        assert "Natural()" in str(caught.value)


def test_single_needs_an_attack():
    with pytest.raises(ValueError, match=r"Single: attack must be callable.*Natural\(\)"):
        Single(None)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, -1.0), (0.0, 0.0), (1.0, float("inf"))])
def test_bad_weights(weights):
    with pytest.raises(ValueError, match="Random: weights must be"):
        Random((CALM[0], CALM[1]), weights)


def test_balanced_follows_the_measured_errors():
    scheme = Balanced((("linf", CALM[0]), ("l1", CALM[2])))
    assert scheme.at(0, {}) == Random((CALM[0], CALM[2]))
    measured = {"clean": 1.0, "linf": 0.75, "l1": 0.25, "union": 0.2}
    assert scheme.at(3, measured) == Random((CALM[0], CALM[2]), (0.25, 0.75))
    assert scheme.at(3, {"linf": 1.0, "l1": 1.0}) == Random((CALM[0], CALM[2]))
    with pytest.raises(ValueError, match="does not measure l1"):
        scheme.at(1, {"linf": 0.5})


def test_ramp_scales_every_set_for_the_first_epochs_only():
    attacks = (*CALM, PGD(Linf(0.3), step=0.01))
    ramp = RadiusWarmup(Average(attacks), (0.25, 0.5))
    assert ramp.at(2, {}) == Average(attacks)
    radii = [attack.set.eps for attack in ramp.at(1, {}).attacks]
    assert radii == [0.1, 0.5, 1.5, 0.15]
    assert [attack.set.eps for attack in ramp.at(0, {}).attacks] == [0.05, 0.25, 0.75, 0.075]
    assert ramp.at(0, {}).attacks[3].step == 0.01
    assert Natural().at(0, {}) == Natural()
    nested = RadiusWarmup(Balanced((("linf", CALM[0]),)), (0.5,)).at(0, {"linf": 0.5})
    assert nested == Random((PGD(Linf(0.1), steps=2, start=Clean()),), (0.5,))


def test_with_budgets_reaches_sets_inside_sets():
    wide = RotationTranslation(pixels=2, degrees=10)
    assert with_budgets((wide, Linf(0.5)), 0.5) == (
        RotationTranslation(pixels=1, degrees=5),
        Linf(0.25),
    )


def test_attacks_made_of_attacks_are_scaled_and_told_apart_too():
    worst = Worst((CALM[0], Restarts(CALM[2], 3)))
    half = Worst((with_budgets(CALM[0], 0.5), Restarts(with_budgets(CALM[2], 0.5), 3)))
    assert RadiusWarmup(Single(worst), (0.5,)).at(0, {}) == Single(half)
    assert fingerprint(worst) != fingerprint(half)
    assert fingerprint(worst) != fingerprint(Worst((CALM[0], Restarts(CALM[2], 4))))


@pytest.mark.parametrize("attack", CALM)
def test_the_worst_of_one_attack_is_that_attack(model, attack):
    x, y = batch()
    alone = Single(attack)(model, x, y, rng())
    assert torch.equal(Single(Worst((attack,)))(model, x, y, rng()), alone)
    assert torch.equal(Max((attack,))(model, x, y, rng()), alone)
    assert torch.equal(Average((attack,))(model, x, y, rng()), alone)


def test_ramp_refuses_a_radius_of_zero():
    with pytest.raises(ValueError, match="RadiusWarmup: shares must be positive"):
        RadiusWarmup(Natural(), (0.0,))


def test_schemes_have_fingerprints_that_tell_them_apart():
    schemes = [
        Natural(),
        *(Single(attack) for attack in CALM),
        *(kind(tuple(CALM)) for kind in (Average, Max, Random)),
        Average(tuple(reversed(CALM))),
        Random(tuple(CALM), (1.0, 2.0, 3.0)),
        LogitPairing(CALM[0], CALM[2]),
        LogitPairing(CALM[2], CALM[0]),
        LogitPairing(CALM[0], CALM[2], 2.0),
        RadiusWarmup(Average(tuple(CALM))),
        RadiusWarmup(Average(tuple(CALM)), (0.5,)),
        Single(PGD(Linf(0.2), steps=3, start=Clean())),
        Single(PGD(Linf(0.2), steps=2)),
    ]
    assert len({fingerprint(scheme) for scheme in schemes}) == len(schemes)
