"""The gradient of one training step: search and backward pass, recorded on a GPU and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.core import cuda_graphs
from mpkit.core.checks import unread
from mpkit.core.cuda_graphs import Recorder, plainly
from mpkit.core.devices import tuned
from mpkit.core.memory import NoMemory, ran_out
from mpkit.data import Images
from mpkit.models.wrappers import LowPrecision
from mpkit.training import data_parallel
from mpkit.training.recipes import Recipe, fingerprint
from mpkit.training.schemes import Scheme

MOST = 16  # recordings kept at a time: attacks that a scheme draws from, and their epochs


@dataclass(frozen=True)
class Batch:
    """What the batches of a run are made of, and how.

    Args:
        images: on the network's device.
        recipe: gives shards, augmentation and layout.
        statistics: the network's, which every shard moves.
    """

    images: Images
    recipe: Recipe
    statistics: data_parallel.Statistics

    def shard(self, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images, augmented, and labels in the given places."""
        x = self.images.x[rows]
        for change in self.recipe.augment:
            x = change(x, rng)
        return x.contiguous(memory_format=self.recipe.layout), self.images.y[rows]


@dataclass
class StepGradient:
    """Leaves the gradient of a batch's mean loss in the weights, and returns that loss.

    What is recorded is the work on one shard: all shards replay it, each with its own images and
    random numbers, and of schemes that draw an attack for each there is one recording an attack.
    The optimizer is no part of it: its few launches hide behind the device's work, and its
    arithmetic and its state stay those of a run without recordings.

    Args:
        network: what the scheme trains.
        weights: the parameters that get a gradient.
        batch: what a batch is made of.
        recorder: how steps are recorded; CUDA graphs on a GPU where not given.
    """

    network: nn.Module
    weights: Sequence[Tensor]
    batch: Batch
    recorder: Recorder | None = None
    recorded: dict[str, Callable[[Tensor], Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = self.batch.images.x.device
        self.recorder = self.recorder or cuda_graphs.usual(self.device)
        self.settles = self.device.type != "cpu" or self.recorder is not plainly
        self.shards = range(data_parallel.rank(), self.batch.recipe.shards, data_parallel.world())
        self.rng = torch.Generator(self.device)

    def __call__(self, scheme: Scheme, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        """The share of this process in the loss; the gradients of an earlier call are replaced.

        Args:
            scheme: how the batch becomes losses.
            rows: (batch,) places of the images, on their device.
            seeds: of the random numbers of this process's shards.
        """
        parts, sums = rows.chunk(self.batch.recipe.shards), list[Tensor | None]()
        for shard, seed in zip(self.shards, seeds, strict=True):
            own = scheme.settled(torch.Generator().manual_seed(seed)) if self.settles else scheme
            with tuned(self.device):
                work = self._prepared(own, parts[shard])
                self.rng.manual_seed(seed)
                told: list[Tensor | None] = work(parts[shard])
            sums = _added(sums, told) if sums else self._held(told)
        loss, gradients = sums[0], sums[1 : 1 + len(self.weights)]
        assert loss is not None
        self.batch.statistics.moves = [m for m in sums[1 + len(self.weights) :] if m is not None]
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        return loss

    def _prepared(self, scheme: Scheme, rows: Tensor) -> Callable[[Tensor], Any]:
        """The work on a shard with this scheme, recorded if it can be."""
        work = partial(self._descend, scheme)
        if self.recorder is None or self.recorder is plainly:
            return work
        try:
            name = fingerprint(scheme)
            made = self.recorded.pop(name, None)
            if made is None:
                while len(self.recorded) >= MOST:
                    del self.recorded[next(iter(self.recorded))]  # whose last use is longest ago
                made = self.recorder(work, [rows], [self.rng], list(self.network.buffers()))
            self.recorded[name] = made
        except (RuntimeError, TypeError) as error:
            warnings.warn(
                f"fit: a step with {type(scheme).__name__} cannot be recorded ({error}); "
                "running every step plainly",
                stacklevel=4,
            )
            self.recorder = plainly
            self.recorded.clear()
            self.rng = torch.Generator(self.device)
            return work
        return made

    def _held(self, told: list[Tensor | None]) -> list[Tensor | None]:
        """What the first shard gave, safe from the others: a replay overwrites its results."""
        if len(self.shards) == 1 or self.recorder is plainly:
            return told
        return [None if one is None else one.clone() for one in told]

    def _descend(self, scheme: Scheme, rows: Tensor) -> list[Tensor | None]:
        """Loss, gradients and moves of the network's statistics, by work for the device alone.

        Raises: NoMemory: the part of the batch does not fit; smaller parts need less.
        """
        batch, whole = self.batch, len(rows) * self.batch.recipe.shards
        for weight in self.weights:
            weight.grad = None
        batch.statistics.begin()
        network = self.network
        once = network.cast_once() if isinstance(network, LowPrecision) else nullcontext()
        try:
            x, y = batch.shard(rows, self.rng)
            with unread(), once:
                loss = scheme(network, x, y, self.rng).sum() / whole
            torch.autograd.backward(loss)
        except (RuntimeError, MemoryError) as error:
            if ran_out(error):
                raise self._too_large(len(rows), whole) from error
            raise
        batch.statistics.set_back()
        return [loss.detach(), *(w.grad for w in self.weights), *batch.statistics.moves]

    def _too_large(self, count: int, whole: int) -> NoMemory:
        twice = 2 * self.batch.recipe.shards
        return NoMemory(
            f"fit: out of memory at {count} images at a time on {self.device}; take each batch of "
            f"{whole} in more parts, such as Recipe(shards={twice}) or --shards {twice}, or a "
            "smaller batch; checkpoints so far are kept"
        )


def _added(sums: list[Tensor | None], told: list[Tensor | None]) -> list[Tensor | None]:
    """The sums with what one more shard gave, in place; a weight without a gradient has None."""
    pairs = [(a, b) for a, b in zip(sums, told, strict=True) if a is not None and b is not None]
    torch._foreach_add_([a for a, _ in pairs], [b for _, b in pairs])
    return [b if a is None else a for a, b in zip(sums, told, strict=True)]
