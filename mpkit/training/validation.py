"""A quick look at clean and robust accuracy while training; the ledger is the real evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpkit.attacks import Attack
from mpkit.attacks.gradients import evaluating
from mpkit.data import Images
from mpkit.training import data_parallel
from mpkit.training.run import generator


@dataclass(frozen=True)
class Validation:
    """What is measured every few epochs.

    Args:
        images: held-out images, a few hundred.
        attacks: by the name that the metrics give them.
        every: epochs between two measurements; the last epoch is always measured.
        batch: images at a time.
    """

    images: Images
    attacks: Mapping[str, Attack]
    every: int = 1
    batch: int = 256

    def __post_init__(self) -> None:
        if self.every < 1 or self.batch < 1:
            raise ValueError(
                f"Validation: every and batch must be at least 1, got {self.every}, {self.batch}"
            )

    def measure(self, model: nn.Module, seed: int, epoch: int) -> dict[str, float]:
        """The shares of images that survive: ``clean``, each attack by name, and ``union``.

        The network is measured in eval mode and gets its mode back. Several processes share
        out the batches.

        Args:
            model: the network.
            seed: with epoch and the number of the batch it decides the random numbers.
            epoch: counted from 0.
        """
        weight = next(model.parameters())
        images = self.images.to(weight.device, weight.dtype)
        names = ("clean", *self.attacks, "union")
        survived = torch.zeros(len(names), device=weight.device, dtype=torch.float64)
        batches = range(0, len(images), self.batch)
        with evaluating(model):
            for number in range(data_parallel.rank(), len(batches), data_parallel.world()):
                rows = slice(batches[number], batches[number] + self.batch)
                rng = generator(weight.device, seed, epoch, number, len(names))
                survived += self._survivors(model, images.x[rows], images.y[rows], rng)
        data_parallel.add_up([survived])
        return dict(zip(names, (survived / len(images)).tolist(), strict=True))

    def _survivors(self, model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> Tensor:
        found = [x, *(attack(model, x, y, rng).image for attack in self.attacks.values())]
        with torch.no_grad():
            right = torch.stack([model(image.clone()).argmax(dim=1) == y for image in found])
        return torch.cat([right, right.all(dim=0, keepdim=True)]).sum(dim=1)


@torch.no_grad()
def accuracy(model: nn.Module, images: Images, batch: int = 512) -> float:
    """The share of images that a network in eval mode classifies rightly; its mode is restored."""
    weight = next(model.parameters())
    right = 0
    with evaluating(model):
        for start in range(0, len(images), batch):
            part = images.x[start : start + batch].to(weight.device, weight.dtype)
            labels = images.y[start : start + batch].to(weight.device)
            right += int((model(part.clone()).argmax(dim=1) == labels).sum())
    return right / len(images)
