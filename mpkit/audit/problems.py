"""Small problems for attacks under audit, from the smallest on, and a network that remembers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mpkit.audit.known_optima import Threshold, best_linear
from mpkit.audit.protocol import NORMS, Task

CLASSES = 10
ROWS = 10
"""Images of a whole problem; the last two are labelled so that the network errs on them."""
SHAPES = ((1, 2, 2), (1, 4, 4), (1, 8, 8), (3, 6, 6))
EASY = 0.2
"""Share of the best possible gain that crosses the threshold of an easy linear problem."""


class Made(NamedTuple):
    """A problem in tensors: network in eval mode, images, labels, task."""

    model: nn.Module
    x: Tensor
    y: Tensor
    task: Task


@dataclass(frozen=True)
class Case:
    """A problem that its numbers determine.

    Args:
        norm: linf, l2 or l1.
        shape: (C, H, W) of the images.
        seed: of network, images and attack.
        steps: of the attack.
        row: the one image that is given, None for all.
        linear: an easy linear classifier in place of a small network.
    """

    norm: str
    shape: tuple[int, int, int]
    seed: int = 0
    steps: int = 40
    row: int | None = None
    linear: bool = False

    @property
    def eps(self) -> float:
        """The radius: large enough to matter, and small enough that about half survive."""
        channels, height, width = self.shape
        side = math.sqrt(channels * height * width)
        return {"linf": 0.3 / side, "l2": 0.2, "l1": 0.35 * math.sqrt(side)}[self.norm]

    def alone(self, row: int) -> Case:
        """The same with one image only."""
        return replace(self, row=row)

    def made(self) -> Made:
        """The problem itself, new at every call."""
        rng = torch.Generator().manual_seed(self.seed)
        task = Task(NORMS[self.norm](self.eps), self.steps, self.seed)
        x = torch.rand(ROWS, *self.shape, generator=rng)
        x = torch.where(x < 0.2, 0, torch.where(x > 0.8, 1, x))
        if self.linear:
            x = x[:1].expand(4, -1, -1, -1).clone()
            w = torch.randn(self.shape, generator=rng)
            w *= 5 / float(best_linear(task.ball, w, x[:1]))
            lead = float((w * x[:1]).double().sum())
            model: nn.Module = Threshold(w, lead + 5 * EASY)
            y = torch.zeros(len(x), dtype=torch.int64)
        else:
            model = network(x[0].numel(), rng)
            with torch.no_grad():
                order = model(x).argsort(1, descending=True)
            y = torch.cat([order[:-2, 0], order[-2:, 1]])
        if self.row is not None:
            x, y = x[self.row : self.row + 1], y[self.row : self.row + 1]
        return Made(model.eval(), x, y, task)

    def words(self) -> str:
        """The problem in one line."""
        rows = 1 if self.row is not None else (4 if self.linear else ROWS)
        size = "x".join(map(str, self.shape))
        kind = "a linear classifier" if self.linear else "a small network"
        row = "" if self.row is None else f" (row {self.row})"
        images = f"{rows} image{'s' * (rows > 1)} {size}{row}"
        return f"{images}, {kind}, {self.norm}:{self.eps:g}, {self.steps} steps, seed {self.seed}"

    def describe(self) -> dict[str, Any]:
        """The problem as plain data, its images too where they are few numbers."""
        made = self.made()
        kept: dict[str, Any] = {
            "shape": list(self.shape),
            "rows": len(made.x),
            "row": self.row,
            "linear": self.linear,
            "norm": self.norm,
            "eps": self.eps,
            "steps": self.steps,
            "seed": self.seed,
        }
        if made.x.numel() <= 16:
            kept |= {"x": made.x.flatten(1).tolist(), "y": made.y.tolist()}
        return kept


def ladder(norm: str, steps: int, seeds: int, linear: bool = False) -> Iterator[Case]:
    """Problems from the smallest images on, each with some seeds."""
    for shape in SHAPES[1:3] if linear else SHAPES:
        for seed in range(seeds):
            yield Case(norm, shape, seed, steps, linear=linear)


def network(inputs: int, rng: torch.Generator) -> nn.Sequential:
    """A random network with one hidden layer, whose margins are a few tenths."""
    layers = (nn.Linear(inputs, 32), nn.Linear(32, CLASSES))
    with torch.no_grad():
        for layer in layers:
            layer.weight.normal_(0, 1.5 / math.sqrt(layer.in_features), generator=rng)
            layer.bias.normal_(0, 0.1, generator=rng)
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1])


class Remembering(nn.Module):
    """A network that keeps all that it was asked, with its answers.

    Attributes:
        asked: the images of each call.
        answers: the logits of each call.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.asked: list[Tensor] = []
        self.answers: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        logits: Tensor = self.model(x)
        self.asked.append(x.detach().clone())
        self.answers.append(logits.detach().clone())
        return logits
