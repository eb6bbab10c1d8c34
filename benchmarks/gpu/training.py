"""How long training steps take over their bare loop, and the memory that attacks need."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.gpu.checks import NOT_RUN
from benchmarks.gpu.steps import schemes
from benchmarks.gpu.timing import NETWORKS, Size, batch, network, taken, tf32
from mpkit import models
from mpkit.attacks.base import Problem
from mpkit.attacks.gradients import Guarded, evaluating
from mpkit.core import cuda_graphs
from mpkit.core.checks import unread
from mpkit.core.cuda_graphs import plainly
from mpkit.data import Crop, Flip, Images
from mpkit.evaluation import Budget, standard
from mpkit.sets import Union, usual
from mpkit.training import Recipe, Scheme
from mpkit.training.run import Run

KINDS = ("weights' gradient", "input's gradient", "forward only")


class Told(nn.Module):
    """A network that tells what each pass through it is for, by images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, dict.fromkeys(KINDS, 0)

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        towards_input = KINDS[1] if x.requires_grad else KINDS[0]
        self.images[towards_input if torch.is_grad_enabled() else KINDS[2]] += len(x)
        logits: Tensor = self.model(x)
        return logits


def passes(scheme: Scheme, x: Tensor, y: Tensor) -> dict[str, int]:
    """How often a step of a scheme sends its batch through the network, by kind of pass."""
    plain = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10))
    told, few = Told(plain), slice(0, 2)
    scheme(told, x[few].cpu(), y[few].cpu(), torch.Generator().manual_seed(0))
    return {kind: images // 2 for kind, images in told.images.items()}


def bare(run: Run, rows: Tensor, counts: dict[str, int]) -> Callable[[], object]:
    """The same passes on the same batch and nothing else, recorded."""
    x = run.images.x[rows].contiguous(memory_format=run.recipe.layout)
    y, model = run.images.y[rows], run.network

    def loop(x: Tensor, y: Tensor) -> list[Tensor]:
        with evaluating(model):
            for _ in range(counts[KINDS[1]]):
                image = x.detach().requires_grad_(True)
                torch.autograd.grad(cross_entropy(model(image), y), image)
            with torch.no_grad():
                for _ in range(counts[KINDS[2]]):
                    model(x)
        for _ in range(counts[KINDS[0]]):
            gradients = torch.autograd.grad(cross_entropy(model(x), y), run.weights)
        return list(gradients)

    work = cuda_graphs.usual(x.device)(loop, [x, y], kept=list(model.buffers()))
    return lambda: work(x, y)


def training(name: str, count: int, way: str, device: torch.device, size: Size) -> dict[str, Any]:
    """Whole steps of every scheme over the same passes, data and augmentation on the device."""
    x, y = batch(name, 8 * count, device)
    images = Images(x, y, tuple(map(str, range(10))), "noise")
    plain = way == "float32"
    recipe = Recipe(
        100,
        count,
        lr=1e-4,
        compute=None if plain else torch.bfloat16,
        layout=torch.contiguous_format if plain else torch.channels_last,
        augment=(Crop(4), Flip()) if name == "preact_resnet18" else (),
    )
    found: dict[str, Any] = {}
    for label, scheme in schemes(size.steps[name]).items():
        counts = passes(scheme, x, y)
        row: dict[str, Any] = {"passes": counts}
        with tf32(False):
            for how, recorder in (("recorded", None), ("plain", plainly)):
                if how == "recorded" and device.type != "cuda":
                    row[how] = NOT_RUN
                    continue
                model = models.NETWORKS[name](NETWORKS[name], 10, torch.Generator().manual_seed(0))
                run = Run(model.to(device), images, scheme, recipe, 0, recorder)
                rows = run._rows(0)
                run.model.train()
                if "bare loop" not in row:
                    loop = taken(bare(run, rows[0], counts), device, size.seconds)[0]
                    row["bare loop"] = loop
                step = partial(run._step, scheme, 0, 1, rows[1])
                seconds = taken(step, device, size.seconds)[0]
                row[how] = {
                    "seconds": seconds,
                    "images per second": count / seconds,
                    "share of the bare loop's speed": loop / seconds,
                }
        found[label] = row
    return found


def memory(name: str, count: int, device: torch.device) -> dict[str, Any]:
    """Peak bytes on the device of each attack of the standard suite, above what lay there before.

    Searches are short: their memory does not grow with their steps.
    """
    if device.type != "cuda":
        return {"result": NOT_RUN}
    model, (x, y) = network(name, "float32", device), batch(name, count, device)
    known = usual("mnist" if name == "paper_mnist" else "cifar10", NETWORKS[name])
    found = {}
    for entry in standard(Union(*known.values()), Budget(4, 2, 4, 4, 1, (2, 3), 8)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        rng = torch.Generator(device).manual_seed(0)
        with torch.no_grad(), unread():
            entry.attack.find(Problem(Guarded(model, 10), x, y, rng))
        found[entry.name] = {"bytes": torch.cuda.max_memory_allocated(device) - before}
    return {"greatest": max(row["bytes"] for row in found.values()), **found}
