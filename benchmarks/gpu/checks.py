"""Whether a device computes what a CPU computes: sets, attacks, recordings.

What rounding alone may move is measured on the same problem: the CPU repeats it in double
precision. The device passes where it stays within ten times that, or within a floor for where
both agree by luck. A fixed bound would be wrong: signs of gradients near zero turn a rounding
error into a whole step, how often depends on the network. Convolutions must not use tf32, whose
ten bits of mantissa are another arithmetic, and must give the same bits every time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from mpkit import models
from mpkit.attacks import (
    APGD,
    MSD,
    PGD,
    SLIDE,
    Attack,
    AttackResult,
    GraphedAttack,
    GraphedSteps,
    Grid,
    SpatialPGD,
    Square,
)
from mpkit.attacks.base import OnceReached, Problem
from mpkit.attacks.gradients import Guarded
from mpkit.attacks.recorded import OFTEN
from mpkit.core import cuda_graphs
from mpkit.core.checks import unread
from mpkit.sets import L1, L2, Ball, Linf, RotationTranslation, Union, fused

SHAPE, CLASSES = (1, 28, 28), 10
BALLS: dict[str, Ball] = {"linf": Linf(0.3), "l2": L2(2.0), "l1": L1(10.0)}
POSES = RotationTranslation(3, 30)
FLOOR = 1e-4
"""Of the mean score or of the update's length: some hundred float32 epsilons of a whole network."""
NOT_RUN = "not run: no CUDA"


@contextmanager
def drawn_on_the_host() -> Iterator[None]:
    """Random numbers from a CPU, in double precision, whatever device and type they are for."""
    twins: dict[tuple[int, int], tuple[torch.Generator, torch.Generator]] = {}

    def twin(rng: torch.Generator) -> torch.Generator:
        key = id(rng), rng.initial_seed()
        return twins.setdefault(key, (rng, torch.Generator().manual_seed(key[1])))[1]

    def drawing(law: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def draw(*words: Any, generator: Any, device: Any = None, dtype: Any = None) -> Tensor:
            kind = {} if law is randint else {"dtype": torch.float64}
            return law(*words, generator=twin(generator), **kind).to(device=device, dtype=dtype)

        return draw

    def exponential_(self: Tensor, *, generator: torch.Generator) -> Tensor:
        drawn = torch.empty(self.shape, dtype=torch.float64)
        return self.copy_(exponential(drawn, generator=twin(generator)))

    randint, exponential = torch.randint, torch.Tensor.exponential_
    changed = {name: drawing(getattr(torch, name)) for name in ("rand", "randn", "randint")}
    with (
        mock.patch.multiple(torch, **changed),
        mock.patch.object(torch.Tensor, "exponential_", exponential_),
    ):
        yield


def problem(points: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of random weights, images, and the labels that it gives them: all on a CPU."""
    rng = torch.Generator().manual_seed(0)
    model = models.small_cnn(SHAPE, CLASSES, rng).eval()
    x = torch.rand(points, *SHAPE, generator=rng)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def verdict(apart: float, rounding: float, floor: float = FLOOR) -> dict[str, Any]:
    """A difference, what rounding explains, and whether that is enough."""
    allowed = max(10 * rounding, floor)
    return {"apart": apart, "rounding": rounding, "allowed": allowed, "right": apart <= allowed}


def sets(device: torch.device, points: int) -> dict[str, Any]:
    """Samples, projections and warps on the device against double precision on the CPU.

    Allowed are 1e-5 radii, what projections promise, and 1e-4 for pixels of a warp, whose places
    are known to a few float32 epsilons times the width.
    """
    _, x, _ = problem(points)
    rng, found = torch.Generator().manual_seed(1), {}
    there = x.to(device)
    for name, ball in BALLS.items():
        for far in (0.1, 3.0):
            z = ball.sample(x, rng)
            z = z + far * ball.steepest(torch.randn(x.shape, generator=rng))
            exact = ball.project(x.double(), z.double())
            got = ball.project(there, z.to(device))
            apart = float((ball.norm(got.cpu().double() - exact) / ball.eps).max())
            own = ball.sample(there, torch.Generator(device).manual_seed(2))
            row = verdict(apart, 0.0, 1e-5)
            inside = bool((ball.contains(there, got) & ball.contains(there, own)).all())
            row["right"] &= inside
            found[f"{name}, {far:g} radii outside"] = {**row, "inside": inside}
    pose = POSES.sample(x, rng)
    turned = POSES.apply(there, pose.to(device)).cpu().double()
    apart = float((turned - POSES.apply(x.double(), pose.double())).abs().max())
    found["rotation and translation"] = verdict(apart, 0.0, 1e-4)
    return found


def searches(steps: int) -> dict[str, Attack]:
    """One of each kind of attack."""
    return {
        **{f"pgd {name}": PGD(ball, steps) for name, ball in BALLS.items()},
        "slide l1": SLIDE(L1(10.0), steps),
        **{f"apgd {name}": APGD(ball, max(12, steps)) for name, ball in BALLS.items()},
        "msd": MSD(Union(*BALLS.values()), steps),
        **{f"square {name}": Square(ball, 2 * steps) for name, ball in BALLS.items()},
        "grid": Grid(POSES, 3, 5),
        "climb": SpatialPGD(POSES, steps),
    }


def search(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator
) -> AttackResult:
    """The attack without any look at values."""
    with torch.no_grad(), unread():
        return attack.find(Problem(Guarded(model, CLASSES), x, y, rng))


def apart(one: AttackResult, other: AttackResult) -> float:
    """Mean difference of the scores over their mean size."""
    a, b = one.score.double().cpu(), other.score.double().cpu()
    return float((a - b).abs().mean() / b.abs().mean())


def attacks(device: torch.device, points: int, steps: int) -> dict[str, Any]:
    """Every attack on the device and on the CPU, with the same random numbers."""
    model, x, y = problem(points)
    exact, there = copy.deepcopy(model).double(), copy.deepcopy(model).to(device)
    found = {}
    for name, attack in searches(steps).items():
        runs = []
        for network, images in ((model, x), (exact, x.double()), (there, x.to(device))):
            with drawn_on_the_host():
                rng = torch.Generator().manual_seed(3)
                runs.append(search(attack, network, images, y.to(images.device), rng))
        ours, double, theirs = runs
        row = verdict(apart(theirs, ours), apart(ours, double))
        inside = bool(attack.set.contains(x.to(device), theirs.z).all())
        with torch.no_grad():
            again = attack.loss(exact(theirs.image.cpu().double()), y)
        told = apart(theirs, AttackResult(theirs.image, None, again))
        row["right"] &= inside and told <= FLOOR
        found[name] = {**row, "inside": inside, "score told and true": told}
    if device.type == "cuda":
        found["kernels for rows"] = {name: {"right": right} for name, right in fused.PROVEN.items()}
    return found


def recorded(device: torch.device, points: int, steps: int) -> dict[str, Any]:
    """Recorded attacks against the attacks themselves, on the device, by the same generator."""
    if device.type != "cuda":
        return {"result": NOT_RUN}
    model, x, y = problem(points)
    model, x, y = model.to(device), x.to(device), y.to(device)
    found = {}
    for name, attack in searches(steps).items():
        graphed = GraphedAttack(attack, model, x, y)
        got, plain, again = (
            one(x, y, torch.Generator(device).manual_seed(4))
            for one in (graphed, partial(attack, model), partial(attack, model))
        )
        found[name] = verdict(apart(got, plain), apart(again, plain), 1e-6)
    return found


def replayed(device: torch.device, points: int, steps: int) -> dict[str, Any]:
    """Replayed steps of searches that let examples go, against the steps on rows padded alike."""
    if device.type != "cuda":
        return {"result": NOT_RUN}
    model, x, y = problem(points)
    model, x, y = model.to(device), x.to(device), y.to(device)
    found = {}
    for name, attack in searches(max(steps, 3 * OFTEN)).items():
        got, plain, again = (
            letting_go(attack, model, x, y, GraphedSteps(recorder))
            for recorder in (cuda_graphs.Recording, unrecorded, unrecorded)
        )
        found[name] = verdict(apart(got, plain), apart(again, plain), 1e-6)
    return found


def unrecorded(work: Callable[..., Any], *_: Any) -> Callable[..., Any]:
    """The work itself, of which all else is done that is done for a recording."""
    return work


def letting_go(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, stepping: GraphedSteps
) -> AttackResult:
    """The attack as an evaluation runs it: whoever is broken leaves."""
    rng, guarded = torch.Generator(x.device).manual_seed(4), Guarded(model, CLASSES)
    with torch.no_grad(), unread():
        return attack.find(Problem(guarded, x, y, rng, OnceReached(), stepping=stepping))
