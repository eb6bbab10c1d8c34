"""Detours around operations, remedies that combine, likely causes, and the masks they are for."""

from dataclasses import dataclass
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from benchmarks.masks.known import MASKS, Codes, Decoys, RandomRounds, Rounds, Trigger
from helpers.toys import generator
from mpkit import masking
from mpkit.attacks import PGD, Margin
from mpkit.attacks.gradients import input_gradient
from mpkit.masking import Evidence, Weight, curves, find_detours, probes, remedies
from mpkit.masking.adaptive import Lesson
from mpkit.masking.bpda import BPDA, mended
from mpkit.masking.case import Case, Result
from mpkit.masking.detours import Detour, Detoured, ReadOut, chance_in, positive, traced
from mpkit.masking.evidence import KINDS, causes
from mpkit.masking.examine import _push
from mpkit.masking.wrappers import LARGE, Assessed, Contenders, LogScores, Tamed, TemperatureScaled
from mpkit.models import small_cnn
from mpkit.sets import L2, Linf


@cache
def toy():
    """A network with random weights, in float64, and images that it labels itself."""
    model = small_cnn((1, 8, 8), 10, generator(3)).double().eval()
    x = torch.rand(24, 1, 8, 8, generator=generator(4), dtype=torch.float64)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def gradient(model, x, y):
    return input_gradient(model, Margin(), x, y).gradient


def table(dtype=torch.float64):
    return torch.linspace(0, 1, 5, dtype=dtype)


STAIRS = {
    "round": lambda x: (x * 4).round() / 4,
    "in place": lambda x: (x * 4).round_() / 4,
    "floor": lambda x: (x * 4 + 0.5).floor() / 4,
    "whole division": lambda x: (x * 4 + 0.5) // 1 / 4,
    "cast": lambda x: (x * 4 + 0.5).long().to(x.dtype) / 4,
    "arithmetic of whole numbers": lambda x: ((x * 4 + 0.5).int() * 2 + 1 - 1).to(x) / 8,
    "embedding": lambda x: functional.embedding((x * 4 + 0.5).long(), table()[:, None])[..., 0],
    "indexing": lambda x: table()[(x * 4).round().long()],
}


@pytest.mark.parametrize("name", STAIRS)
def test_on_a_staircase_the_detour_has_the_slope_of_its_ramp_and_the_same_values(name):
    """A row of fine stairs climbs like the identity: the gradient is that of the network on it."""
    model, x, y = toy()
    stairs = STAIRS[name]
    hidden = Detoured(lambda x: model(stairs(x)))
    with torch.no_grad():
        assert torch.equal(hidden(x), model(stairs(x)))
    torch.testing.assert_close(gradient(hidden, x, y), gradient(model, stairs(x), y))


def written(x, which):
    image = torch.zeros_like(x)
    image[which] = 1.0
    return image


CHOICES = {
    "comparison": lambda x: (x > 0.5).to(x.dtype),
    "sign": lambda x: (x - 0.5).sign() / 2 + 0.5,
    "where": lambda x: torch.where(x > 0.5, 1.0, 0.0).to(x.dtype),
    "not less": lambda x: (~(x <= 0.5)).to(x.dtype),
    "masked": lambda x: torch.ones_like(x).masked_fill(x < 0.5, 0.0),
    "written": lambda x: written(x, x > 0.5),
    "argmax": lambda x: table()[(-(x[..., None] - table()).abs()).argmax(-1)],
    "argmin": lambda x: table()[(x[..., None] - table()).abs().argmin(-1)],
    "least": lambda x: table()[(x[..., None] - table()).abs().min(-1).indices],
    "one of many": lambda x: table()[(-(x[..., None] - table()).abs()).topk(1).indices[..., 0]],
    "the least of many": lambda x: table()[
        (x[..., None] - table()).abs().topk(1, largest=False).indices[..., 0]
    ],
    "codes": lambda x: (
        functional.one_hot((x[..., None] - table()).abs().argmin(-1), 5).to(x) @ table()
    ),
    "steep": lambda x: torch.sigmoid(4000 * (x - 0.5)),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_gets_a_slope_that_points_up_where_the_choice_does(name):
    """Each pixel's output grows with it, alone: the slope is positive, and none goes astray."""
    _, x, _ = toy()
    chosen, pixels = CHOICES[name], x[:4]
    leaf = pixels.clone().requires_grad_(True)

    def summed(x):
        return chosen(x * 1).flatten(1)

    hidden = Detoured(summed)
    with torch.no_grad():
        assert torch.equal(hidden(pixels), summed(pixels))
    out = hidden(leaf)
    (slope,) = torch.autograd.grad(out.sum(), leaf)
    assert (slope > 0).double().mean() > 0.9
    (one,) = torch.autograd.grad(hidden(leaf)[:, 5].sum(), leaf)
    assert (one.flatten(1) != 0).sum(1).tolist() == [1] * 4


@pytest.mark.parametrize("name", CHOICES)
def test_what_melts_climbs_gradually_where_the_choice_does(name):
    """Its values are those of the slopes, whether anybody asks for a gradient or not."""
    chosen = CHOICES[name]
    melted = Detoured(lambda x: chosen(x * 1).flatten(1), melt=1.0)
    ramp = torch.linspace(0, 1, 64, dtype=torch.float64).view(1, 1, 8, 8)
    with torch.no_grad():
        values = melted(ramp)[0]
    assert len(values.unique()) > 32
    assert (values.diff() > -1e-9).double().mean() > 0.9
    torch.testing.assert_close(melted(ramp.clone().requires_grad_(True))[0].detach(), values)


def test_a_steep_softmax_melts_to_a_fixed_spread_and_a_gentle_one_stays():
    x = torch.randn(6, 9, generator=generator(), dtype=torch.float64)
    for melt in (1.25, 5.0):
        melted = Detoured(lambda x: (200 * x).softmax(1), melt=melt)
        want = (20 / melt * x / x.std()).softmax(1)
        torch.testing.assert_close(melted(x), want)
        assert torch.equal(Detoured(lambda x: x.softmax(1), melt=melt)(x), x.softmax(1))


class Custom(torch.autograd.Function):
    """The positive part; backwards what ``way`` makes of it, the truth for 1."""

    @staticmethod
    def forward(ctx, x, way):
        ctx.save_for_backward(x)
        ctx.way = way
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, *gradients):
        return ctx.way * gradients[0] * (ctx.saved_tensors[0] > 0), None


class Turned(torch.autograd.Function):
    """Columns in another order; the gradient goes back in theirs, with the other sign."""

    @staticmethod
    def forward(ctx, x):
        return x.flip(1)

    @staticmethod
    def backward(ctx, *gradients):
        return -gradients[0]


def slopes(run, x):
    """Gradient of weighted outputs, and the outputs."""
    leaf = x.clone().requires_grad_(True)
    out = run(leaf)
    weight = torch.linspace(1, 2, out.numel(), dtype=x.dtype).view_as(out)
    return torch.autograd.grad((weight * out).sum(), leaf)[0], out.detach()


def test_a_custom_function_that_lies_gets_the_slope_of_what_it_does():
    x = torch.rand(40, 30, generator=generator(), dtype=torch.float64) - 0.5
    true, out = slopes(functional.relu, x)
    steps = []
    with mended(steps.append):
        false, same = slopes(lambda x: Custom.apply(x, -3.0), x)
    assert torch.equal(out, same) and set(steps) == {"Custom"}
    away = x.abs() > 0.1  # from the kink, where a difference has a slope between both
    torch.testing.assert_close(false[away], true[away])
    with mended(steps.append):
        slopes(lambda x: Custom.apply(x, -3.0), x)
        assert slopes(lambda x: Custom.apply(x, -3.0), x * 0 + 1)[0].isfinite().all()  # no spread
    assert (slopes(lambda x: Custom.apply(x, -3.0), x)[0] <= 0).all()  # and all is as before


def test_where_outputs_mix_inputs_a_lying_function_counts_as_the_identity():
    x = torch.rand(5, 4, generator=generator(), dtype=torch.float64)
    with mended(lambda name: None):
        false, out = slopes(Turned.apply, x)
    assert torch.equal(out, x.flip(1))
    assert torch.equal(false, torch.linspace(1, 2, 20, dtype=x.dtype).view(5, 4))


def test_a_true_custom_function_is_left_alone_and_not_noted():
    x = torch.rand(8, 6, generator=generator(), dtype=torch.float64) - 0.5
    steps = []
    with mended(steps.append):
        one, out = slopes(lambda x: Custom.apply(x, 1.0), x)
    other, same = slopes(functional.relu, x)
    assert torch.equal(one, other) and torch.equal(out, same) and steps == []


def test_a_lying_custom_function_in_a_network_is_found_as_such():
    _, x, y = toy()
    lying = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 30), nn.Linear(30, 10))
    lying.double()

    def network(x):
        _, first, last = lying
        return last(Custom.apply(first(x.flatten(1)), -1.0))

    found = [d for d in find_detours(network, x, y, generator()) if d.kind == "liar"]
    assert len(found) == 1 and found[0].exact
    assert "the false gradient of Custom" in found[0].name


@given(st.integers(2, 9), st.sampled_from([torch.float32, torch.float64]))
def test_an_honest_function_keeps_values_and_gradient_to_the_bit(n, dtype):
    x = torch.rand(3, n, generator=generator(n), dtype=dtype)
    weight = torch.randn(n, n, generator=generator(n + 1), dtype=dtype)

    def honest(x):
        h = functional.relu(x @ weight)
        return torch.cat([h.softmax(1), h.amax(1, keepdim=True), h.clamp(0.1, 0.2)], 1)

    pairs = []
    for model in (honest, Detoured(honest)):
        leaf = x.clone().requires_grad_(True)
        out = model(leaf)
        pairs.append((out.detach(), torch.autograd.grad(out.square().sum(), leaf)[0]))
    assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))


@pytest.mark.parametrize("limits", [{"min": 0.0, "max": 1.0}, {"min": 0.0}, {"max": 1.0}])
def test_black_and_white_pixels_have_the_slope_of_others_behind_a_clamp(limits):
    model, x, y = toy()
    x = (3 * x - 1).clamp(0, 1)  # a third is black and a third white
    y = model(x).argmax(1)

    def clamped(x):
        return model(x.clamp(**limits))

    detour = next(d for d in find_detours(clamped, x, y, generator()) if d.kind == "step")
    assert detour.exact and "the ends of a clamp" in detour.name
    torch.testing.assert_close(detour.guide(x), model(x))
    torch.testing.assert_close(gradient(detour.guide, x, y), gradient(model, x, y))
    outside = (x - 2).requires_grad_(True)
    detour.guide(outside).square().sum().backward()
    assert ("min" in limits) == (not outside.grad.any()), "what is cut off has no slope"


def test_a_clamp_in_front_is_told_where_it_takes_a_gradient_and_only_there():
    model, x, y = toy()
    flat = (lambda x: model(x.clamp(0, 1))), (lambda x: model(torch.where(x > 1, 1, x)))
    x = (3 * x - 1).clamp(0, 1)
    hidden = not gradient(flat[0], x, y)[x == 0].any()  # versions of torch differ
    for network, wanted in zip((*flat, model), (hidden, False, False), strict=True):
        told = [e for e in probes.presence(network, x, y) if e.indicator == "pixels at a wall"]
        assert len(told) == wanted
        assert all(e.weight == Weight.TIP and "100% of the pixels" in e.finding for e in told)


def test_cuts_are_passed_only_where_that_is_asked_for():
    model, x, y = toy()

    def ask(x):
        with torch.no_grad():
            return model(x)

    for hidden in (ask, lambda x: model(x.detach())):
        assert not traced(hidden, x, True).steps
        torch.testing.assert_close(
            gradient(Detoured(hidden, cuts=False), x, y), gradient(model, x, y)
        )
    assert [step.name for step in traced(ask, x, False).steps] == ["no_grad", "no_grad"][:1]


class Twice(nn.Module):
    """Calls a part of itself two times, and rounds in the second."""

    def __init__(self, network):
        super().__init__()
        self.network, self.part = network, Stairs()

    def forward(self, x):
        return self.network(self.part(self.part(x, 0), 4))


class Stairs(nn.Module):
    def forward(self, x, levels):
        return (x * levels).round() / levels if levels else x * 1


def test_a_place_is_a_class_a_name_and_a_call():
    model, x, _ = toy()
    (step,) = traced(Twice(model), x, True).steps
    assert str(step) == "round in Stairs 'part', call 2"


def test_an_honest_network_needs_no_detour_around_operations():
    model, x, y = toy()
    kinds = {detour.kind for detour in find_detours(model, x, y, generator())}
    assert kinds <= {"readout"}


class Loop(nn.Module):
    """Moves the image twice by what the network says, then looks at it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        moved = x.detach()
        for _ in "ab":
            with torch.no_grad():
                moved = (moved + 0.1 * self.network(moved).mean()).clamp(0, 1)
        return self.network(x + (moved - x).detach())


def test_a_network_in_a_loop_is_attacked_by_its_first_call_and_by_itself():
    model, x, y = toy()
    found = find_detours(Loop(model), x, y, generator())
    loops = [detour for detour in found if detour.kind == "loop"]
    assert "called 3 times" in loops[0].places[0]
    for detour in loops:
        torch.testing.assert_close(gradient(detour.guide, x, y), gradient(model, x, y))


def test_a_core_of_another_precision_gets_its_own():
    """Such as a network in bfloat16 behind a cast, which images in float32 would break."""
    _, x, y = toy()
    short = small_cnn((1, 8, 8), 10, generator(3)).eval().bfloat16()

    class Cast(nn.Module):
        def __init__(self):
            super().__init__()
            self.short = short

        def forward(self, x):
            return self.short(x.detach().to(torch.bfloat16)).to(x.dtype)

    found = find_detours(Cast(), x.float(), y, generator())
    assert {detour.kind for detour in found} >= {"inner"}
    for detour in found:
        slope = gradient(detour.guide, x.float(), y)
        assert slope.dtype == torch.float32 and slope.isfinite().all()
    fed = BPDA(Cast(), short, None, (), ())
    assert (gradient(fed, x.float(), y) != 0).flatten(1).any(1).all()


def test_scores_inside_are_read_and_distances_turned_round():
    model, x, _ = toy()
    centres = 3 * torch.eye(10, dtype=x.dtype)

    def hidden(x):
        return torch.exp(-torch.cdist(model(x), centres).square() * 50)

    says = torch.cdist(model(x), centres).argmin(1).detach()
    (inside,) = (d for d in find_detours(hidden, x, says, generator()) if d.kind == "table")
    with torch.no_grad():
        assert torch.equal(inside.guide(x).argmax(1), says)
    assert (gradient(inside.guide, x, says) != 0).flatten(1).any(1).all()


def test_a_read_out_of_a_linear_code_names_the_classes():
    model, x, y = toy()
    code = torch.randn(10, 16, generator=generator(1), dtype=x.dtype)
    read = ReadOut(Inner(model, code), x, y, 10)
    with torch.no_grad():
        assert (read(x).argmax(1) == y).double().mean() > 0.9


class Inner(nn.Module):
    def __init__(self, model, code):
        super().__init__()
        self.model, self.code = model, code

    def forward(self, x):
        return functional.one_hot(self.model(x).argmax(1), 10).to(x) @ self.code


def test_classes_that_never_win_are_told_and_left_out():
    model, x, y = toy()
    decoys = Decoys(model, generator())
    called = model(x.flip(2)).argmax(1)
    alive, found = remedies.contenders(decoys, x, y, called, generator())
    assert alive is not None and not alive[10:].any() and alive[y].all()
    assert found.weight == Weight.SIGN and found.rate.value == 1
    assert torch.equal(gradient(decoys, x, y), torch.zeros_like(x))
    assert (Contenders(decoys, alive)(x)[:, 10:] == -LARGE).all()
    true = gradient(Contenders(model, alive[:10]), x, y)
    torch.testing.assert_close(gradient(Contenders(decoys, alive), x, y), 10 * true)


def test_the_logarithm_of_probabilities_has_the_margin_of_their_logits():
    model, x, y = toy()
    logs = LogScores(nn.Sequential(model, nn.Softmax(1)))
    torch.testing.assert_close(gradient(logs, x, y), gradient(model, x, y))
    assert positive(nn.Sequential(model, nn.Softmax(1)), x)
    assert not positive(model, x)


def test_small_gradients_are_no_random_ones():
    model, x, y = toy()
    for scale in (1e-12, 1e12):
        small = TemperatureScaled(model, 1 / scale)
        found = curves.truth(small, x, y, generator())
        assert found[0].finding == "another direction at the same point for 0%"
        assert all("draws" not in e.advice for e in found)


def test_a_deterministic_model_is_never_told_to_average_over_draws():
    """Its backward pass may draw; then the answers repeat all the same."""
    model, x, y = toy()
    dice = generator()

    def hidden(x):
        if x.requires_grad:
            x.register_hook(lambda g: torch.randn(g.shape, generator=dice, dtype=g.dtype))
        return model(x * 1)

    found = curves.truth(hidden, x, y, generator())
    assert found[0].weight == Weight.SIGN and "over many draws" not in found[0].advice
    assert "over many draws" in curves.truth(hidden, x, y, generator(), random=True)[0].advice


def test_chance_has_a_place():
    model, x, _ = toy()
    noisy = nn.Sequential(nn.Identity(), RandomRounds(nn.Identity(), generator()), model)
    assert chance_in(noisy, x) == "RandomRounds '1'"
    assert chance_in(model, x) == chance_in(lambda x: x, x) == ""


def named(*evidence, detours=(), chance=""):
    return [cause.key for cause in causes(evidence, detours, chance)]


def test_every_cause_is_named_by_what_speaks_for_it():
    for key, kind in KINDS.items():
        detours = [Detour(kind.remedies[0], ("here",), nn.Identity())] if kind.remedies else []
        won = [Evidence("r", "x", Weight.PROOF, kind=k, gained=9) for k in kind.remedies[:1]]
        seen = (*kind.shows, *kind.signs)[:1]
        signs = [Evidence(name, "x", Weight.SIGN) for name in seen]
        assert key in named(*signs, *won, detours=detours), key
        if not kind.sure:
            assert key not in named(*signs, detours=detours)


def test_no_cause_without_a_sign_and_an_unknown_one_where_nothing_fits():
    assert named(Evidence("margin gradient", "x")) == []
    assert named(Evidence("a blind search", "x", Weight.PROOF, kind="blind")) == ["unknown"]
    assert named(Evidence("margin gradient", "x", Weight.SIGN)) == []


def test_the_gradient_is_called_shattered_only_where_nothing_else_is_proven():
    shattered = Evidence("noise", "x", Weight.PROOF, kind="shattered", gained=3)
    step = Evidence("steps", "x", Weight.PROOF, kind="step", gained=9)
    detour = Detour("step", ("round in Stairs 'part', call 1",), nn.Identity(), True)
    assert named(shattered) == ["shattered"]
    assert named(shattered, step, detours=[detour]) == ["step"]
    (cause,) = causes((shattered, step), [detour], "")
    assert cause.place == "round in Stairs 'part', call 1"
    assert "straight through" in cause.advice


FAILING = {
    "flat steps": lambda x: (4 * x).round() / 4,
    "a cut graph": lambda x: x.detach().square(),
    "a false gradient": lambda x: 2 * x.detach() - x,
    "a gradient of short reach": lambda x: x + 0.1 * torch.frac(3e4 * x),
    "how a gradient fails": lambda x: x.square(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FAILING)
def test_how_a_gradient_fails_is_seen_next_to_the_image(name, dtype):
    """On a linear network, so that the exact slope is known: of a ramp, a cut, a lie, a saw."""
    weight = torch.randn(64, 5, generator=generator(7), dtype=torch.float64)

    class Front(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(weight.to(dtype))

        def forward(self, x):
            return FAILING[name](x).flatten(1) @ self.weight

    x = 0.1 + 0.8 * torch.rand(20, 1, 8, 8, generator=generator(8), dtype=dtype)
    model = Front()
    found = curves.failure(model, x, model(x).argmax(1), generator())
    assert found.indicator == name
    assert bool(found.weight) == (name != "how a gradient fails")
    if found.weight:
        assert found.rate.value > 0.6


def test_a_failure_that_is_seen_names_the_cause_and_its_place_without_a_detour_of_its_own():
    inner = Detour("inner", ("Net 'network' as if it saw the image itself",), nn.Identity())
    won = Evidence("a detour", "x", Weight.PROOF, kind="inner", gained=5)
    assert named(won, detours=[inner]) == ["inner"]
    for name, key in zip(curves.FAILURES, ("step", "cut", "liar"), strict=False):
        seen = Evidence(name, "x", Weight.SIGN)
        (cause,) = causes((won, seen), [inner], "")
        assert (cause.key, cause.place) == (key, "what comes before Net 'network'")


def test_where_only_all_together_prove_it_what_broke_most_is_named():
    proof = Evidence("usual attacks", "x", Weight.PROOF)
    loop, other = (Evidence(k, "x", kind=k, gained=n) for k, n in (("loop", 5), ("readout", 4)))
    assert named(proof, loop, other) == ["loop"]
    assert named(loop, other) == []


@dataclass(frozen=True)
class Shy(PGD):
    """Breaks every image in a ball that is smaller than this, and none in others."""

    most: float = 0.95


def test_a_search_that_finds_more_in_a_smaller_ball_has_not_settled():
    model, x, y = toy()
    case = Case(model, masking.Sanitized(model), x, y, generator(), masking.Effort())
    nobody = torch.zeros(len(x), dtype=torch.bool)
    for most, settled in ((0.95, False), (0.0, True)):
        way = remedies.Remedy("shy", "noise", (remedies.Search(Shy(Linf(1.0), 1, most=most)),))

        def reach(self, attack, guide=None):
            wrong = torch.full((len(self.x),), attack.set.eps < attack.most)
            return Result(self.x, Assessed(wrong.double(), wrong))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Case, "reach", reach)
            tried = [(way, reach(case, way.runs[0].attack))]
            broken, words, final = _push(case, nobody, tried)
        assert bool(broken.all()) is not settled
        assert final is settled and words.startswith("looks final" if settled else "may fall")
        assert f"{0 if settled else len(x)} at 0.9 times the radius" in words


def test_a_root_of_zero_inside_takes_only_its_own_slope_with_it():
    model, x, y = toy()

    def rooted(x):
        logits = model(x)
        return logits + (x.flatten(1)[:, :10] * 0).sqrt()

    told = gradient(Tamed(rooted), x, y)
    torch.testing.assert_close(told, gradient(model, x, y))
    assert not torch.isfinite(gradient(rooted, x, y)[:, :, :1]).all()
    (found,) = (one for one in find_detours(rooted, x, y, generator()) if one.kind == "nan")
    assert found.exact and isinstance(found.guide, Tamed)
    assert all(one.kind != "nan" for one in find_detours(model, x, y, generator()))


def test_a_surrogate_learns_the_classes_that_live():
    model, x, _ = toy()
    decoys = Decoys(model, generator())
    alive = torch.arange(20) < 10
    for asked, apart in ((masking.Sanitized(decoys), False), (Contenders(decoys, alive), True)):
        lesson = Lesson(asked, x, generator())
        second = lesson.answers.topk(2, dim=1).indices[:, 1]
        assert bool((second < 10).all()) is apart


TINY = masking.Effort(steps=6, queries=8, estimates=2, directions=4, draws=2, decisions=0)


def test_a_remedy_that_fails_is_not_run_and_nothing_is_raised(monkeypatch):
    model, x, y = toy()

    def broken(*_, **__):
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr("mpkit.masking.adaptive.NES.uphill", broken)
    report = masking.diagnose(model, x, y, L2(0.02), generator(), TINY)
    (one,) = report.sets.values()
    (found,) = (e for e in one.evidence if e.kind == "differences")
    assert (found.weight, found.finding) == (Weight.NOT_RUN, "not run to the end: no such kernel")
    assert "Not run: averaged finite differences" in " ".join(report.text().split())


@pytest.mark.parametrize("part", ["doctor.contenders", "examine.curves", "remedies.Remedy.longer"])
def test_whatever_part_fails_the_report_is_written(monkeypatch, part):
    """As a model may raise where it was never asked before."""
    model, x, y = toy()

    def broken(*_, **__):
        raise RuntimeError("no such kernel\nand more")

    monkeypatch.setattr(f"mpkit.masking.{part}", broken)
    hidden = Rounds(model, generator())
    told = masking.diagnose(hidden, x, y, L2(0.02), generator(), TINY).describe()
    assert "no such kernel" in str(told) and "and more" not in str(told)
    assert next(iter(told["sets"].values()))["accuracy"]


KEYS = {
    "report": {"schema", "points", "right", "verdict", "general", "sets"},
    "set": {"set", "verdict", "accuracy", "causes", "left", "settled", "evidence", "advice"},
    "evidence": {"indicator", "finding", "weight", "advice", "rate", "kind", "gained"},
    "cause": {"key", "name", "place", "because", "advice"},
}


def test_the_record_keeps_its_keys_and_the_text_begins_with_the_cause():
    model, x, y = toy()
    report = masking.diagnose(Rounds(model, generator()), x, y, L2(0.2), generator(), TINY)
    told = report.describe()
    assert told["schema"] == 2 and set(told) == KEYS["report"]
    (one,) = told["sets"].values()
    assert set(one) == KEYS["set"] and set(one["accuracy"]) == {"first-order", "everything"}
    assert all(set(e) == KEYS["evidence"] for e in (*told["general"], *one["evidence"]))
    assert all(set(cause) == KEYS["cause"] for cause in one["causes"])
    assert {e["weight"] for e in one["evidence"]} <= {"not_run", "fine", "tip", "sign", "proof"}
    assert report.verdict and one["causes"][0]["key"] == "step"
    assert one["causes"][0]["place"] == "round in Rounds, call 1"
    heads = [line for line in report.text(43).splitlines() if line and line[0] != " "]
    assert heads[0] == "Likely cause" and heads[1] in ("Proof", "Signs")
    assert heads[2] == "What is left" and heads[-1].startswith("Limits: ")
    assert max(map(len, report.text(43).splitlines())) <= 43


def test_every_mask_that_knows_itself_has_a_gradient_and_hides_it():
    """But for the trigger, which leaves no trace: it is what the doctor cannot see."""
    model, x, y = toy()
    for cls, _ in MASKS.values():
        mask = cls(model, generator())
        assert (gradient(mask.knowing, x, y) != 0).flatten(1).any(1).all(), cls
    trigger = Trigger(model, generator())
    torch.testing.assert_close(gradient(trigger, x, y), gradient(model, x, y))
    opened = x.clone()
    opened[:, 0, 0, ::7] = 1
    assert not torch.equal(trigger(opened).argmax(1), model(opened).argmax(1))
    codes = Codes(model, generator())
    assert torch.equal(codes(x), codes(x))
