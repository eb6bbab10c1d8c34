"""Training beside a bare loop that makes the same passes through the network.

    python -m benchmarks.training.throughput                             # half an hour on one core
    python -m benchmarks.training.throughput --network small_cnn --batch 512 --rows max

Ours is a step of ``mpkit train``: the batch is gathered, attacked, differentiated, the weights and
their running mean move. The bare loop makes as many passes on one batch that it has at hand, in
the same precision and layout: so many gradients for the images in eval mode, so many forward
passes without a gradient, so many for the weights in training mode, then the optimizer's step. It
attacks nothing: no start, no projection, no comparison. A scheme that draws one of several searches
for each batch runs each of them in turn, equally often; where a recipe trains a second network
without attacks alongside, the bare loop does so too. Both take turns; the images are MNIST's where
they are there, random otherwise.
"""

from __future__ import annotations

import resource
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.common import records
from benchmarks.peers.speed import spread
from mpkit import data, models
from mpkit.core.files import DataError
from mpkit.data import Images
from mpkit.studies.catalog import ABOUT, plan
from mpkit.training import Scheme
from mpkit.training.costs import parts
from mpkit.training.run import PEEK, Run

SHAPE, CLASSES = (1, 28, 28), 10
EPOCHS = 1000  # more than a race takes, so the learning rate hardly falls


class Work(NamedTuple):
    """Passes of one batch: for the images' gradient, forward alone, for the weights' gradient."""

    images: int
    forward: int
    weights: int


def work_of(scheme: Scheme, images: Images) -> Work:
    """Count what a scheme does to one batch."""
    counted = models.QueryCounter(
        models.small_cnn(SHAPE, CLASSES, torch.Generator().manual_seed(0))
    )
    loss = scheme(counted, images.x[:2], images.y[:2], torch.Generator().manual_seed(0))
    torch.autograd.backward(loss.sum())
    forward, backward, weights = counted.forwards // 2, counted.backwards // 2, counted.learned // 2
    return Work(backward - weights, forward - backward, weights)


def bare(run: Run, x: Tensor, y: Tensor, work: Work) -> None:
    """A step that makes these passes and nothing else."""
    if run.alongside and isinstance(other := run.alongside.natural, Run):
        bare(other, x, y, Work(0, 0, 1))
    run.optimizer.zero_grad(set_to_none=True)
    run.model.eval()
    for _ in range(work.images):
        image = x.detach().requires_grad_(True)
        torch.autograd.grad(cross_entropy(run.network(image), y, reduction="sum"), image)
    with torch.no_grad():
        for _ in range(work.forward):
            run.network(x)
    run.model.train()
    losses = [cross_entropy(run.network(x), y) for _ in range(work.weights)]
    torch.autograd.backward(torch.stack(losses).mean())
    run.optimizer.step()


class Clock:
    """Wall seconds, processor seconds and page faults of one call."""

    def __init__(self, call: Callable[[], object]) -> None:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        wall, processor = time.perf_counter(), time.process_time()
        call()
        self.wall, self.processor = time.perf_counter() - wall, time.process_time() - processor
        self.faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults


def made(row: str, network: str, images: Images, batch: int) -> Run:
    """A run of a named recipe, past its first epochs with smaller sets, on random weights."""
    named = plan(f"mnist-{row}", SHAPE)
    rng = torch.Generator().manual_seed(0)
    recipe = replace(named.recipe, batch=batch, epochs=EPOCHS)
    scheme = named.scheme.at(named.recipe.epochs, {})
    return Run(models.NETWORKS[network](SHAPE, CLASSES, rng), images, scheme, recipe, 0)


def raced(row: str, network: str, images: Images, batch: int, given: Namespace) -> dict[str, Any]:
    """Rounds of the bare loop, ours, and the bare loop again, each for about so many seconds."""
    run = made(row, network, images, batch)
    searches = parts(run.scheme)
    works = [work_of(scheme, images) for scheme in searches]
    x = run.images.x[:batch].contiguous(memory_format=run.recipe.layout)
    y = run.images.y[:batch]

    def ours(steps: int) -> None:
        for search in searches:
            run.scheme, left = search, steps
            while left:
                left -= run.stretch({}, min(left, PEEK))

    def loop(steps: int) -> None:
        for work in works:
            for _ in range(steps):
                bare(run, x, y, work)

    ours(1)  # the first calls are slow
    loop(1)
    steps = max(1, round(given.seconds / Clock(partial(loop, 1)).wall))
    turn = partial(loop, steps), partial(ours, steps), partial(loop, steps)
    taken = [tuple(Clock(call) for call in turn) for _ in range(given.rounds)]
    updates = steps * len(searches)
    wall = [(a.wall + b.wall) / 2 / c.wall for a, c, b in taken]
    processor = [(a.processor + b.processor) / 2 / c.processor for a, c, b in taken]
    result = {
        "row": row,
        "network": network,
        "batch": batch,
        "steps a call": updates,
        "passes": [work._asdict() for work in works],
        "images a second": spread([updates * batch / c.wall for _, c, _ in taken]),
        "of the bare loop": spread(wall),
        "of the bare loop, processor time": spread(processor),
        "page faults a step": {
            "ours": round(sum(c.faults for _, c, _ in taken) / len(taken) / updates),
            "bare": round(sum(a.faults + b.faults for a, _, b in taken) / len(taken) / updates / 2),
        },
    }
    print({k: v for k, v in result.items() if k != "passes"}, *works, flush=True)
    return result


def seen() -> tuple[Images, str]:
    """The images of an epoch, and where they come from."""
    try:
        return data.load("mnist", "train"), "mnist"
    except DataError:
        rng = torch.Generator().manual_seed(0)
        x = torch.rand(10_000, *SHAPE, generator=rng)
        y = torch.randint(0, CLASSES, (len(x),), generator=rng)
        return Images(x, y, tuple("0123456789"), "random"), "random"


def main() -> None:
    """Race every row on every network, and write one record."""
    parser = records.options(__doc__, "book/results/bench/training.json", 0)
    parser.add_argument("--network", nargs="+", default=["small_cnn", "paper_mnist"])
    parser.add_argument("--batch", type=int, nargs="+", default=[128])
    parser.add_argument("--rows", nargs="+", default=list(ABOUT))
    parser.add_argument("--seconds", type=float, default=0.5, help="of a call, at least one step")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--minutes", type=float, default=60, help="no race begins later than that")
    given, begun = records.begin(parser)
    images, source = seen()
    races: list[dict[str, Any]] = []
    late: list[list[Any]] = []
    for network, batch, row in product(given.network, given.batch, given.rows):
        if time.monotonic() - begun < 60 * given.minutes:
            races.append(raced(row, network, images, batch, given))
        else:
            late.append([network, batch, row])
    records.write(
        given, time.monotonic() - begun, {"races": races, "left out": late}, {"images": source}
    )


if __name__ == "__main__":
    main()
