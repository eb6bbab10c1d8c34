"""Models that are called in unusual ways: right answers where there are some, else one line."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from helpers.toys import generator
from mpkit import data, masking, training
from mpkit.attacks import (
    APGD,
    DLR,
    FMN,
    PGD,
    CrossEntropy,
    Loss,
    Margin,
    MultiTargeted,
    Square,
    TargetedDLR,
    TargetedMargin,
    input_gradient,
)
from mpkit.evaluation import evaluate, hints, hints_on_outputs, standard
from mpkit.evaluation.targeted import targets_of
from mpkit.models import Logits
from mpkit.models.anatomy import networks
from mpkit.sets import L2, Linf, parse_threat

SHAPE = (1, 4, 4)
Model = Callable[[Tensor], Tensor]


def problem(n: int = 16) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear network, images, and the classes that it gives them."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(4, 16, generator=generator(2)))
        model[1].bias.zero_()
        x = torch.rand(n, *SHAPE, generator=generator(1))
        return model, x, model(x).argmax(1)


def silent(model: nn.Module) -> Model:
    @torch.no_grad()
    def call(x: Tensor) -> Tensor:
        return model(x)  # type: ignore[no-any-return]

    return call


def in_numpy(model: nn.Module) -> Model:
    weight = model[1].weight.detach().numpy()  # type: ignore[index, union-attr]
    return lambda x: torch.from_numpy(x.flatten(1).numpy() @ weight.T)


WITHOUT_GRADIENT: dict[str, Callable[[nn.Module], Model]] = {
    "no_grad": silent,
    "inference_mode": lambda model: torch.inference_mode()(silent(model)),
    "numpy": in_numpy,
    "detached": lambda model: lambda x: model(x.detach()),
}


@pytest.mark.parametrize("how", WITHOUT_GRADIENT.values(), ids=WITHOUT_GRADIENT)
def test_a_model_without_gradients_is_named_with_the_remedy(
    how: Callable[[nn.Module], Model],
) -> None:
    network, x, y = problem()
    model = how(network)
    for attack in (PGD(Linf(0.1), 3), APGD(L2(1.0), 3), FMN(L2(1.0), 3)):
        with pytest.raises(ValueError, match=r"gives no gradient .* 'blind'") as caught:
            attack(model, x, y, generator())
        assert "\n" not in str(caught.value)
    found = Square(Linf(0.2), 20)(model, x, y, generator())
    expected = Square(Linf(0.2), 20)(network, x, y, generator())
    assert torch.equal(found.image, expected.image)


def test_the_blind_budget_needs_no_gradient() -> None:
    network, x, y = problem()
    suite = standard(parse_threat("linf:0.2 + l2:1 + rt:1px,10deg"), "blind", classes=4)
    ledger = evaluate(silent(network), x, y, suite, generator())
    assert int(ledger.images[:, 1].sum()) == 0
    assert 0 < ledger.union_accuracy().value < 1


def test_a_call_in_inference_mode_is_one_outside_of_it() -> None:
    model, x, y = problem()
    attack = PGD(Linf(0.1), 3)
    expected = attack(model, x, y, generator())
    ledger = evaluate(model, x, y, {"a": attack}, generator())
    gradient = input_gradient(model, Margin(), x, y).gradient
    with torch.inference_mode():
        inside = x.clone()
        labels = y.clone()
        assert inside.is_inference()
        for images, classes in ((x, y), (inside, labels)):
            assert torch.equal(attack(model, images, classes, generator()).image, expected.image)
            assert evaluate(model, images, classes, {"a": attack}, generator()) == ledger
            assert torch.equal(input_gradient(model, Margin(), images, classes).gradient, gradient)
    assert torch.equal(attack(model, inside, labels, generator()).image, expected.image)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_torchscript_frozen_or_not_gives_the_same_images() -> None:
    model, x, y = problem()
    attack = PGD(Linf(0.1), 3)
    expected = attack(model, x, y, generator()).image
    script = torch.jit.script(model)
    for one in (script, torch.jit.freeze(script), torch.jit.trace(model, x[:1])):
        assert torch.allclose(attack(one, x, y, generator()).image, expected)
        assert evaluate(one, x, y, {"a": attack}, generator()).union_accuracy().value <= 1


class Holder:
    """An object that is called, with its network in a list."""

    def __init__(self, network: nn.Module) -> None:
        self.networks = [network]

    def __call__(self, x: Tensor) -> Tensor:
        return self.networks[0](x)  # type: ignore[no-any-return]

    def method(self, x: Tensor) -> Tensor:
        return self(x)


GLOBAL = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 4))


def by_name(x: Tensor) -> Tensor:
    return GLOBAL(x)  # type: ignore[no-any-return]


def through(network: nn.Module, x: Tensor) -> Tensor:
    return network(x)  # type: ignore[no-any-return]


def default(x: Tensor, network: nn.Module = GLOBAL) -> Tensor:
    return network(x)  # type: ignore[no-any-return]


AROUND: dict[str, Model] = {
    "a closure": lambda x: GLOBAL(x),
    "a function": by_name,
    "a partial": partial(through, GLOBAL),
    "a default": default,
    "an object": Holder(GLOBAL),
    "a method": Holder(GLOBAL).method,
}


@pytest.mark.parametrize("model", AROUND.values(), ids=AROUND)
def test_a_function_around_a_network_runs_it_in_eval_mode(model: Model) -> None:
    _, x, y = problem()
    GLOBAL.train()
    before = {name: t.clone() for name, t in GLOBAL.state_dict().items()}
    assert networks(model) == [GLOBAL]
    found = PGD(Linf(0.1), 3)(model, x, y, generator())
    ledger = evaluate(model, x, y, {"a": PGD(Linf(0.1), 3)}, generator())
    assert GLOBAL.training
    assert all(torch.equal(before[name], t) for name, t in GLOBAL.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in GLOBAL.parameters())
    twin = GLOBAL.eval()
    assert torch.equal(found.image, PGD(Linf(0.1), 3)(twin, x, y, generator()).image)
    expected = evaluate(twin, x, y, {"a": PGD(Linf(0.1), 3)}, generator())
    assert torch.equal(ledger.broken, expected.broken)


def test_images_that_a_network_cannot_take_are_named() -> None:
    _, x, y = problem()
    cases = {
        "channels": nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()),
        "LowPrecision": nn.Sequential(nn.Flatten(), nn.Linear(16, 4).half()),
        "made for": nn.Sequential(nn.Flatten(), nn.Linear(17, 4)),
    }
    for word, model in cases.items():
        with pytest.raises(
            ValueError, match=r"model: cannot take images \(16, 1, 4, 4\)"
        ) as caught:
            PGD(Linf(0.1), 3)(model, x, y, generator())
        assert word in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("loss", [CrossEntropy(), Margin(), TargetedMargin(0), TargetedDLR(1)])
def test_targets_that_are_no_classes_are_refused(loss: CrossEntropy) -> None:
    model, x, y = problem()
    with pytest.raises(ValueError, match="at least 8 classes, the model gives 4"):
        PGD(Linf(0.1), 3, loss=loss.toward(7))(model, x, y, generator())
    with pytest.raises(ValueError, match="at least 10 classes, the model gives 4"):
        PGD(Linf(0.1), 3, loss=loss.toward(torch.full((16,), 9)))(model, x, y, generator())
    with pytest.raises(ValueError, match="-1 is no class"):
        loss.toward(-1)
    with pytest.raises(ValueError, match="3 targets for 16 images"):
        PGD(Linf(0.1), 3, loss=loss.toward(torch.tensor([0, 1, 2])))(model, x, y, generator())
    with pytest.raises(ValueError, match=r"float32; use target\.long"):
        loss.toward(torch.zeros(16))


def test_many_targets_still_work() -> None:
    model, x, y = problem()
    found = MultiTargeted(APGD(Linf(0.2), 5, Margin()), 3)(model, x, y, generator())
    assert bool((model(found.image).argmax(1) != y).any())


class Hidden:
    """A network where none looks."""

    __slots__ = ("network",)

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[no-any-return]


class Clf:
    """An object that is not called itself."""

    shared: Any = None

    def __init__(self, network: nn.Module | None) -> None:
        self.network = network

    def predict(self, x: Tensor) -> Tensor:
        return self.network(x)  # type: ignore[misc]


class OfClass(Clf):
    def __call__(self, x: Tensor) -> Tensor:
        return type(self).shared(x)  # type: ignore[no-any-return]


PLACE = SimpleNamespace(network=None)


class ByGlobal:
    def __call__(self, x: Tensor) -> Tensor:
        return PLACE.network(x)  # type: ignore[misc, no-any-return]


def of_class(network: nn.Module) -> Model:
    OfClass.shared = network
    return OfClass(None)


def of_global(network: nn.Module) -> Model:
    PLACE.network = network  # type: ignore[assignment]
    return ByGlobal()


def by_keyword(network: nn.Module) -> Model:
    def ask(x: Tensor, *, by: nn.Module = network) -> Tensor:
        return by(x)  # type: ignore[no-any-return]

    return ask


def by_attribute(network: nn.Module) -> Model:
    def ask(x: Tensor) -> Tensor:
        return ask.network(x)  # type: ignore[attr-defined, no-any-return]

    ask.network = network  # type: ignore[attr-defined]
    return ask


def by_iterator(network: nn.Module) -> Model:
    turns = itertools.cycle([network])
    return lambda x: next(turns)(x)


def by_weak_reference(network: nn.Module) -> Model:
    there = weakref.ref(network)
    return lambda x: there()(x)  # type: ignore[misc]


def among_many(network: nn.Module) -> Model:
    held: dict[int, Any] = {**dict.fromkeys(range(1200)), -1: network}
    return lambda x: held[-1](x)  # type: ignore[no-any-return]


def within(network: nn.Module) -> Model:
    PLACE.network = network  # type: ignore[assignment]
    return lambda x: next(one(x) for one in [PLACE.network])  # type: ignore[misc]


HIDING: dict[str, Callable[[nn.Module], Model]] = {
    "slots": Hidden,
    "a bound method": lambda network: Clf(network).predict,
    "a partial bound method": lambda network: functools.partial(Clf(network).predict),
    "a class": of_class,
    "a global": of_global,
    "a keyword": by_keyword,
    "a function's attribute": by_attribute,
    "an iterator": by_iterator,
    "a weak reference": by_weak_reference,
    "many others": among_many,
    "a function within": within,
}


@pytest.mark.parametrize("hide", HIDING.values(), ids=HIDING)
def test_a_network_in_training_mode_is_quiet_wherever_it_hides(
    hide: Callable[[nn.Module], Model], recwarn: pytest.WarningsRecorder
) -> None:
    """Its statistics stay, its dropout rests, and its mode comes back."""
    _, x, y = problem()
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Dropout(), nn.Linear(16, 4))
    model, kept = hide(network.train()), network[1].running_mean.clone()
    first, again = (PGD(Linf(0.1), 2)(model, x, y, generator()) for _ in range(2))
    assert torch.equal(first.image, again.image)
    twin = PGD(Linf(0.1), 2)(network, x, y, generator())
    assert torch.equal(first.image, twin.image)
    ledgers = [evaluate(model, x, y, {"a": PGD(Linf(0.1), 2)}, generator()) for _ in range(2)]
    assert ledgers[0] == ledgers[1]
    assert torch.equal(network[1].running_mean, kept)
    assert all(module.training for module in network.modules())
    assert not recwarn.list


@pytest.mark.parametrize("loss", [CrossEntropy(), Margin(), DLR()])
@pytest.mark.parametrize(
    "target", [0.5, 1.5, float("nan"), "1", None, [0, 1], np.zeros(2)], ids=repr
)
def test_what_is_no_class_is_no_target(loss: Loss, target: Any) -> None:
    with pytest.raises(ValueError, match=r"target must be a class.*torch\.tensor"):
        loss.toward(target)


def test_a_class_may_be_any_whole_number() -> None:
    model, x, y = problem()
    images = [
        PGD(Linf(0.1), 3, loss=CrossEntropy().toward(target))(model, x, y, generator()).image
        for target in (1, np.int64(1), torch.tensor(1), torch.ones(16, dtype=torch.int64))
    ]
    assert all(torch.equal(images[0], image) for image in images)
    with torch.inference_mode():
        aimed = torch.ones(16, dtype=torch.int64)
    assert torch.equal(
        PGD(Linf(0.1), 3, loss=CrossEntropy().toward(aimed))(model, x, y, generator()).image,
        images[0],
    )
    with pytest.raises(ValueError, match="target 5, but the model has 4 classes"):
        Margin().toward(5)(model(x), y)


@pytest.mark.parametrize("count", [5, 20])
def test_an_evaluation_wants_one_target_for_each_image(count: int) -> None:
    model, x, y = problem()
    aim = CrossEntropy().toward(torch.zeros(count, dtype=torch.int64))
    with pytest.raises(ValueError, match=f"holds {count} values .* there are 16 images"):
        evaluate(model, x, y, {"a": PGD(Linf(0.1), 2, loss=aim)}, generator())


def test_targets_and_training_work_in_inference_mode() -> None:
    model, x, y = problem()
    expected = targets_of("least", model, x, y, "0123")
    with torch.inference_mode():
        found = targets_of("least", model, x.clone(), y.clone(), "0123")
    assert {k: v.tolist() for k, v in found.items()} == {k: v.tolist() for k, v in expected.items()}
    with pytest.raises(ValueError, match="is no target"):
        targets_of("²", model, x, y, "0123")
    digits = data.load("digits", "train").first(64)
    weights = []
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        with torch.no_grad():
            network[1].weight.fill_(0.01)
            network[1].bias.zero_()
        with mode():
            recipe = training.Recipe(epochs=1, batch=32)
            training.fit(network, digits, training.Natural(), recipe, generator())
        weights.append(network[1].weight)
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_a_network_made_in_inference_mode_says_so() -> None:
    _, x, y = problem()
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(ValueError, match=r"outside of torch\.inference_mode"):
        PGD(Linf(0.1), 2)(model, x, y, generator())


class Clamped(nn.Module):
    """A layer that clamps, in place or not."""

    def __init__(self, clamp: Callable[[Tensor, float, float], Tensor]) -> None:
        super().__init__()
        self.clamp = clamp

    def forward(self, x: Tensor) -> Tensor:
        return self.clamp(x, 0.3, 0.7)


def test_logit_pairing_takes_networks_that_change_their_input() -> None:
    digits = data.load("digits", "train").first(64)
    attack, weights = PGD(Linf(0.1), 2), []
    for clamp in (Tensor.clamp_, Tensor.clamp):
        network = nn.Sequential(Clamped(clamp), nn.Flatten(), nn.Linear(64, 10))
        with torch.no_grad():
            network[2].weight.fill_(0.01)
            network[2].bias.zero_()
        pairing, recipe = training.LogitPairing(attack, attack), training.Recipe(epochs=1, batch=32)
        training.fit(network, digits, pairing, recipe, generator())
        weights.append(network[2].weight)
    assert torch.equal(*weights)


@pytest.mark.slow
def test_the_doctor_takes_a_network_of_less_precision_in_its_wrapper() -> None:
    class Half(nn.Module):
        def __init__(self, back: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            inner = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
            self.inner, self.back = inner.bfloat16(), back

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.inner(x.to(torch.bfloat16))
            return logits.to(x.dtype) if self.back else logits

    x = torch.rand(40, *SHAPE, generator=generator(1))
    for back in (True, False):
        model = Half(back)
        with torch.no_grad():
            y = model(x).argmax(1)
        report = masking.diagnose(model, x, y, Linf(0.05), generator())
        assert "40 of 40 images are right" in report.text()


def test_complex_answers_are_refused() -> None:
    model, x, y = problem()
    with pytest.raises(ValueError, match="complex numbers"):
        PGD(Linf(0.1), 2)(lambda image: model(image) * 1j, x, y, generator())


def test_the_adapter_takes_what_is_called_logits_and_nothing_else() -> None:
    model, x, _ = problem()
    expected = model(x)
    for wrapped in (
        lambda image: {"logits": model(image)},
        lambda image: SimpleNamespace(logits=model(image)),
        lambda image: model(image)[:, :, None, None],
        model,
    ):
        assert torch.equal(Logits(wrapped)(x), expected)
    one = Logits(lambda image: model(image)[:, 0])(x)
    assert torch.equal(one, torch.stack([torch.zeros(16), expected[:, 0]], 1))
    for wrong in ((expected, None), [expected], {"scores": expected}, None):
        with pytest.raises(ValueError, match=r"Logits: the model gives a .* without logits"):
            Logits(lambda image, wrong=wrong: wrong)(x)
    for shape in ((16, 2, 2), (16, 4, 2, 2)):
        with pytest.raises(ValueError, match=r"expected \(B,\), \(B, K\)"):
            Logits(lambda image, shape=shape: torch.zeros(shape))(x)


def test_hints_tell_what_outputs_look_like() -> None:
    logits = torch.randn(8, 4, generator=generator()) * 5
    for odd in (logits.softmax(1), 100 * logits.softmax(1), logits.sigmoid()):
        assert "look like probabilities" in hints_on_outputs(odd)[0]
    assert "flat" in hints_on_outputs(logits * 1e4)[0]
    assert "infinity" in hints_on_outputs((logits * 1e3).softmax(1).log())[0]
    for fine in (logits, logits.log_softmax(1), logits - 100, torch.zeros(8, 4)):
        assert hints_on_outputs(fine) == []


def test_a_few_right_answers_are_no_chance() -> None:
    model, x, y = problem()
    few = evaluate(model, x[:5], y[:5], {"a": PGD(Linf(0.1), 2)}, generator())
    assert not any("chance" in hint for hint in hints(few, Linf(0.1), SHAPE, 4))
    wrong = evaluate(model, x, (y + 1) % 4, {"a": PGD(Linf(0.1), 2)}, generator())
    assert any("chance" in hint for hint in hints(wrong, Linf(0.1), SHAPE, 4))
