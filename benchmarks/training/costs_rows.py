"""What the script on costs measures: schemes, ways to grow them, and ways to save."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mpkit import attacks, models, sets, training
from mpkit.attacks.base import Best, Problem
from mpkit.attacks.gradients import evaluating
from mpkit.models import Normalize
from mpkit.models.layers import conv, linear
from mpkit.studies import catalog
from mpkit.studies.scales import Scale, scale_of
from mpkit.training import Recipe

SHAPE, CLASSES = (1, 28, 28), 10
SETS = ("linf", "l1", "l2", "rt")  # one to four of them


@dataclass(frozen=True)
class Bare(training.Scheme):
    """Passes and nothing else: input gradients, looks, then the weights' gradient."""

    climbs: int
    looks: int
    learns: int

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The cross-entropy at x, as often as a scheme learns from an image."""
        with evaluating(model):
            for _ in range(self.climbs):
                image = x.detach().requires_grad_(True)
                torch.autograd.grad(cross_entropy(model(image), y, reduction="sum"), image)
            with torch.no_grad():
                for _ in range(self.looks):
                    cross_entropy(model(x), y, reduction="none")
        losses = [cross_entropy(model(x), y, reduction="none") for _ in range(self.learns)]
        return torch.stack(losses).mean(dim=0)


@dataclass(frozen=True)
class MaxByScores(training.Max):
    """Max that believes the scores of its attacks, which climb the cross-entropy, all of them."""

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        """The same losses as those of Max, with one look fewer for every attack."""
        found = [attack(model, x, y, rng) for attack in self.attacks]
        worst = torch.stack([one.score for one in found]).argmax(dim=0)
        chosen = torch.stack([one.image for one in found])
        image = chosen[worst, torch.arange(len(x), device=x.device)]
        return cross_entropy(model(image), y, reduction="none")


@dataclass(frozen=True)
class LastPoint(attacks.PGD):
    """Projected gradient ascent that returns where it ends, without a look."""

    def finish(self, problem: Problem, state: Any) -> Best:
        """The last point; its score is that of the best one seen."""
        return Best(state.z, state.best.score, state.best.reached)


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    Args:
        part: which comparison it belongs to.
        name: the scheme.
        scheme: the scheme itself.
        recipe: how it is trained.
        network: the network, from a generator.
        value: what grows in this part.
    """

    part: str
    name: str
    scheme: training.Scheme
    recipe: Recipe
    network: Callable[[torch.Generator], nn.Module]
    value: Any = None
    key: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", f"{self.part}: {self.name} {self.value or ''}".strip())


def wider(factor: float, rng: torch.Generator) -> nn.Module:
    """The small network for MNIST with so many times its channels and hidden units."""
    one, two, three, four = (round(n * factor) for n in (16, 32, 64, 128))
    return nn.Sequential(
        *(Normalize(), conv(1, one, 3, 2, rng), nn.ReLU(), conv(one, two, 3, 2, rng), nn.ReLU()),
        *(conv(two, three, 3, 2, rng), nn.ReLU(), nn.Flatten()),
        *(linear(three * 16, four, rng), nn.ReLU(), linear(four, CLASSES, rng)),
    )


def several(size: Scale, names: tuple[str, ...], k: int) -> dict[str, training.Scheme]:
    """The schemes for several sets, with so many steps in each search."""
    usual = sets.usual("mnist", SHAPE)
    inner = tuple(catalog.inner(usual[name], k) for name in names)
    balls = [one for name in names if isinstance(one := usual[name], sets.Ball)]
    made: dict[str, training.Scheme] = {
        "avg": training.Average(inner),
        "max": training.Max(inner),
        "random": training.Random(inner),
    }
    if len(balls) == len(names):
        made["msd"] = training.Single(attacks.MSD(sets.Union(*balls), k))
    return made


def rows(scale: str) -> Iterator[Row]:
    """Everything that is measured, in order.

    Args:
        scale: of the recipes, "cpu" or "gpu".
    """
    size = scale_of("mnist", scale)
    recipe, usual = size.recipe, sets.usual("mnist", SHAPE)
    network = partial(models.NETWORKS[size.network], SHAPE, CLASSES)
    for name in catalog.ABOUT:
        made = catalog.plan(f"mnist-{name}", SHAPE, scale)
        yield Row(
            "schemes", name, made.scheme, replace(made.recipe, epochs=1, natural=0.0), network
        )

    def pair(k: int) -> dict[str, training.Scheme]:
        linf = training.Single(catalog.inner(usual["linf"], k))
        return {"linf": linf, "max": several(size, ("linf", "l2", "l1"), k)["max"]}

    for k in (1, 5, 10, 20, 40):
        yield from (Row("steps", n, one, recipe, network, k) for n, one in pair(k).items())
    for n in range(1, 5):
        some = several(size, SETS[:n], size.steps)
        yield from (Row("sets", name, one, recipe, network, n) for name, one in some.items())
    two = pair(size.steps)
    for factor in (0.5, 1, 2):
        wide = partial(wider, factor)
        yield from (Row("width", name, one, recipe, wide, factor) for name, one in two.items())
    for batch in (16, 64, 256):
        other = replace(recipe, batch=batch)
        yield from (Row("batch", name, one, other, network, batch) for name, one in two.items())
    yield from savings(size, network, two)


def savings(
    size: Scale, network: Callable[[torch.Generator], nn.Module], two: dict[str, training.Scheme]
) -> Iterator[Row]:
    """Ways to compute the same, or nearly the same, in less time."""
    layouts = {"plain": torch.contiguous_format, "channels last": torch.channels_last}
    for bits, compute in (("32 bits", None), ("16 bits", torch.bfloat16)):
        for order, layout in layouts.items():
            other = replace(size.recipe, compute=compute, layout=layout)
            for name, one in {"natural": training.Natural(), "max": two["max"]}.items():
                yield Row("ways", name, one, other, network, f"{bits}, {order}")
    usual = sets.usual("mnist", SHAPE)
    balls = [usual[name] for name in ("linf", "l2", "l1")]
    inner = tuple(catalog.inner(ball, size.steps) for ball in balls)
    linf = usual["linf"]
    assert isinstance(linf, sets.Linf)
    last = training.Single(LastPoint(linf, size.steps))
    yield Row("looks", "linf", last, size.recipe, network, "last point")
    yield Row("looks", "max", MaxByScores(inner), size.recipe, network, "scores reused")
