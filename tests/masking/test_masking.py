"""The parts of the doctor, by facts that are known exactly, and the obfuscated networks."""

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.masks.unusual import NamesOnly, Remembers, Watches
from helpers.toys import Linear, generator, linear_problem, relu_net
from mpbook.teaching import obfuscated
from mpkit import masking
from mpkit.attacks import PGD, CrossEntropy, Margin
from mpkit.attacks.base import Problem
from mpkit.attacks.gradients import guard, input_gradient
from mpkit.core.progress import Quiet
from mpkit.masking import (
    EOT,
    Evidence,
    Sanitized,
    SetReport,
    Weight,
    assess,
    curves,
    find_bpda,
    probes,
)
from mpkit.masking.case import Case, Contest, at_least
from mpkit.masking.remedies import labels_alone
from mpkit.masking.wrappers import Assessed, Forgetful, TemperatureScaled
from mpkit.models import small_cnn
from mpkit.sets import L1, L2, Linf, RotationTranslation, Union

TINY = masking.Effort(steps=4, queries=8, estimates=2, directions=4, draws=2, decisions=0)
BALLS = [Linf(0.2), L2(0.7), L1(1.5)]


def digits_like(n=24, dtype=torch.float32):
    """A network with random weights and images that it labels itself."""
    model = small_cnn((1, 8, 8), 5, generator(3)).to(dtype).eval()
    x = torch.rand(n, 1, 8, 8, generator=generator(4), dtype=dtype)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def gradient(model, x, y, loss=None):
    return input_gradient(model, loss or Margin(), x, y).gradient


class Broken(nn.Module):
    """A network whose gradients are not finite, or not there."""

    def __init__(self, network, spoil):
        super().__init__()
        self.network, self.spoil = network, spoil

    def forward(self, x):
        return self.network(self.spoil(x))


SPOILS = {
    "nan": lambda x: x + (x - x.detach()).pow(2).sqrt(),
    "detached": lambda x: x.detach(),
    "numpy": lambda x: torch.from_numpy(x.numpy()),
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_tame_model_has_the_same_logits_and_a_finite_gradient(name):
    model, x, y = digits_like()
    sanitized = Sanitized(Broken(model, SPOILS[name]))
    with torch.no_grad():
        assert torch.equal(sanitized(x), model(x))
    assert torch.equal(gradient(sanitized, x, y), torch.zeros_like(x))


def test_taming_an_honest_model_changes_nothing():
    model, x, y = digits_like()
    for loss in (Margin(), CrossEntropy()):
        assert torch.equal(gradient(Sanitized(model), x, y, loss), gradient(model, x, y, loss))


def test_the_mean_over_draws_is_the_mean():
    model, x, _ = digits_like(dtype=torch.float64)
    calls = []

    class Counting(nn.Module):
        def forward(self, images):
            calls.append(len(calls))
            return model(images) * len(calls)

    averaged = EOT(Counting(), 3, 0.0, generator())
    torch.testing.assert_close(averaged(x), 2 * model(x))
    assert len(calls) == 3


def test_judging_asks_afresh_and_the_majority_counts():
    answers = iter([[0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])

    def model(x):
        return torch.tensor([next(answers)]).to(x)

    assessed = assess(model, torch.zeros(1, 1, 2, 2), torch.tensor([0]), 3)
    assert assessed.wrong.tolist() == [True]
    assert assessed.margin.tolist() == [1.0]


def test_nan_logits_count_as_wrong_even_for_class_zero():
    x, y = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])
    assert assess(lambda x: torch.full((2, 3), torch.nan), x, y, 1).wrong.all()


def test_the_sign_test_is_that_of_a_fair_coin():
    assert at_least(0, 7) == 1
    assert at_least(7, 7) == 2**-7
    assert at_least(3, 4) == 5 / 16
    for n in range(1, 12):
        for k in range(n + 1):
            both = at_least(k, n) + at_least(n - k + 1, n)
            assert both == pytest.approx(1)


def assessed(margins, wrong):
    return Assessed(torch.tensor(margins), torch.tensor(wrong))


def test_a_contest_counts_pairs():
    clean = assessed([-4.0] * 4, [False] * 4)
    control = assessed([-1.0, 1.0, -2.0, -2.0], [False, True, False, False])
    challenger = assessed([1.0, -1.0, -1.0, -2.05], [True, False, False, False])
    counted = Contest.between(("a", "b"), 9, clean, control, challenger)
    assert (counted.gained, counted.lost, counted.higher, counted.lower) == (1, 1, 2, 1)
    assert (counted.total, counted.entered) == (9, 4)


def test_a_contest_is_fair_to_both_sides():
    g = generator(1)
    a, b = (assessed(m.tolist(), (m > 0).tolist()) for m in torch.randn(2, 40, generator=g))
    clean = assessed([-2.0] * 40, [False] * 40)
    one = Contest.between(("a", "b"), 40, clean, a, b)
    other = Contest.between(("b", "a"), 40, clean, b, a)
    assert (one.gained, one.lost, one.higher) == (other.lost, other.gained, other.lower)
    assert not (one.won and other.won)


@pytest.mark.parametrize(("gained", "lost", "won"), [(2, 0, False), (9, 0, True), (9, 8, False)])
def test_only_a_clear_lead_wins(gained, lost, won):
    assert Contest("a", "b", 50, 50, gained, lost, 0, 0).won == won


def test_averaged_differences_of_a_linear_model_are_its_gradient():
    model, x, y = linear_problem(0, dtype=torch.float64)
    attack = masking.NES(L2(0.5), directions=4000, scales=(0.01,))
    inner = 0.1 + 0.8 * x
    problem = Problem(guard(model, 2, y), inner, y, generator())
    estimate = attack.uphill(problem, inner, 0).flatten(1)
    true = gradient(model, inner, y).flatten(1)
    assert (torch.cosine_similarity(estimate, true) > 0.98).all()


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_ascent_along_its_own_gradient_is_as_good_as_pgd(ball):
    model, x, y = linear_problem(1)
    free, led = (
        attack(model, x, y, generator()).score
        for attack in (PGD(ball, 60, loss=Margin()), masking.TransferPGD(ball, 60, guide=model))
    )
    torch.testing.assert_close(led, free, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("ball", BALLS, ids=str)
@pytest.mark.parametrize("kind", ["guided", "smoothed"])
def test_what_directed_ascent_finds_is_allowed(ball, kind):
    model, x, y = digits_like(6)
    attack = {
        "guided": masking.TransferPGD(ball, 5, guide=model),
        "smoothed": masking.NES(ball, 5, directions=4),
    }[kind]
    found = attack(model, x, y, generator())
    assert ball.contains(x, found.z).all()
    with torch.no_grad():
        torch.testing.assert_close(found.score, Margin()(model(found.image), y))


def test_a_guide_is_needed():
    with pytest.raises(ValueError, match="guide"):
        masking.TransferPGD(Linf(0.1))


def wards(model, x):
    """Patients whose predictions must be those of the network on these images."""
    return {
        "saturated": (obfuscated.Saturated(model), x),
        "probabilities": (obfuscated.Probabilities(model), x),
        "detached": (obfuscated.Detached(model), x),
        "flipped": (obfuscated.Flipped(model), x),
        "quantised": (obfuscated.Quantised(model, 5), (x * 4).round() / 4),
        "thresholded": (obfuscated.Thresholded(model), x.round()),
        "fine waves": (obfuscated.RoundedWaves(model, 1e-9), x),
        "still": (obfuscated.Noisy(model, generator(), 0.0), x),
        "unshaken": (obfuscated.Shaken(model, generator(), 0.0, 0.0), x),
        "fine stairs": (obfuscated.with_steps(model, 1e-9), x),
        "batch statistics": (obfuscated.with_batch_statistics(model, x), x),
    }


@pytest.mark.parametrize("name", wards(*digits_like()[:2]))
def test_patients_predict_what_their_network_does(name):
    model, x, _ = digits_like(dtype=torch.float64)
    patient, images = wards(model, x)[name]
    patient.eval()
    with torch.no_grad():
        assert torch.equal(patient(images).argmax(1), model(images).argmax(1))


def test_how_the_patients_hide_their_gradients():
    model, x, y = digits_like(dtype=torch.float64)
    true = gradient(model, x, y)
    zero = torch.zeros_like(x)
    assert torch.equal(gradient(obfuscated.Flipped(model), x, y), -true)
    for patient in (
        obfuscated.Quantised(model),
        obfuscated.Thresholded(model),
        obfuscated.RoundedWaves(model),
    ):
        assert torch.equal(gradient(Sanitized(patient), x, y), zero)
    assert torch.equal(gradient(obfuscated.with_steps(model), x, y), zero)
    steep = obfuscated.Saturated(model, 1e6)
    sure = (gradient(steep, x, y, CrossEntropy()) == 0).flatten(1).all(1)
    assert sure.double().mean() > 0.9
    torch.testing.assert_close(gradient(steep, x, y), 1e6 * true)


def test_the_cosine_transform_is_orthogonal():
    for n in (1, 4, 8, 28):
        torch.testing.assert_close(
            obfuscated.cosines(n) @ obfuscated.cosines(n).T, torch.eye(n, dtype=torch.float64)
        )


def test_an_honest_network_needs_no_detour():
    model, x, _ = digits_like()
    assert find_bpda(model, x, generator()) is None
    assert find_bpda(lambda images: model(images), x, generator()) is None


@pytest.mark.parametrize("name", ["detached", "flipped", "saturated", "probabilities"])
def test_the_detour_has_the_gradient_of_the_network_inside(name):
    model, x, y = digits_like(dtype=torch.float64)
    patient, images = wards(model, x)[name]
    detour = find_bpda(patient, images, generator())
    torch.testing.assert_close(gradient(detour, images, y), gradient(model, images, y))


def test_the_detour_goes_round_a_staircase():
    model, x, y = digits_like(dtype=torch.float64)
    detour = find_bpda(obfuscated.with_steps(model, 0.25), x, generator())
    assert "Staircase" in detour.found[0]
    toward = torch.cosine_similarity(
        gradient(detour, x, y).flatten(1), gradient(model, x, y).flatten(1)
    )
    assert toward.median() > 0.8


def test_the_detour_looks_at_the_real_forward_pass():
    model, x, y = digits_like(dtype=torch.float64)
    rounded = (x * 4).round() / 4
    detour = find_bpda(obfuscated.Quantised(model, 5), x, generator())
    torch.testing.assert_close(detour(x), model(rounded))
    torch.testing.assert_close(gradient(detour, x, y), gradient(model, rounded, y))


def test_no_hook_is_left_behind():
    model, x, y = digits_like()
    patient = obfuscated.Quantised(model)
    gradient(find_bpda(patient, x, generator()), x, y)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in patient.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_smooth_model_keeps_its_gradient_s_promise(dtype):
    model, x, y = digits_like(40, dtype)
    smooth = nn.Sequential(*(nn.Softplus() if isinstance(m, nn.ReLU) else m for m in model))
    found = curves.truth(smooth, x, y, generator())
    assert [e.weight for e in found] == [Weight.FINE] * len(found)
    assert found[-1].rate.value == 0


def test_a_flipped_gradient_breaks_its_promise():
    model, x, y = digits_like(40)
    found = curves.truth(obfuscated.Flipped(model), x, y, generator())
    assert found[-1].weight == Weight.SIGN
    assert found[-1].rate.value == 1


def test_randomness_and_company_are_noticed():
    model, x, _ = digits_like(40)
    assert probes.randomness(model, x).weight == Weight.FINE
    assert probes.batch_dependence(model, x).weight == Weight.FINE
    noisy = obfuscated.Noisy(model, generator(), 0.5)
    assert probes.randomness(noisy, x).weight == Weight.SIGN
    assert (
        probes.batch_dependence(obfuscated.with_batch_statistics(model, x), x).weight
        == Weight.PROOF
    )


def test_missing_and_wild_gradients_are_told_apart():
    model, x, y = digits_like(20)
    told = probes.presence(Broken(model, SPOILS["nan"]), x, y)[0].finding
    assert "not finite 100%" in told
    told = probes.presence(Broken(model, SPOILS["detached"]), x, y)[0].finding
    assert "zero 100%" in told


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_the_largest_ball_holds_every_image(ball):
    x, other = torch.zeros(3, 2, 4, 4), torch.ones(3, 2, 4, 4)
    assert ball.everything(x).contains(x, other - x).all()


@pytest.mark.parametrize("ball", BALLS, ids=str)
def test_the_landscape_of_a_linear_model(ball):
    g = generator(5)
    w = torch.randn(1, 3, 4, generator=g, dtype=torch.float64)
    x = 0.4 + 0.2 * torch.rand(6, 1, 3, 4, generator=g, dtype=torch.float64)
    y, small = torch.zeros(6, dtype=torch.int64), ball.scaled(0.1)
    up, anywhere = masking.landscape(Linear(w), x, y, small, generator(), points=5)
    assert torch.equal(up[:, 0], anywhere[:, 0])
    gain = small.eps * small.dual_norm(w[None])
    torch.testing.assert_close(up[:, -1] - up[:, 0], gain.expand(6))
    assert (anywhere[:, -1] <= up[:, -1] + 1e-12).all()


def test_the_heaviest_evidence_decides():
    every = (Evidence(w.name, "x", w, "do " + w.name) for w in Weight)
    missing, fine, tip, sign, proof = every

    def verdict(*evidence, general=()):
        return SetReport(Linf(0.1), evidence, {}, general)

    assert verdict(fine).verdict == verdict(tip).verdict == masking.Verdict.NO_SIGN
    assert verdict(fine, sign).verdict == masking.Verdict.SUSPICIOUS
    assert verdict(fine, general=(proof,)).verdict == masking.Verdict.MASKED
    assert verdict(sign, proof, fine).advice == ("do PROOF",)
    assert verdict(fine).reasons == ()
    assert verdict(missing).verdict == verdict().verdict == masking.Verdict.NO_SIGN
    assert verdict(missing, sign).reasons == (sign,)


def test_what_cannot_be_diagnosed_is_refused():
    model, x, y = digits_like(12)
    with pytest.raises(ValueError, match="right on 0 of 12"):
        masking.diagnose(model, x, (y + 1) % 5, Linf(0.1), generator())
    with pytest.raises(ValueError, match="steps"):
        masking.Effort(steps=0)
    with pytest.raises(ValueError, match="float64"):
        masking.diagnose(model, x.double(), y, Linf(0.1), generator())


BAD = {
    "unequal": (lambda x, y: (x, y[:5]), "one int64 label for each of the 12"),
    "negative": (lambda x, y: (x, y - 6), "labels must be ≥ 0"),
    "too many classes": (lambda x, y: (x, y + 9), "need at least"),
    "bright": (lambda x, y: (2 * x, y), "pixels must lie in"),
    "empty": (lambda x, y: (x[:0], y[:0]), "skip empty batches"),
    "flat": (lambda x, y: (x[0], y), "batch of images"),
    "bytes": (lambda x, y: ((255 * x).byte(), y), "float32 or float64"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_and_labels_are_named(name):
    spoil, words = BAD[name]
    model, x, y = digits_like(12)
    with pytest.raises(ValueError, match=words):
        masking.diagnose(model, *spoil(x, y), Linf(0.1), generator(), TINY)


def test_models_that_do_not_fit_are_named():
    model, x, y = digits_like(12)
    ask = (x, y, Linf(0.1), generator(), TINY)
    with pytest.raises(ValueError, match="model: is on meta, the images are on cpu"):
        masking.diagnose(small_cnn((1, 8, 8), 5, generator()).to("meta"), *ask)
    with pytest.raises(ValueError, match=r"must return logits of shape \(12, classes\)"):
        masking.diagnose(lambda images: images, *ask)
    with pytest.raises(ValueError, match=r"right on 0 of 12 images .logits are not finite for 12"):
        masking.diagnose(lambda images: model(images) * torch.nan, *ask)
    with pytest.raises(ValueError, match="decisions"):
        masking.Effort(decisions=-1)


def test_some_nan_logits_are_reported_and_count_as_broken():
    model, x, y = digits_like(30)

    def sometimes(images):
        dark = (images.flatten(1)[:, :1] < 0.2).to(images)
        return model(images) + torch.where(dark > 0, torch.nan, 0)

    lost = int((x.flatten(1)[:, 0] < 0.2).sum())
    assert 0 < lost < 15
    report = masking.diagnose(sometimes, x, y, L2(0.1), generator(), TINY)
    assert (report.points, report.right) == (30, 30 - lost)
    assert f"not finite for {lost} of 30 images" in report.text()


def test_whole_number_logits_are_fine():
    model, x, y = digits_like(16)

    def ask(images):
        return (1000 * model(images)).round().long()

    assert masking.diagnose(ask, x, y, L2(0.1), generator(), TINY).right >= 15


class Told(Quiet):
    """Remembers what it is told."""

    def __init__(self):
        self.total = self.done = 0
        self.notes, self.over = [], False

    def start(self, total, done):
        self.total = total

    def advance(self, steps, note):
        self.done += steps
        self.notes.append(note)

    def close(self):
        self.over = True


def test_progress_reaches_its_end_and_is_closed_after_an_error_too():
    model, x, y = digits_like(12)
    told, threat = Told(), Union(L2(0.1), RotationTranslation(0.5, 5))
    masking.diagnose(model, x, y, threat, generator(), TINY, progress=told)
    assert told.done == told.total > 0
    assert "first-order attacks" in told.notes
    told = Told()
    with pytest.raises(ValueError, match="right on 0"):
        masking.diagnose(model, x, (y + 1) % 5, threat, generator(), TINY, progress=told)
    assert told.over


def case_of(model, x, y, decisions, draws=1):
    effort = replace(TINY, decisions=decisions)
    return Case(model, Sanitized(model), x, y, generator(), effort, draws)


@pytest.mark.parametrize("ball", [Linf(0.15), L2(0.6), L1(2.5)], ids=str)
def test_labels_alone_break_what_hides_its_scores(ball):
    pytest.importorskip("foolbox")
    model, x, y = digits_like(30)
    named = NamesOnly(model, classes=5)
    nothing = assess(named, x, y, 1)
    found = labels_alone(case_of(named, x, y, 20), ball, nothing, 30, "nobody")
    assert found.wrong[:20].sum() >= 9
    assert not found.wrong[20:].any()
    assert found.evidence.weight == Weight.PROOF
    assert "asked about" in found.evidence.finding
    everybody = nothing._replace(wrong=~nothing.wrong)
    fair = labels_alone(case_of(named, x, y, 20), ball, everybody, 30, "all")
    assert fair.evidence.weight == Weight.FINE


def test_labels_alone_are_not_asked_in_vain(monkeypatch):
    model, x, y = digits_like(12)
    nobody = assess(model, x, y, 1)

    def told(case):
        evidence = labels_alone(case, L2(0.5), nobody, 12, "nobody").evidence
        assert evidence.weight == Weight.NOT_RUN
        return f"{evidence.finding}. {evidence.advice}"

    assert "not asked for" in told(case_of(model, x, y, 0))
    assert "changes from one call" in told(case_of(model, x, y, 5, draws=4))
    monkeypatch.setitem(sys.modules, "foolbox", None)
    assert "need foolbox" in told(case_of(model, x, y, 5))
    assert "pip install foolbox" in told(case_of(model, x, y, 5))
    report = masking.diagnose(model, x, y, L2(0.05), generator(), replace(TINY, decisions=5))
    assert "pip install foolbox" in report.text()


def test_what_a_model_remembers_or_notices_is_seen():
    model, x, y = digits_like(40)
    other = small_cnn((1, 8, 8), 5, generator(9)).eval()
    assert probes.memory(model, model, x, generator()).weight == Weight.FINE
    assert probes.watched(model, x, y).weight == Weight.FINE
    fresh, asked = Remembers(model), Remembers(model)
    assert probes.memory(asked, fresh, x, generator()).weight == Weight.PROOF
    assert probes.watched(Watches(model, other), x, y).weight == Weight.PROOF


class Drifts(nn.Module):
    """Every call moves a mean, and on top of it there may be noise."""

    def __init__(self, net, noise):
        super().__init__()
        self.net, self.noise = net, noise
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x):
        self.mean.mul_(0.5).add_(x.detach().mean())
        return self.net(x - self.mean) + self.noise * torch.randn(len(x), 1)


def test_memory_is_told_from_chance_by_asking_other_things_first():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    x = torch.rand(12, 1, 8, 8, generator=generator())
    for noise in (0.0, 0.1):
        assert probes.drift(Drifts(net, noise), x).weight == Weight.PROOF
    assert not probes.drift(nn.Sequential(nn.Dropout(0.5), net).train(), x).weight
    shaky = lambda x: net(x + 0.1 * torch.rand(x.shape))  # noqa: E731
    assert not probes.drift(shaky, x).weight


def test_a_copy_that_forgets_answers_as_if_it_was_the_first_time():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    x = torch.rand(12, 1, 8, 8, generator=generator())
    first = Drifts(net, 0.0)(x)
    forgetful = Forgetful(Drifts(net, 0.0))
    leaf = x.clone().requires_grad_(True)
    for _ in "abc":
        assert torch.equal(forgetful(leaf), first)
    forgetful(leaf).sum().backward()
    assert leaf.grad is not None and net[1].weight.grad is not None


def test_probabilities_are_told_from_logits():
    model, x, _ = digits_like(20)
    assert probes.scores(model, x).weight == Weight.FINE
    assert probes.scores(nn.Sequential(model, nn.Softmax(1)), x).weight == Weight.SIGN
    assert probes.scores(nn.Sequential(model, nn.LogSoftmax(1)), x).weight == Weight.FINE


def test_a_temperature_brings_a_flat_softmax_back():
    model, x, y = digits_like(dtype=torch.float64)
    steep = obfuscated.Saturated(model, 1e6)
    assert (gradient(steep, x, y, CrossEntropy()) == 0).double().mean() > 0.9
    cooled = TemperatureScaled(steep, 1e6)
    torch.testing.assert_close(cooled(x), model(x))
    assert (gradient(cooled, x, y, CrossEntropy()) != 0).flatten(1).any(1).all()


def test_a_report_repeats_and_leaves_the_model_alone():
    model, x, y = digits_like(16)
    model.train()
    threat = Union(Linf(0.05), L1(0.5), RotationTranslation(0.5, 5))
    first, again = (
        masking.diagnose(model, x, y, threat, generator(7), TINY).describe() for _ in "ab"
    )
    assert first == again
    assert list(first["sets"]) == ["linf", "l1", "rt"]
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_report_tells_reasons_and_advice():
    model = relu_net(0, inputs=16, classes=4, dtype=torch.float32)
    x = torch.rand(40, 1, 4, 4, generator=generator(2))
    y = model(x).argmax(1)
    report = masking.diagnose(obfuscated.Flipped(model), x, y, L2(0.3), generator(), TINY)
    assert report.verdict >= masking.Verdict.SUSPICIOUS
    text = report.text()
    assert "40 of 40 images are right" in text
    assert report.sets["l2"].verdict.words in text
    assert all(advice in text for advice in report.sets["l2"].advice)
