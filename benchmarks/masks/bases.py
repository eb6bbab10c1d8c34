"""The networks that the models of the benchmark are made of, trained in a few epochs on digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from torch import Tensor, nn

from benchmarks.masks import learned, tricks, unusual
from benchmarks.masks.distillation import distil
from mpkit import data
from mpkit.attacks import PGD, SLIDE, Attack
from mpkit.models import small_cnn
from mpkit.sets import Ball, Linf, usual
from mpkit.training import Average, Max, Natural, RadiusWarmup, Recipe, Scheme, Single, fit

SETS = usual("digits", (1, 8, 8))
"""The sets in which models are examined, by name."""


def inner(name: str) -> Attack:
    """The search of an adversarial training in the usual ball of a norm."""
    ball = SETS[name]
    assert isinstance(ball, Ball)
    return SLIDE(ball, 7) if name == "l1" else PGD(ball, 7)


NORMS = ("linf", "l2", "l1")
RAMP = (0.2, 0.6)  # the share of training in which radii grow
SCHEMES: dict[str, Scheme] = {
    "natural": Natural(),
    "other": Natural(),
    **{name: RadiusWarmup(Single(inner(name)), RAMP) for name in NORMS},
    "avg": RadiusWarmup(Average(tuple(map(inner, NORMS))), RAMP),
    "max": RadiusWarmup(Max(tuple(map(inner, NORMS))), RAMP),
    "one step": Single(PGD(Linf(0.15), 1, step=1.0)),
    "wide linf": RadiusWarmup(Single(PGD(Linf(0.3), 7)), RAMP),
}


@cache
def learn() -> data.Images:
    """The training images."""
    return data.load("digits", "train")


@cache
def network(kind: str) -> nn.Module:
    """A network trained by one of the schemes; the same each time."""
    seed = 1 + list(SCHEMES).index(kind)
    build = small_cnn(learn().shape, 10, tricks.generator(seed))
    fit(build, learn(), SCHEMES[kind], Recipe(epochs=8, batch=96), tricks.generator(seed))
    return build.eval()


@cache
def distilled() -> nn.Module:
    """The student of a defensive distillation."""
    student, teacher = (small_cnn(learn().shape, 10, tricks.generator(s)) for s in (7, 8))
    return distil(
        teacher, student, learn(), tricks.generator(), recipe=Recipe(epochs=12, batch=128)
    )


@cache
def taught(kind: str) -> nn.Module:
    """A network of an unusual kind, trained on the images."""
    builds: dict[str, Callable[[], nn.Module]] = {
        "spiking": learned.Spiking,
        "binary": learned.Binary,
        "equilibrium": learned.Equilibrium,
        "thermometer": unusual.thermometer,
        "winners": unusual.winners,
    }
    return unusual.trained(list(builds).index(kind) + 4, builds[kind], Natural(), learn(), 12)


@cache
def x() -> Tensor:
    """Test images, as one batch."""
    return data.load("digits", "test").x
