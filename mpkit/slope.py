"""The gradient of one training step: search and backward pass, recorded on a GPU and replayed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mpkit import parallel, recording
from mpkit.checks import unread
from mpkit.data import Images
from mpkit.memory import NoMemory, ran_out
from mpkit.recipes import Recipe, fingerprint
from mpkit.recording import Recorder, plainly
from mpkit.schemes import Scheme

MOST = 8  # recordings kept at a time; each holds the memory of a step


@dataclass
class Slope:
    """Leaves the gradient of a batch's mean loss in the weights, and returns that loss.

    The optimizer is no part of a recording: its few launches hide behind the device's work, and
    its arithmetic and its state stay those of a run without recordings.

    Args:
        network: what the scheme trains.
        weights: the parameters that get a gradient.
        images: on the network's device.
        recipe: gives augmentation, layout, and the size of a batch.
        statistics: those of layers that normalize a batch; what moves them is left there.
        recorder: how steps are recorded; CUDA graphs on a GPU where not given.
    """

    network: nn.Module
    weights: Sequence[Tensor]
    images: Images
    recipe: Recipe
    statistics: parallel.Statistics
    recorder: Recorder | None = None
    recorded: dict[str, Callable[[Tensor], Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.device = self.images.x.device
        self.recorder = self.recorder or recording.usual(self.device)
        self.settles = self.device.type != "cpu" or self.recorder is not plainly
        self.shards = range(parallel.rank(), self.recipe.shards, parallel.world())
        self.rngs = [torch.Generator(self.device) for _ in self.shards]

    def __call__(self, scheme: Scheme, rows: Tensor, seeds: Sequence[int]) -> Tensor:
        """The share of this process in the loss; the gradients of an earlier call are replaced.

        Args:
            scheme: how the batch becomes losses.
            rows: (batch,) places of the images, on their device.
            seeds: of the random numbers of this process's shards.

        Raises:
            NoMemory: a part of the batch does not fit; smaller parts need less.
        """
        schemes = [scheme] * len(seeds)
        if self.settles:
            schemes = [scheme.settled(torch.Generator().manual_seed(seed)) for seed in seeds]
        work = self._prepared(schemes, rows)
        for rng, seed in zip(self.rngs, seeds, strict=True):
            rng.manual_seed(seed)
        try:
            loss, gradients, self.statistics.moves = work(rows)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            parts = self.recipe.shards
            raise NoMemory(
                f"fit: out of memory at {-(-len(rows) // parts)} images at a time on {self.device};"
                f" take each batch of {len(rows)} in more parts, such as Recipe(shards={2 * parts})"
                f" or --shards {2 * parts}, or a smaller batch; checkpoints so far are kept"
            ) from error
        for weight, gradient in zip(self.weights, gradients, strict=True):
            weight.grad = gradient
        total: Tensor = loss
        return total

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

    def _descend(
        self, schemes: Sequence[Scheme], rows: Tensor
    ) -> tuple[Tensor, list[Any], list[Tensor]]:
        """Loss, gradients and the moves of running statistics, by work for the device alone."""
        for weight in self.weights:
            weight.grad = None
        total, parts = self.images.x.new_zeros(()), rows.chunk(self.recipe.shards)
        self.statistics.begin()
        for scheme, shard, rng in zip(schemes, self.shards, self.rngs, strict=True):
            x = self.images.x[parts[shard]]
            for change in self.recipe.augment:
                x = change(x, rng)
            x = x.contiguous(memory_format=self.recipe.layout)
            with unread():
                losses = scheme(self.network, x, self.images.y[parts[shard]], rng)
            loss = losses.sum() / len(rows)
            torch.autograd.backward(loss)
            total += loss.detach()
            self.statistics.set_back()
        return total, [weight.grad for weight in self.weights], self.statistics.moves
