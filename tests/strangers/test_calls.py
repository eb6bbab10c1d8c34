"""Models that are called in unusual ways: right answers where there are some, else one line."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.toys import generator
from mpkit.attacks import (
    APGD,
    FMN,
    PGD,
    CrossEntropy,
    Margin,
    MultiTargeted,
    Square,
    TargetedDLR,
    TargetedMargin,
    input_gradient,
)
from mpkit.evaluation import evaluate, standard
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
