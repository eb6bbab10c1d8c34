"""One training loop, decided by its arguments alone: same generator, same weights."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from mpkit.data import Images
from mpkit.progress import Bar, Quiet
from mpkit.recipes import Recipe
from mpkit.schemes import Scheme

__all__ = ["Bar", "Diverged", "Epoch", "Quiet", "Recipe", "accuracy", "fit"]

PEEK = 20  # steps between two looks at the losses; a look makes a GPU wait


class Diverged(RuntimeError):
    """The loss is no longer a finite number; the message names epoch and step."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the data gave.

    Args:
        epoch: counted from 1.
        loss: mean over the epoch of the scheme's losses.
        lr: learning rate of its last step.
        seconds: wall-clock time; not part of what makes two records equal.
    """

    epoch: int
    loss: float
    lr: float
    seconds: float = field(compare=False)


def fit(
    model: nn.Module,
    images: Images,
    scheme: Scheme,
    recipe: Recipe,
    rng: torch.Generator,
    progress: Quiet | None = None,
) -> list[Epoch]:
    """Train a network in place.

    The order of the images and the random numbers of every step follow from one number drawn
    from ``rng`` and from the position in the run, never from what happened before: on a CPU the
    same arguments give the same weights to the last bit.

    Args:
        model: stays where it is; the images follow it to its device and floating point type.
        images: what is trained on.
        scheme: how a batch becomes losses.
        recipe: how losses become weights.
        rng: one number is drawn from it.
        progress: is told how far the run is; None for silence.

    Returns: one record per epoch. The network is left in eval mode.

    Raises:
        Diverged: a loss is not finite.
        ValueError: the network's outputs do not fit the number of classes.
    """
    _check_outputs(model, images)
    run = _Run(model, images, scheme, recipe, _draw_seed(rng))
    progress = progress or Quiet()
    progress.start(recipe.epochs * run.steps, 0)
    try:
        history = [run.epoch(epoch, progress) for epoch in range(recipe.epochs)]
    finally:
        progress.close()
    run.finish()
    return history


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, batch: int = 512) -> float:
    """The share of images that a network in eval mode classifies rightly; its mode is restored."""
    training = model.training
    weight = next(model.parameters())
    model.eval()
    right = 0
    for start in range(0, len(images), batch):
        x, y = images.x[start : start + batch], images.y[start : start + batch]
        logits = model(x.to(weight.device, weight.dtype))
        right += int((logits.argmax(dim=1) == y.to(weight.device)).sum())
    model.train(training)
    return right / len(images)


class _Run:
    """The moving parts of one training run."""

    def __init__(
        self, model: nn.Module, images: Images, scheme: Scheme, recipe: Recipe, seed: int
    ) -> None:
        self.model = model.to(memory_format=recipe.layout)
        weight = next(model.parameters())
        self.device = weight.device
        self.images = images.to(weight.device, weight.dtype)
        self.scheme, self.recipe, self.seed = scheme, recipe, seed
        self.batch = min(recipe.batch, len(images) // recipe.shards * recipe.shards)
        if self.batch == 0:
            raise ValueError(f"fit: {recipe.shards} shards need as many images, got {len(images)}")
        self.steps = len(images) // self.batch
        self.weights: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = recipe.optimizer.build(self.weights, recipe.lr)
        self.average = [w.detach().clone() for w in self.weights] if recipe.averaging else []
        self.losses = torch.zeros(self.steps, device=weight.device, dtype=weight.dtype)
        self.network = _Autocast(model, recipe.compute) if recipe.compute else model

    def epoch(self, epoch: int, progress: Quiet) -> Epoch:
        began = time.perf_counter()
        self.model.train()
        order = torch.randperm(len(self.images), generator=_generator("cpu", self.seed, epoch))
        rows = order.to(self.device)[: self.steps * self.batch].view(self.steps, self.batch)
        lr = 0.0
        for step in range(self.steps):
            lr = self.step(epoch, step, rows[step])
            if (step + 1) % PEEK == 0 or step + 1 == self.steps:
                self.check(epoch, step + 1)
                progress.advance(step % PEEK + 1, f"loss {self.losses[step].item():.3f}")
        loss = self.losses.mean().item()
        return Epoch(epoch + 1, loss, lr, time.perf_counter() - began)

    def step(self, epoch: int, step: int, rows: Tensor) -> float:
        """One update of the weights; the loss stays on the device."""
        number = epoch * self.steps + step
        lr = self.recipe.lr * self.recipe.schedule.factor(
            number / (self.recipe.epochs * self.steps)
        )
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device, dtype=self.losses.dtype)
        for shard, part in enumerate(rows.chunk(self.recipe.shards)):
            x = self.images.x[part].contiguous(memory_format=self.recipe.layout)
            rng = _generator(self.device, self.seed, epoch, step, shard)
            loss = self.scheme(self.network, x, self.images.y[part], rng).sum() / len(rows)
            torch.autograd.backward(loss)
            total += loss.detach()
        self.losses[step] = total
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.blend(number)
        return lr

    @torch.no_grad()
    def blend(self, number: int) -> None:
        """Move the running mean towards the weights, faster at the beginning of a run."""
        if self.average:
            decay = min(self.recipe.averaging or 0.0, (1 + number) / (10 + number))
            torch._foreach_lerp_(self.average, self.weights, 1 - decay)

    def check(self, epoch: int, steps: int) -> None:
        """Stop if one of the first losses of this epoch is not finite."""
        bad = (~self.losses[:steps].isfinite()).nonzero()
        if len(bad):
            raise Diverged(
                f"fit: the loss is {self.losses[bad[0]].item()} in epoch {epoch + 1}, step "
                f"{int(bad[0]) + 1} of {self.steps}; lower lr (now {self.recipe.lr:g}) or set "
                "clip, for example Recipe(clip=1.0)"
            )

    @torch.no_grad()
    def finish(self) -> None:
        """Leave the averaged weights, if there are any, in the network."""
        if self.average:
            torch._foreach_copy_(self.weights, self.average)
        self.model.eval()


class _Autocast(nn.Module):
    """A network that computes in a shorter type; images, logits and attacks keep theirs."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, self.dtype, cache_enabled=False):
            logits: Tensor = self.model(x)
        return logits.to(x.dtype)


def _draw_seed(rng: torch.Generator) -> int:
    return int(torch.randint(2**62, (), generator=rng, device=rng.device, dtype=torch.int64))


def _generator(device: torch.device | str, *position: int) -> torch.Generator:
    """Random numbers that depend on the position in the run only."""
    mixed = int(np.random.SeedSequence(position).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(mixed)


@torch.no_grad()
def _check_outputs(model: nn.Module, images: Images) -> None:
    weight = next(model.parameters())
    training = model.training
    model.eval()
    outputs = model(images.x[:1].to(weight.device, weight.dtype)).shape[1]
    model.train(training)
    if outputs != len(images.classes):
        raise ValueError(
            f"fit: the network has {outputs} outputs, but {images.name} has "
            f"{len(images.classes)} classes; build it with classes={len(images.classes)}"
        )
