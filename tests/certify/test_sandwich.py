"""The sandwich: nothing is both broken and certified, on the digits networks of the package too."""

import pytest
import torch

from helpers.small_runs import rng
from helpers.toys import generator, relu_net
from mpkit import data, models, training
from mpkit.certify import Contradiction, IntervalLoss, LinearRelaxation, Status, certified, sandwich
from mpkit.certify.bounds import BallRegion
from mpkit.certify.network import ReluNetwork
from mpkit.certify.training import worst_logits
from mpkit.evaluation import evaluate, standard
from mpkit.sets import L1, L2, Linf, parse_threat
from mpkit.studies import zoo

THREAT = parse_threat("linf:0.02 + l2:0.1 + l1:0.2 + rt:0.02px,1deg")


def test_parts_add_up_and_contradictions_are_refused():
    net = relu_net(2, inputs=16, classes=4)
    x = torch.rand(30, 1, 4, 4, generator=generator(), dtype=torch.float64)
    y = net(x).argmax(1)
    y[0] = (y[0] + 1) % 4
    ledger = evaluate(net, x, y, standard(THREAT, "quick", 4), generator())
    made = sandwich(net, x, y, THREAT, ledger, LinearRelaxation(3, 3))
    assert made.sets == tuple(one.describe() for one in THREAT.sets)
    for name in (*made.sets, "union"):
        low, high = made.certified(name).value, made.standing(name).value
        assert low <= high
        counts = [(made.of(name) == s).sum() for s in Status]
        assert sum(counts) == len(x) and high == pytest.approx(1 - counts[0] / 30)
    assert made.certified().value > 0 and made.of("union")[0] == Status.BROKEN
    assert made.standing().value == ledger.union_accuracy().value
    with pytest.raises(ValueError, match=r"no set 'l2:9'; there are linf:0.02"):
        made.of("l2:9")
    with pytest.raises(ValueError, match="ledger holds 30 examples"):
        sandwich(net, x[:4], y[:4], THREAT, ledger)
    sure = made.of("linf:0.02") == Status.CERTIFIED
    ledger.broken[1:, sure] = True
    ledger.within[1:, sure] = 0
    with pytest.raises(Contradiction, match=r"certified in linf:0.02 and broken there"):
        sandwich(net, x, y, THREAT, ledger)


DIGITS = sorted(folder.name for folder in (zoo.SHIPPED / "digits").iterdir())


@pytest.mark.parametrize("scheme", [name.removeprefix("digits-") for name in DIGITS])
def test_no_certified_digit_has_a_witness(scheme):
    """At radii where a plain relaxation of the book's convolutional networks still proves some."""
    images = data.load("digits", "test").to("cpu", torch.float64).first(4)
    net = zoo.digits(scheme)
    for ball in (Linf(0.01), L2(0.05), L1(0.1)):
        sure = certified(net, images.x, images.y, ball)
        ledger = evaluate(net, images.x, images.y, standard(ball, "quick"), generator())
        assert not (sure & ledger.broken_at_all()).any()
        assert scheme in ("natural", "rt") or sure.any()


def test_a_union_is_asked_part_by_part():
    net, x = relu_net(0, inputs=16), torch.rand(2, 1, 4, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="ask for every part of a union by itself"):
        certified(net, x, net(x).argmax(1), THREAT)


@pytest.mark.parametrize("ball", [Linf(0.1), L2(0.3), L1(0.5)], ids=lambda b: b.describe())
@pytest.mark.parametrize("build", [models.small_mlp, models.small_cnn])
def test_the_training_bound_is_a_bound_and_not_better_than_the_relaxation(ball, build):
    net = build((1, 6, 6), 4, generator(1)).double()
    x = torch.rand(5, 1, 6, 6, generator=generator(), dtype=torch.float64)
    y = net(x).argmax(1)
    with torch.no_grad():
        worst = worst_logits(ReluNetwork(net, x.shape[1:]), ball, x, y)
    assert (worst.gather(1, y[:, None]) == 0).all()
    network = ReluNetwork.exactly(net, x.shape[1:])
    assert (
        LinearRelaxation().margins(network, BallRegion(ball, x), y).amin(1) >= -worst.amax(1) - 1e-9
    ).all()
    for k in range(30):
        logits = network(x + ball.project(x, 5 * ball.sample(x, generator(k))))
        lead = logits - logits.gather(1, y[:, None])
        assert (lead <= worst + 1e-9).all()


def test_the_loss_is_the_clean_one_at_radius_zero_and_never_less():
    net = models.small_mlp((1, 6, 6), 4, generator(1)).double()
    x = torch.rand(5, 1, 6, 6, generator=generator(), dtype=torch.float64)
    y = net(x).argmax(1)
    clean = training.Natural()(net, x, y, generator())
    near = IntervalLoss((Linf(1e-12), L2(1e-12)))(net, x, y, generator())
    torch.testing.assert_close(near, clean)
    far = IntervalLoss((Linf(0.1), L2(0.3)))(net, x, y, generator())
    assert (far > clean).all()


def test_training_for_certificates_gives_some_in_two_norms():
    images = data.load("digits", "train").to("cpu", torch.float64).first(600)
    net = models.small_mlp(images.shape, 10, rng(0)).double()
    shares = tuple(k / 12 for k in range(1, 12))
    scheme = training.RadiusWarmup(IntervalLoss((Linf(0.06), L2(0.15))), shares)
    training.fit(net, images, scheme, training.Recipe(epochs=20, lr=3e-3), rng(0))
    test = data.load("digits", "test").to("cpu", torch.float64).first(100)
    for ball in (Linf(0.06), L2(0.15)):
        assert certified(net, test.x, test.y, ball, batch=100).double().mean() > 0.25


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IntervalLoss(()), "a tuple of at least one ball"),
        (lambda: IntervalLoss((THREAT,)), "a tuple of at least one ball"),
        (lambda: IntervalLoss((Linf(0.1),), clean=1.0), r"clean must lie in \[0, 1\)"),
    ],
)
def test_senseless_losses_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
