"""The gradient of one training step: search and backward pass, recorded on a GPU and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.core import cuda_graphs
from mpkit.core.checks import unread
from mpkit.core.cuda_graphs import Recorder, plainly
from mpkit.core.memory import NoMemory, ran_out
from mpkit.data import Images
from mpkit.training import data_parallel
from mpkit.training.recipes import Recipe, fingerprint
from mpkit.training.schemes import Scheme

MOST = 8  # recordings kept at a time; each holds the memory of a step


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

    The optimizer is no part of a recording: its few launches hide behind the device's work, and
    its arithmetic and its state stay those of a run without recordings.

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
        self.rngs = [torch.Generator(self.device) for _ in self.shards]

    def __call__(self, scheme: Scheme, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        """The share of this process in the loss; the gradients of an earlier call are replaced.

        Args:
            scheme: how the batch becomes losses.
            rows: (batch,) places of the images, on their device.
            seeds: of the random numbers of this process's shards.
        """
        schemes = [scheme] * len(seeds)
        if self.settles:
            schemes = [scheme.settled(torch.Generator().manual_seed(seed)) for seed in seeds]
        work = self._prepared(schemes, rows)
        for rng, seed in zip(self.rngs, seeds, strict=True):
            rng.manual_seed(seed)
        loss: Tensor
        loss, gradients, self.batch.statistics.moves = work(rows)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        return loss

    def _prepared(self, schemes: Sequence[Scheme], rows: Tensor) -> Callable[[Tensor], Any]:
        """The work with these schemes, recorded if it can be."""
        work = partial(self._descend, schemes)
        if self.recorder is None or self.recorder is plainly:
            return work
        try:
            name = fingerprint(*schemes)
            if name not in self.recorded:
                if len(self.recorded) >= MOST:
                    self.recorded.clear()
                kept = list(self.network.buffers())
                self.recorded[name] = self.recorder(work, [rows], self.rngs, kept)
        except (RuntimeError, TypeError) as error:
            warnings.warn(
                f"fit: a step with {type(schemes[0]).__name__} cannot be recorded ({error}); "
                "running every step plainly",
                stacklevel=4,
            )
            self.recorder = plainly
            self.recorded.clear()
            self.rngs = [torch.Generator(self.device) for _ in self.shards]
            return work
        return self.recorded[name]

    def _descend(self, schemes: Sequence[Scheme], rows: Tensor) -> tuple[Tensor, Any, Any]:
        """Loss, gradients and moves of the network's statistics, by work for the device alone.

        Raises: NoMemory: a part of the batch does not fit; smaller parts need less.
        """
        batch = self.batch
        for weight in self.weights:
            weight.grad = None
        total, parts = batch.images.x.new_zeros(()), rows.chunk(batch.recipe.shards)
        batch.statistics.begin()
        for scheme, shard, rng in zip(schemes, self.shards, self.rngs, strict=True):
            try:
                x, y = batch.shard(parts[shard], rng)
                with unread():
                    loss = scheme(self.network, x, y, rng).sum() / len(rows)
                torch.autograd.backward(loss)
            except (RuntimeError, MemoryError) as error:
                if ran_out(error):
                    raise self._too_large(len(parts[shard]), len(rows)) from error
                raise
            total += loss.detach()
            batch.statistics.set_back()
        return total, [weight.grad for weight in self.weights], batch.statistics.moves

    def _too_large(self, count: int, whole: int) -> NoMemory:
        twice = 2 * self.batch.recipe.shards
        return NoMemory(
            f"fit: out of memory at {count} images at a time on {self.device}; take each batch of "
            f"{whole} in more parts, such as Recipe(shards={twice}) or --shards {twice}, or a "
            "smaller batch; checkpoints so far are kept"
        )
