"""Networks as strangers write them: the right answer, or a clear word."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from helpers.toys import generator
from mpkit.attacks import PGD
from mpkit.core.files import DataError
from mpkit.evaluation import Ledger, evaluate
from mpkit.evaluation.ledger import merged
from mpkit.models import QueryCounter
from mpkit.models.identity import identity, same
from mpkit.sets import Linf

Model = Callable[[Tensor], Tensor]
SHAPE = (1, 4, 4)


def images(n: int = 12) -> tuple[Tensor, Tensor]:
    """Images and labels of two kinds: dark ones and bright ones."""
    y = torch.arange(n) % 2
    x = torch.rand(n, *SHAPE, generator=generator(1)) * 0.5 + 0.5 * y.view(-1, 1, 1, 1)
    return x, y


class Net(nn.Module):
    """Weights that are always the same, and everything else as it is given."""

    def __init__(
        self,
        mean: float = 0.5,
        spread: tuple[float, ...] = (0.2,),
        levels: int = 0,
        act: Callable[[Tensor], Tensor] = torch.relu,
        shift: float = 0.0,
    ) -> None:
        super().__init__()
        self.mean, self.spread, self.levels, self.act = mean, list(spread), levels, act
        self.layer = nn.Linear(16, 2)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(2, 16, generator=generator(2)))
            self.layer.bias.zero_()
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.levels:
            x = (x * self.levels).round() / self.levels
        shift: Tensor = self.shift
        logits: Tensor = self.layer(self.act((x - self.mean) / self.spread[0]).flatten(1))
        return logits + shift * x.flatten(1)[:, :2]


class Other(Net):
    """The same weights and attributes, with another rule."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(3))


def scaled(network: nn.Module, by: float) -> Model:
    return lambda x: network(x * by)


TWINS: dict[str, tuple[Model, Model]] = {
    "a number": (Net(mean=0.5), Net(mean=0.9)),
    "a list of numbers": (Net(spread=(0.2,)), Net(spread=(0.3,))),
    "a number of levels": (Net(levels=4), Net(levels=5)),
    "another activation": (Net(act=torch.relu), Net(act=functional.leaky_relu)),
    "a buffer that is not saved": (Net(shift=0.0), Net(shift=0.7)),
    "another method": (Net(), Other()),
    "another closure": (scaled(Net(), 1.0), scaled(Net(), 0.8)),
    "a closure over other weights": (scaled(Net(), 1.0), scaled(nn.Sequential(nn.Flatten()), 1.0)),
    "another hook": (Net(), Net()),
}
TWINS["another hook"][1].register_forward_pre_hook(  # type: ignore[attr-defined]
    lambda _, given: (given[0] * 0.5,)
)


def measured(model: Model, file: Path | None = None, n: int = 12) -> Ledger:
    x, y = images(n)
    return evaluate(model, x, y, {"pgd": PGD(Linf(0.1), 3)}, generator(), batch=6, file=file)


@pytest.mark.parametrize(("one", "other"), TWINS.values(), ids=TWINS)
def test_the_ledger_of_another_network_is_refused(one: Model, other: Model, tmp_path: Path) -> None:
    file = tmp_path / "ledger"
    kept = measured(one, file)
    with pytest.raises(DataError, match=f"{re.escape(str(file))}: holds .* another network"):
        measured(other, file)
    assert measured(one, file) == kept == Ledger.load(file)


@pytest.mark.parametrize(("one", "other"), TWINS.values(), ids=TWINS)
def test_shards_of_two_networks_are_not_merged(one: Model, other: Model) -> None:
    x, y = images()
    attack, rng = {"pgd": PGD(Linf(0.1), 3)}, generator()
    parts = [
        evaluate(model, x[at : at + 6], y[at : at + 6], attack, generator(), batch=6, first=at)
        for model, at in ((one, 0), (other, 6))
    ]
    with pytest.raises(ValueError, match="model"):
        merged(parts)
    del rng


def test_an_equal_network_goes_on_whatever_it_counts(tmp_path: Path) -> None:
    counter = QueryCounter(Net())
    kept = measured(counter, tmp_path / "ledger")
    assert measured(counter, tmp_path / "ledger") == kept
    assert counter.calls > 0


def test_a_network_that_differs_on_the_first_images_only_is_refused(tmp_path: Path) -> None:
    x, _ = images()

    class Trigger(Net):
        trigger = False

        def forward(self, image: Tensor) -> Tensor:
            seen = (image[:, :, 0, 0] == x[1, 0, 0, 0]).view(-1, 1) & self.trigger
            return torch.where(seen, -super().forward(image), super().forward(image))

    one, other = Trigger(), Trigger()
    other.trigger = True
    measured(one, tmp_path / "ledger")
    with pytest.raises(DataError, match="another network"):
        measured(other, tmp_path / "ledger")


def test_answers_that_differ_by_rounding_are_those_of_one_network() -> None:
    one = identity(Net(), torch.zeros(1, *SHAPE))
    near = {**one, "answers": (torch.tensor(one["answers"]) * (1 + 1e-4)).tolist()}
    assert same(one, near)
    assert not same(one, {**near, "settings": "another"})
    assert not same(one, {**one, "answers": (torch.tensor(one["answers"]) * 1.1).tolist()})


class InPlace(Net):
    """The same network, which works on its input itself."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mul_(2).div_(2).clamp_(0, 0.7))


class ThroughData(Net):
    """The same, past autograd's book-keeping."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x.mul(1).clamp(0, 0.7))
        x.data.zero_()
        return logits


class Beside(Net):
    """Its twin, which leaves the images alone."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.clamp(0, 0.7))


@pytest.mark.parametrize("kind", [InPlace, ThroughData])
def test_a_network_that_changes_its_input_gives_the_numbers_of_its_twin(kind: type[Net]) -> None:
    x, y = images()
    kept = x.clone()
    mine, twin = (
        evaluate(model, x, y, {"pgd": PGD(Linf(0.1), 3)}, generator(), batch=6)
        for model in (kind(), Beside())
    )
    assert torch.equal(x, kept)
    for name in ("broken", "margin", "within"):
        assert torch.equal(*(getattr(one, name).nan_to_num() for one in (mine, twin)))
    one, other = (PGD(Linf(0.1), 3)(model, x, y, generator()) for model in (kind(), Beside()))
    assert torch.equal(one.image, other.image)
    assert torch.equal(x, kept)
