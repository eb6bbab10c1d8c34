"""Tiny models whose worst perturbation is known."""

import torch
from torch import nn


class Linear(nn.Module):
    """Class 1 gets ⟨w, x⟩ - level, class 0 gets 0, the others stay far below."""

    def __init__(self, w, level=0.0, classes=5):
        super().__init__()
        self.weight = nn.Parameter(w.clone())
        self.level = level
        self.classes = classes

    def forward(self, x):
        lead = (x * self.weight).flatten(1).sum(1) - self.level
        rest = lead.new_full((len(x), self.classes - 2), -50.0) - torch.arange(self.classes - 2)
        return torch.cat([torch.zeros_like(lead)[:, None], lead[:, None], rest.to(lead)], 1)


def linear_problem(seed, n=6, shape=(1, 3, 4), dtype=torch.float64):
    """A linear model, images with some pixels at the box's walls, labels 0."""
    g = generator(seed)
    w = torch.randn(shape, generator=g, dtype=torch.float64).to(dtype)
    x = torch.rand((n, *shape), generator=g, dtype=torch.float64).to(dtype)
    x = torch.where(x < 0.15, 0, torch.where(x > 0.85, 1, x))
    return Linear(w), x, torch.zeros(n, dtype=torch.int64)


def relu_net(seed, inputs=4, classes=3, dtype=torch.float64):
    """A small random ReLU network on images of so many pixels; every class is met."""
    g = generator(seed)
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU()
    )
    net.append(nn.Linear(12, classes))
    for parameter in net.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=g))
    with torch.no_grad():
        net[-1].bias -= net(torch.rand(64, inputs, generator=g)).mean(0)
    return net.to(dtype)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
