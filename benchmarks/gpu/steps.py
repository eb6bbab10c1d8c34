"""Whether training steps on a device are those of a CPU, and whether anything waits for it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.gpu.checks import (
    BALLS,
    CLASSES,
    NOT_RUN,
    POSES,
    drawn_on_the_host,
    problem,
    search,
    searches,
    verdict,
)
from mpkit.attacks import MSD, PGD, SLIDE, Attack, GraphedAttack, SpatialPGD
from mpkit.core.cuda_graphs import plainly
from mpkit.data import Images
from mpkit.sets import L1, Union
from mpkit.training import (
    SGD,
    Average,
    Constant,
    LogitPairing,
    Max,
    Natural,
    Random,
    Recipe,
    Scheme,
    Single,
)
from mpkit.training.run import Run


def schemes(steps: int) -> dict[str, Scheme]:
    """One of each kind of training scheme."""
    three: tuple[Attack, ...] = (
        PGD(BALLS["linf"], steps),
        PGD(BALLS["l2"], steps),
        SLIDE(L1(10.0), steps),
    )
    return {
        "natural": Natural(),
        "linf": Single(three[0]),
        "avg": Average(three),
        "max": Max(three),
        "msd": Single(MSD(Union(*BALLS.values()), steps)),
        "random": Random(three),
        "paired": LogitPairing(three[0], three[2]),
        "rotations": Single(SpatialPGD(POSES, steps)),
    }


def stepped(
    scheme: Scheme, model: nn.Module, images: Images, count: int, recorder: Any = None
) -> tuple[Tensor, Tensor]:
    """Weights' movement, and losses, of a copy of a network by a few steps of training."""
    recipe = Recipe(1, len(images) // count, 0.05, SGD(0.0, 0.0), Constant())
    run = Run(copy.deepcopy(model), images, scheme, recipe, 5, recorder)
    before = [weight.detach().clone() for weight in run.weights]
    run.stretch({})
    moved = [(w.detach() - old).flatten() for w, old in zip(run.weights, before, strict=True)]
    return torch.cat(moved).double().cpu(), run.losses.double().cpu()


def training(device: torch.device, points: int, steps: int) -> dict[str, Any]:
    """One step of every scheme on the device and on the CPU; then recorded steps and plain ones."""
    model, x, y = problem(points)
    names = tuple(map(str, range(CLASSES)))
    here, found = Images(x, y, names, "noise"), {}
    exact, there = copy.deepcopy(model).double(), copy.deepcopy(model).to(device)
    for name, scheme in schemes(steps).items():
        with (
            drawn_on_the_host(),
            mock.patch.object(Random, "settled", lambda self, rng: Single(self.attacks[0])),
        ):
            ours, double, theirs = (
                stepped(scheme, network, here, 1, plainly)[0] for network in (model, exact, there)
            )
        found[name] = verdict(_turned(theirs, ours), _turned(ours, double))
        if device.type == "cuda":
            plain, again, graph = (
                stepped(scheme, there, here, 4, way) for way in (plainly, plainly, None)
            )
            gap, luck = ((_turned(one[0], plain[0])) for one in (graph, again))
            found[f"{name}, recorded"] = verdict(gap, luck, 1e-6)
        else:
            found[f"{name}, recorded"] = {"result": NOT_RUN}
    return found


def first_attack(scheme: Random, rng: torch.Generator) -> Single:
    """In place of a draw, which devices make with generators of their own."""
    return Single(scheme.attacks[0])


def _turned(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def waiting(device: torch.device, points: int, steps: int) -> dict[str, Any]:
    """Attacks and training steps while torch forbids the host to wait for the device."""
    if device.type != "cuda":
        return {"result": NOT_RUN}
    model, x, y = problem(points)
    rng = torch.Generator(device).manual_seed(6)
    model, x, y = model.to(device), x.to(device), y.to(device)
    works: dict[str, Callable[[], Any]] = {
        name: partial(search, attack, model, x, y, rng) for name, attack in searches(steps).items()
    }
    works |= {
        f"{name}, recorded": partial(GraphedAttack(attack, model, x, y), x, y, rng)
        for name, attack in searches(steps).items()
    }
    images = Images(x, y, tuple(map(str, range(CLASSES))), "noise")
    for name, scheme in schemes(steps).items():
        for way, recorder in (("recorded", None), ("plain", plainly)):
            run = Run(model, images, scheme, Recipe(8, points, clip=1, averaging=0.9), 7, recorder)
            rows = run._rows(0)[0]
            run._step(scheme, 0, 0, rows)  # records
            works[f"training {name}, {way}"] = partial(run._step, scheme, 0, 0, rows)
    found = {}
    for name, work in works.items():
        work()
        torch.cuda.synchronize(device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            work()
            found[name] = {"right": True}
        except RuntimeError as error:
            found[name] = {"right": False, "error": str(error)[:300]}
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found
