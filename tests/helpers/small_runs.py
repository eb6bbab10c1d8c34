"""Training runs of milliseconds, for the tests of the loop and of its checkpoints."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from mpkit.data import Images
from mpkit.training import Natural, Recipe, Scheme, fit


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def tiny(n=48, seed=0) -> Images:
    x = torch.rand(n, 1, 4, 4, generator=rng(seed), dtype=torch.float64)
    return Images(x, (x.mean(dim=(1, 2, 3)) > 0.5).long(), ("dark", "bright"), "tiny")


def linear(seed=0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.rand(p.shape, generator=rng(seed), dtype=torch.float64) - 0.5)
    return model


def trained(recipe, scheme=Natural(), seed=0, **more):  # noqa: B008
    model = linear()
    history = fit(model, tiny(), scheme, recipe, rng(seed), **more)
    return model, history


SHORT = Recipe(epochs=3, batch=16, lr=0.1)


@dataclass(frozen=True)
class Explodes(Scheme):
    """Natural until an epoch begins, infinite from then on."""

    epoch: int
    factor: float = 1.0

    def at(self, epoch, robust):
        return replace(self, factor=float("inf")) if epoch >= self.epoch else self

    def __call__(self, model, x, y, rng):
        return Natural()(model, x, y, rng) * self.factor
