"""How long things take on a device: its ceilings, bare loops, attacks over them."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.checks import NOT_RUN, letting_go
from mpkit import models
from mpkit.attacks import APGD, MSD, PGD, SLIDE, Attack, GraphedAttack, GraphedSteps
from mpkit.attacks.base import Problem
from mpkit.attacks.gradients import Guarded
from mpkit.core import cuda_graphs
from mpkit.core.checks import unread
from mpkit.core.cuda_graphs import plainly
from mpkit.sets import Ball, Union, fused, usual

NETWORKS = {"paper_mnist": (1, 28, 28), "preact_resnet18": (3, 32, 32)}
WAYS = ("float32", "bfloat16, channels last")
STAYING = ("pgd linf", "apgd linf", "apgd l1")
"""Attacks that are timed as an evaluation runs them, too."""


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Args:
        side: of the matrices whose product gives the ceiling.
        copied: bytes that are copied for the bandwidth.
        batches: images at a time, by network.
        steps: gradients of an attack, by network.
        seconds: for each timing, after a warm-up.
    """

    side: int
    copied: int
    batches: dict[str, tuple[int, ...]]
    steps: dict[str, int]
    seconds: float


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Whether float32 products may use the matrix units' shorter type."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32 = convolutions.allow_tf32 = allowed
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before


def taken(work: Callable[[], object], device: torch.device, seconds: float) -> list[float]:
    """Median, least and greatest seconds of a call, over groups of calls.

    A GPU tells the time between two events, with as many calls between them as last for a tenth of
    the time: what the host does before the first one starts is no time of the device.
    """
    work()
    if device.type != "cuda":
        return _groups(lambda: _by_the_clock(work), seconds)
    with torch.cuda.device(device):
        once = _between_events(work, 1)
        calls = max(1, round(seconds / 10 / max(once, 1e-7)))
        return _groups(lambda: _between_events(work, calls), seconds)


def _groups(measured: Callable[[], float], seconds: float) -> list[float]:
    """At least three measurements, until the time is over."""
    times, begun = list[float](), time.perf_counter()
    while len(times) < 3 or time.perf_counter() - begun < seconds:
        times.append(measured())
    return [statistics.median(times), min(times), max(times)]


def _by_the_clock(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _between_events(work: Callable[[], object], calls: int) -> float:
    """Seconds of a call on the present GPU."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()  # type: ignore[no-untyped-call]
    for _ in range(calls):
        work()
    last.record()  # type: ignore[no-untyped-call]
    last.synchronize()  # type: ignore[no-untyped-call]
    return float(first.elapsed_time(last)) / 1e3 / calls  # type: ignore[no-untyped-call]


def floors(device: torch.device, size: Size) -> dict[str, Any]:
    """Matrix products per second in each type, and bytes read and written per second."""
    rng = torch.Generator(device).manual_seed(0)
    found: dict[str, Any] = {}
    for name in ("float32", "tf32", "bfloat16"):
        if name == "tf32" and device.type != "cuda":
            found[name] = NOT_RUN
            continue
        a, b = (torch.randn(size.side, size.side, generator=rng, device=device) for _ in range(2))
        if name == "bfloat16":
            a, b = a.bfloat16(), b.bfloat16()
        with tf32(name == "tf32"):
            median = taken(lambda a=a, b=b: a @ b, device, size.seconds)[0]  # type: ignore[misc]
        found[name] = {"operations per second": 2 * size.side**3 / median}
    source = torch.rand(size.copied // 4, generator=rng, device=device)
    target = torch.empty_like(source)
    median = taken(lambda: target.copy_(source), device, size.seconds)[0]
    return {**found, "bytes per second": 2 * source.nbytes / median}


def network(name: str, way: str, device: torch.device) -> nn.Module:
    """A network of random weights in eval mode, its weights frozen."""
    model = models.NETWORKS[name](NETWORKS[name], 10, torch.Generator().manual_seed(0))
    model = model.to(device).eval().requires_grad_(False)
    if way == "float32":
        return model
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return models.LowPrecision(models.ChannelsLast(model))


def batch(name: str, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images and labels, not zeros: those run faster than data does."""
    rng = torch.Generator().manual_seed(count)
    x = torch.rand(count, *NETWORKS[name], generator=rng)
    return x.to(device), torch.randint(0, 10, (count,), generator=rng).to(device)


def bare(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> Callable[[], object]:
    """So many forward passes with the gradient for the input and nothing else, recorded."""

    def loop(x: Tensor, y: Tensor) -> Tensor:
        for _ in range(steps):
            image = x.detach().requires_grad_(True)
            loss = cross_entropy(model(image), y, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, image)
        return gradient

    work = cuda_graphs.usual(x.device)(loop, [x, y])
    return lambda: work(x, y)


def searching(name: str, count: int, way: str, device: torch.device, size: Size) -> dict[str, Any]:
    """The bare loop beside its floor, and attacks over the bare loop."""
    model, (x, y), steps = network(name, way, device), batch(name, count, device), size.steps[name]
    known = usual(name.removeprefix("paper_").replace("preact_resnet18", "cifar10"), NETWORKS[name])
    balls = {key: ball for key, ball in known.items() if isinstance(ball, Ball)}
    runs: dict[str, Attack] = {f"pgd {key}": PGD(ball, steps) for key, ball in balls.items()}
    runs |= {f"apgd {key}": APGD(ball, steps) for key, ball in balls.items()}
    runs["slide l1"] = SLIDE(known["l1"], steps)  # type: ignore[arg-type]
    runs["msd"] = MSD(Union(*balls.values()), steps)
    if count > 512:  # a large batch takes long, and the launches it hides were counted before
        runs = {label: runs[label] for label in ("pgd linf", "apgd linf", "apgd l1")}
    with tf32(False):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(name, "float32", torch.device("cpu"))(x[:1].cpu())
        loop = taken(bare(model, x, y, steps), device, size.seconds)
        found: dict[str, Any] = {
            "operations of a step": 2 * counter.get_total_flops() * count,  # forth and back
            "bare loop": {"seconds": loop, "steps": steps},
        }
        for label, attack in runs.items():
            rng = torch.Generator(device).manual_seed(0)
            with torch.no_grad(), unread():
                problem = Problem(Guarded(model, 10), x, y, rng)
                plain = taken(partial(attack.find, problem), device, size.seconds)
            row = {"plain": plain[0], "plain over the bare loop": plain[0] / loop[0]}
            if device.type == "cuda":
                search = partial(GraphedAttack(attack, model, x, y), x, y, rng)
                fast = taken(search, device, size.seconds)
                row |= {"recorded": fast[0], "recorded over the bare loop": fast[0] / loop[0]}
                with fused.off():
                    search = partial(GraphedAttack(attack, model, x, y), x, y, rng)
                    slow = taken(search, device, size.seconds)
                row["recorded without kernels for rows"] = slow[0]
            if label in STAYING:
                row["letting nobody go"] = staying(attack, model, x, size.seconds)
            found[label] = row
        if count == min(size.batches[name]):
            found["others"] = others(model, x, y, balls, steps, loop[0], size)
    return found


def staying(attack: Attack, model: nn.Module, x: Tensor, seconds: float) -> dict[str, Any]:
    """Seconds of a search in a ball so small that none leaves, its steps replayed and not.

    Rows are padded to a power of two, which three quarters of a batch pay for.
    """
    attack, found = replace(attack, set=attack.set.scaled(1e-3)), dict[str, Any]()  # type: ignore
    with torch.no_grad():
        y = model(x).argmax(1)
    for part, count in (("whole", len(x)), ("three quarters", max(1, 3 * len(x) // 4))):
        for way, recorder in (("plain", plainly), ("replayed", cuda_graphs.usual(x.device))):
            if way == "replayed" and recorder is plainly:
                found[f"{part}, {way}"] = NOT_RUN
                continue
            search = partial(
                letting_go, attack, model, x[:count], y[:count], GraphedSteps(recorder)
            )
            found[f"{part}, {way}"] = taken(search, x.device, seconds)[0]
    return found


def others(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    balls: dict[str, Ball],
    steps: int,
    loop: float,
    size: Size,
) -> dict[str, Any]:
    """Attacks of other libraries over the bare loop, where the libraries are installed."""
    from benchmarks.peers.speed import TIMED
    from mpkit.audit.libraries import CANDIDATES, installed

    found: dict[str, Any] = {}
    for library, names in TIMED.items():
        if library == "mpkit" or not installed(library):
            continue
        known = {(one.name, one.kind): one.make for one in CANDIDATES[library]()}
        for attack, kind in names:
            ball = next(one for one in balls.values() if type(one) is kind)
            run = partial(known[attack, kind](ball, steps), model, x, y)
            try:
                seconds = taken(run, x.device, size.seconds)[0]
            except (RuntimeError, ValueError, TypeError) as error:  # one that cannot use the device
                found[f"{library} {attack} {kind.__name__}"] = {"not run": str(error)[:200]}
                continue
            row = {"plain": seconds, "plain over the bare loop": seconds / loop}
            found[f"{library} {attack} {kind.__name__}"] = row
    return found
