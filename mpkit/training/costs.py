"""What a training scheme costs: images sent through the network, forward and backward."""

from __future__ import annotations

import time
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mpkit.models import QueryCounter
from mpkit.training.curricula import Balanced, RadiusWarmup
from mpkit.training.schemes import Random, Scheme, Single


class Passes(NamedTuple):
    """Passes through the network for one training image; the weights' gradient is among them.

    Attributes:
        forward: forward passes.
        backward: of these, followed by a backward one: the gradient evaluations.
    """

    forward: float
    backward: float


def parts(scheme: Scheme) -> tuple[Scheme, ...]:
    """The schemes of which every batch gets one, with equal chances; most schemes are one part.

    Args:
        scheme: the scheme, as it is after its first epochs; where its chances follow measured
            errors, they are equal as long as nothing is measured.
    """
    if isinstance(scheme, RadiusWarmup):
        return parts(scheme.scheme)
    if isinstance(scheme, Balanced):
        return tuple(Single(attack) for _, attack in scheme.attacks)
    if isinstance(scheme, Random) and len(set(scheme.weights)) < 2:
        return tuple(Single(attack) for attack in scheme.attacks)
    return (scheme,)


def passes(
    scheme: Scheme, shape: tuple[int, int, int], draws: int = 1, natural: float = 0.0
) -> Passes:
    """Count what a scheme does to one image, by training a tiny network on two.

    Args:
        scheme: the scheme, as it is after its first epochs. A scheme that draws one of several
            attacks is counted exactly, attack by attack.
        shape: (C, H, W) of the images.
        draws: batches to count over, > 0; more than one for schemes that draw in another way.
        natural: share of natural training alongside, see :class:`mpkit.training.Recipe`; if not
            zero, each image passes once more in both directions.

    Returns: the mean over the batches.
    """
    if isinstance(scheme, RadiusWarmup):
        return passes(scheme.scheme, shape, draws, natural)
    if isinstance(scheme, Random) and scheme.weights:
        each = [passes(Single(attack), shape, draws, natural) for attack in scheme.attacks]
        total = sum(scheme.weights)
        chance = [weight / total for weight in scheme.weights]
        return Passes(*(sum(map(mul, chance, column)) for column in zip(*each, strict=True)))
    rng = torch.Generator().manual_seed(0)
    x = torch.rand(2, *shape, generator=rng)
    model = nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 10, device="meta"))
    model.to_empty(device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.rand(weight.shape, generator=rng) - 0.5)
    counted = QueryCounter(model)
    batches = parts(scheme) * draws
    for part in batches:
        torch.autograd.backward(part(counted, x, torch.tensor([3, 7]), rng).sum())
    images = len(x) * len(batches)
    beside = 1 if natural else 0
    return Passes(counted.forwards / images + beside, counted.backwards / images + beside)


def speed(model: nn.Module, x: Tensor, seconds: float = 0.5) -> float:
    """Images per second that a network trains on without any attack, measured.

    Args:
        model: any network; its weights stay as they are.
        x: (B, C, H, W), one batch on the network's device.
        seconds: how long to measure.
    """
    y = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    done, begun = 0, time.perf_counter()
    while not done or time.perf_counter() - begun < seconds:
        loss = cross_entropy(model(x), y)
        torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad])
        done += len(x)
        loss.item()
        if done == len(x):  # the first batch warms up
            begun = time.perf_counter()
    return (done - len(x)) / (time.perf_counter() - begun)
