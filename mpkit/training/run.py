"""The state of one training run, and its steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpkit.core.cuda_graphs import Recorder
from mpkit.data import Images
from mpkit.models.wrappers import LowPrecision
from mpkit.training import data_parallel
from mpkit.training.gradient_projection import Alongside
from mpkit.training.recipes import Recipe
from mpkit.training.schemes import Natural, Scheme
from mpkit.training.step import Batch, StepGradient

PEEK = 20  # steps between two looks at the losses; a look makes a GPU wait


class Diverged(RuntimeError):
    """The loss is no longer a finite number; the message names epoch and step."""


class Run:
    """The moving parts of a run: network, optimizer, running mean, position.

    Whatever is random in a step follows from ``seed`` and the position alone. On a GPU search and
    gradient are recorded once and replayed (see StepGradient).
    """

    def __init__(
        self,
        model: nn.Module,
        images: Images,
        scheme: Scheme,
        recipe: Recipe,
        seed: int,
        recorder: Recorder | None = None,
    ) -> None:
        self.model = model.to(memory_format=recipe.layout)
        weight = next(model.parameters())
        self.device = weight.device
        self.images = images.to(weight.device, weight.dtype)
        self.recipe, self.seed = recipe, seed
        self.batch = min(recipe.batch, len(images) // recipe.shards * recipe.shards)
        _check_shards(recipe, len(images))
        self.steps = len(images) // self.batch
        self.weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = recipe.optimizer.build(self.weights, recipe.lr)
        self.average = [w.detach().clone() for w in self.weights] if recipe.averaging else []
        self.losses = torch.zeros(self.steps, device=weight.device, dtype=weight.dtype)
        self.statistics = data_parallel.Statistics(model, recipe.shards)
        self.network = LowPrecision(model, recipe.compute) if recipe.compute else model
        batch = Batch(self.images, recipe, self.statistics)
        self.gradient = StepGradient(self.network, self.weights, batch, recorder)
        self.scheme, self.done = scheme, 0
        self.alongside: Alongside | None = None
        if recipe.natural:
            calm = replace(recipe, natural=0.0, averaging=None)
            other = Run(copy.deepcopy(model), images, Natural(), calm, mixed(seed, 0), recorder)
            self.alongside = Alongside(model, other, recipe.natural, self.average)
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def rate(self, number: int) -> float:
        """The learning rate of a step, counted from 0 over the whole run."""
        share = number / (self.recipe.epochs * self.steps)
        return self.recipe.lr * self.recipe.schedule.factor(share)

    def stretch(self, robust: Mapping[str, float], most: int = PEEK) -> int:
        """Take some steps, not beyond the end of the epoch; returns how many.

        Args:
            robust: the last validation's accuracies, for schemes that follow them.
            most: steps, > 0.

        Raises: Diverged: one of the losses is not finite.
        """
        epoch, first = divmod(self.done, self.steps)
        last = min(first + most, self.steps)
        scheme, order = self.scheme.at(epoch, robust), self._rows(epoch)
        self.model.train()
        for step in range(first, last):
            if self.alongside:
                self.alongside.step(epoch, step)
            self._step(scheme, epoch, step, order[step])
        if self.alongside and last == self.steps:
            self.alongside.join()
        self.done += last - first
        self.check(epoch, last)
        if self.alongside:
            self.alongside.natural.check(epoch, last)
        return last - first

    def _rows(self, epoch: int) -> Tensor:
        """(steps, batch) row numbers: the order of the images in an epoch."""
        if self._order[0] != epoch:
            rng = generator("cpu", self.seed, epoch)
            rows = torch.randperm(len(self.images), generator=rng)[: self.steps * self.batch]
            self._order = (epoch, rows.view(self.steps, self.batch).to(self.device))
        return self._order[1]

    def step(self, epoch: int, step: int) -> None:
        """One update of the weights, by the scheme as it is."""
        self._step(self.scheme, epoch, step, self._rows(epoch)[step])

    def _step(self, scheme: Scheme, epoch: int, step: int, rows: Tensor) -> None:
        """One update of the weights; the loss stays on the device."""
        number = epoch * self.steps + step
        shards = range(data_parallel.rank(), self.recipe.shards, data_parallel.world())
        seeds = [mixed(self.seed, epoch, step, shard) for shard in shards]
        total = self.gradient(scheme, rows, seeds)
        gradients = [w.grad for w in self.weights if w.grad is not None]
        data_parallel.add_up([total, *gradients, *self.statistics.moves])
        self.statistics.settle()
        self.losses[step] = total
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(number)
        self.optimizer.step()
        self._blend(number)

    @torch.no_grad()
    def _blend(self, number: int) -> None:
        """Move the running mean towards the weights, faster at the beginning of a run."""
        if self.average:
            decay = min(self.recipe.averaging or 0.0, (1 + number) / (10 + number))
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)

    def check(self, epoch: int, steps: int) -> None:
        """Look at the losses of the first steps of an epoch.

        Every process looks at what all have alike, so that none waits for one that stopped.

        Raises: Diverged: one of them is not finite, or, of several processes, a weight.
        """
        bad = (~self.losses[:steps].isfinite()).nonzero()
        if len(bad):
            raise Diverged(
                f"fit: the loss is {self.losses[bad[0]].item()} in epoch {epoch + 1}, step "
                f"{int(bad[0]) + 1} of {self.steps}; lower lr (now {self.recipe.lr:g}) or set "
                "clip, for example Recipe(clip=1.0)"
            )
        if data_parallel.together():
            self._require_finite_weights()

    def _require_finite_weights(self) -> None:
        if not all(bool(weight.isfinite().all()) for weight in self.weights):
            raise Diverged(
                f"fit: a weight is not finite after step {self.done}; lower lr or set clip"
            )

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the network's weights with their running mean, if there is one."""
        for weight, mean in zip(self.weights, self.average, strict=False):
            last = weight.clone()
            weight.copy_(mean)
            mean.copy_(last)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next steps depend on, for a checkpoint.

        Raises: Diverged: a weight is not finite.
        """
        self._require_finite_weights()
        named = {f"model/{name}": tensor for name, tensor in self.model.state_dict().items()}
        named |= {f"average/{i}": mean for i, mean in enumerate(self.average)}
        for i, slots in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer/{i}/{key}": t for key, t in slots.items() if t is not None}
        if self.alongside:
            named |= {f"before/{i}": tensor for i, tensor in enumerate(self.alongside.before)}
            other = self.alongside.natural.tensors()
            named |= {f"natural/{name}": tensor for name, tensor in other.items()}
        return named | {"losses": self.losses}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor], done: int) -> None:
        """Go on from what :meth:`tensors` gave after ``done`` steps."""
        self.done = done
        self.losses.copy_(tensors["losses"])
        for name, tensor in self.model.state_dict().items():
            tensor.copy_(tensors[f"model/{name}"])
        for i, mean in enumerate(self.average):
            mean.copy_(tensors[f"average/{i}"])
        if self.alongside:
            for i, kept in enumerate(self.alongside.before):
                kept.copy_(tensors[f"before/{i}"])
            pairs = ((name.partition("/"), tensor) for name, tensor in tensors.items())
            other = {name: tensor for (first, _, name), tensor in pairs if first == "natural"}
            self.alongside.natural.restore(other, done)
        state: dict[int, dict[str, Any]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, index, key = name.split("/")
                like = torch.empty_like(self.weights[int(index)])
                same = tensor.shape == like.shape
                state.setdefault(int(index), {})[key] = like.copy_(tensor) if same else tensor
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


def generator(device: torch.device | str, *position: int) -> torch.Generator:
    """Random numbers that depend on the position in the run only."""
    return torch.Generator(device).manual_seed(mixed(*position))


def mixed(*position: int) -> int:
    """A seed that depends on the position in the run only."""
    return int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])


def _check_shards(recipe: Recipe, count: int) -> None:
    if count < recipe.shards:
        raise ValueError(f"fit: {recipe.shards} shards need as many images, got {count}")
    if recipe.shards % data_parallel.world():
        raise ValueError(
            f"fit: {data_parallel.world()} processes cannot share {recipe.shards} shards evenly; "
            f"set Recipe(shards=...) to a multiple of {data_parallel.world()}"
        )
