"""Who is who: networks that differ where few look, and one network met again."""

from __future__ import annotations

import dataclasses
import fractions
import logging
import operator
import os
import subprocess
import sys
import types
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from helpers.toys import generator
from mpkit import data, training
from mpkit.attacks import PGD
from mpkit.core.files import DataError
from mpkit.evaluation import evaluate
from mpkit.models import anatomy
from mpkit.models.identity import identity, same
from mpkit.sets import Linf
from mpkit.training import Checkpoints

Model = Callable[[Tensor], Tensor]
Y = torch.arange(12) % 2
X = torch.rand(12, 1, 4, 4, generator=generator(1)) * 0.5 + 0.45 * Y.view(-1, 1, 1, 1)


def measured(model: Model, file: Path) -> Any:
    return evaluate(model, X, Y, {"pgd": PGD(Linf(0.1), 3)}, generator(), batch=6, file=file)


class Lin(nn.Module):
    """Weights that are always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(2, 16, generator=generator(2)))
            self.layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer((x - 0.5).flatten(1) * 5)
        return logits


class With(Lin):
    """Takes its mean from whatever it holds."""

    def __init__(self, held: Any, read: Callable[[Any], Any] = float) -> None:
        super().__init__()
        self.held, self.read = held, read

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - float(self.read(self.held)))


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value


@dataclasses.dataclass(slots=True)
class SlottedData:
    value: float


def kind(value: float) -> type:
    return type("A", (), {"value": value})


def hard(x: Tensor) -> Tensor:
    return (x * 8).round() / 8


def soft(x: Tensor) -> Tensor:
    return x + (hard(x) - x).detach()


class Rounds(Lin):
    """Rounds its input; its slope is zero, or that of the identity."""

    def __init__(
        self, straight: bool = False, by: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.straight, self.by = straight, by

    def forward(self, x: Tensor) -> Tensor:
        if self.by is not None:
            return super().forward(self.by(x))
        return super().forward(soft(x) if self.straight else hard(x))


class Zero(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g * 0


class Passing(Zero):
    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return g


RULE: Any = Zero
MEANS = {"cifar": (0.0,), "imagenet": (0.1,)}
GLOBALS: dict[str, Any] = {}


class ByRule(Lin):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(RULE.apply(x))


class Named(Lin):
    """Its class names all means; it holds one of them."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.mean = MEANS[name]

    def forward(self, x: Tensor) -> Tensor:
        assert MEANS
        return super().forward(x - self.mean[0])


class OnlyWithGradient(Lin):
    def __init__(self, on: bool) -> None:
        super().__init__()
        self.on = on

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits * 0 if self.on and torch.is_grad_enabled() else logits


def hooked() -> nn.Module:
    network = nn.Sequential(nn.Identity(), Lin())
    network[1].layer.register_full_backward_hook(lambda m, i, o: (torch.zeros_like(i[0]),))
    return network


def script(mean: float) -> nn.Module:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean = mean
            self.layer = Lin().layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer((x - self.mean).flatten(1))

    made: nn.Module = torch.jit.script(Small())
    return made


def value(held: Any) -> float:
    return float(held.value)


TWINS: dict[str, tuple[Model, Model]] = {
    "a straight-through slope": (Rounds(False), Rounds(True)),
    "one of two functions that the class names": (Rounds(by=hard), Rounds(by=soft)),
    "one of two lists that the class names": (Named("cifar"), Named("imagenet")),
    "a backward hook": (nn.Sequential(nn.Identity(), Lin()), hooked()),
    "what it does where gradients are asked for": (OnlyWithGradient(False), OnlyWithGradient(True)),
    "a number of numpy": (With(np.float32(0.1)), With(np.float32(0.1001))),
    "a fraction": (With(fractions.Fraction(1, 10)), With(fractions.Fraction(1001, 10000))),
    "a queue": (With(deque([0.1]), max), With(deque([0.1001]), max)),
    "a range": (With(range(1, 3), len), With(range(1, 4), len)),
    "slots": (With(Slotted(0.1), value), With(Slotted(0.1001), value)),
    "slots of a dataclass": (With(SlottedData(0.1), value), With(SlottedData(0.1001), value)),
    "a class": (With(kind(0.1), value), With(kind(0.1001), value)),
    "a caller of methods": (
        With(0.1, operator.methodcaller("__add__", 0.0)),
        With(0.1, operator.methodcaller("__add__", 0.0001)),
    ),
    "keys of another type": (
        With({"1": 0.1, 1: 0.2}, lambda d: d["1"]),
        With({"1": 0.1001, 1: 0.2}, lambda d: d["1"]),
    ),
    "a number of TorchScript": (script(0.5), script(0.51)),
}


@pytest.mark.parametrize(("one", "other"), TWINS.values(), ids=TWINS)
def test_networks_that_differ_where_few_look_are_told_apart(
    one: Model, other: Model, tmp_path: Path
) -> None:
    kept = measured(one, tmp_path / "ledger")
    with pytest.raises(DataError, match="another network"):
        measured(other, tmp_path / "ledger")
    assert measured(one, tmp_path / "ledger") == kept


def reading(value: Any) -> Callable[[], float]:
    return lambda: float(np.asarray(value).reshape(-1)[0])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (np.array(0.1), np.array(0.1001)),
        (torch.tensor(0.1), torch.tensor(0.1001)),
        (types.SimpleNamespace(value=0.1), types.SimpleNamespace(value=0.1001)),
    ],
    ids=["array", "tensor", "object"],
)
def test_a_variable_of_the_module_counts(before: Any, after: Any, tmp_path: Path) -> None:
    class Reads(Lin):
        def forward(self, x: Tensor) -> Tensor:
            held = SHARED.held
            return super().forward(x - float(getattr(held, "value", held)))

    SHARED.held = before
    measured(Reads(), tmp_path / "ledger")
    SHARED.held = after
    with pytest.raises(DataError, match="another network"):
        measured(Reads(), tmp_path / "ledger")


SHARED = types.SimpleNamespace(held=0.0)


def test_a_rule_that_changes_the_slope_alone_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(ByRule(), tmp_path / "ledger")
    monkeypatch.setattr(sys.modules[__name__], "RULE", Passing)
    with pytest.raises(DataError, match="another network"):
        measured(ByRule(), tmp_path / "ledger")


def old_norm() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), torch.nn.utils.weight_norm(nn.Linear(16, 2)))


def spectral() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), parametrizations.spectral_norm(nn.Linear(16, 2)))


def pre_hooked() -> nn.Module:
    network = Lin()
    network.register_forward_pre_hook(lambda _, given: (given[0] * 0.9,))
    return network


def traced() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    made: nn.Module = torch.jit.trace(network, X[:1])
    return made


def frozen() -> nn.Module:
    return torch.jit.freeze(traced().eval())  # type: ignore[no-any-return]


def logging_one() -> nn.Module:
    network = Lin()
    network.log = logging.getLogger("net")  # type: ignore[assignment]
    return network


class Noisy(Lin):
    """Answers by chance, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.rng, self.count = generator(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return super().forward(x) + 0.05 * torch.randn(len(x), 2, generator=self.rng)


AGAIN = (old_norm, spectral, pre_hooked, traced, frozen, logging_one, Noisy, lambda: script(0.5))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("made", AGAIN, ids=lambda f: f.__name__)
def test_a_network_made_again_is_the_same(made: Callable[[], nn.Module], tmp_path: Path) -> None:
    first = made()
    measured(first, tmp_path / "ledger")
    logging.getLogger(f"some.library.{tmp_path.name}")
    measured(first, tmp_path / "ledger")
    measured(made(), tmp_path / "ledger")


SETS = """
import torch, sys
from torch import nn
from mpkit.models.identity import identity
LEVELS = {"a", "b", "c", "d"}
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.l, self.mode, self.known = nn.Linear(16, 2), "relu", {"x", "y", "z"}
    def forward(self, x):
        if self.mode in {"relu", "gelu", "silu", "tanh"} and "a" in LEVELS:
            x = x.relu()
        return self.l(x.flatten(1))
told = identity(Net().eval(), torch.zeros(1, 1, 4, 4))
print(told["model"], told["settings"])
"""


def test_the_order_of_sets_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "told.py").write_text(SETS)
    told = set()
    for seed in "123":
        env = {**os.environ, "PYTHONHASHSEED": seed}
        words = [sys.executable, str(tmp_path / "told.py")]
        told.add(subprocess.run(words, env=env, capture_output=True, check=True).stdout)
    assert len(told) == 1


def deep() -> Any:
    nested: Any = {}
    for _ in range(1500):
        nested = {"in": nested}
    return nested


ODD: dict[str, Any] = {
    "sparse": torch.eye(16).to_sparse(),
    "rows": torch.eye(16).to_sparse_csr(),
    "conjugate": torch.randn(4, dtype=torch.complex64).conj(),
    "meta": torch.empty(3, device="meta"),
    "nested": torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "deep": deep(),
    "made of text": eval("lambda x: x", {}),
    "generator": (i for i in range(3)),
    "objects": np.array([object(), None], dtype=object),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("held", ODD.values(), ids=ODD)
def test_whatever_a_network_holds_it_can_be_evaluated(held: Any, tmp_path: Path) -> None:
    network = Lin()
    network.held = held
    kept = measured(network, tmp_path / "ledger")
    assert measured(network, tmp_path / "ledger") == kept
    assert measured(eval("lambda x, n=n: n(x)", {"n": network}), tmp_path / "other")


def test_a_training_of_another_network_is_refused(tmp_path: Path) -> None:
    digits = data.load("digits", "train").first(64)

    class Net(nn.Module):
        def __init__(self, mean: float, act: Callable[[Tensor], Tensor] = torch.relu) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.mean, self.act = nn.Linear(64, 10), mean, act

        def forward(self, x: Tensor) -> Tensor:
            logits: Tensor = self.layer(self.act((x - self.mean).flatten(1)))
            return logits

    def go(network: nn.Module) -> None:
        recipe, kept = training.Recipe(epochs=1, batch=32), Checkpoints(tmp_path)
        training.fit(network, digits, training.Natural(), recipe, generator(), checkpoints=kept)

    go(Net(0.5))
    go(Net(0.5))
    for other in (Net(0.9), Net(0.5, torch.tanh)):
        with pytest.raises(ValueError, match=r"another run: network differ"):
            go(other)


def test_identities_of_equal_networks_agree_and_of_others_do_not() -> None:
    one, again, other = (identity(n.eval(), X[:1]) for n in (Lin(), Lin(), With(0.1)))
    assert one == again
    assert same(one, again)
    assert not same(one, other)


def test_what_is_written_in_a_notebook_is_nobodys_library() -> None:
    assert not anatomy._installed("__main__")
    assert not anatomy._installed(__name__)
    assert anatomy._installed("pytest") and anatomy._installed("torch")
