"""The networks: images in [0, 1] go in, logits come out, weights come from a generator only."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from mpkit.models.layers import DeadZone, Normalize, check_shape, conv, linear
from mpkit.models.rank_zone import Front, RankRule, RankZone
from mpkit.models.resnet import preact_resnet18, small_resnet
from mpkit.sets.dead_zone import read_width


def small_cnn(
    shape: tuple[int, int, int],
    classes: int,
    rng: torch.Generator,
    times: int = 1,
    kernel: int = 3,
    rest: int = 4,
) -> nn.Module:
    """A small convolutional network that learns 8 x 8 digits in seconds on one core.

    One convolution (at full size up to 16 pixels a side, else at half), then convolutions of
    stride 2 until at most 4 x 4 pixels are left, then two linear layers.

    Args:
        shape: (C, H, W) of the images; 4 to 64 pixels a side do well.
        classes: number of classes, at least 2.
        rng: every weight is drawn from it, on the CPU in float64, and rounded to float32, so
            that the same generator gives the same network on every machine.
        times: how many times as many channels and hidden units, > 0.
        kernel: pixels a side of each convolution, odd.
        rest: pixels a side that the linear layers see, at most; > 0.

    Returns: a network in float32 on the CPU; ``.to(torch.float64)`` keeps the weights' values.
    """
    channels, height, width = check_shape("small_cnn", shape, classes, least=4)
    stride = 1 if max(height, width) <= 16 else 2
    layers: list[nn.Module] = [Normalize(), conv(channels, 16 * times, kernel, stride, rng)]
    layers += [nn.ReLU()]
    channels, height, width = 16 * times, -(-height // stride), -(-width // stride)
    while max(height, width) > rest:
        wider = min(64 * times, 2 * channels)
        layers += [conv(channels, wider, kernel, 2, rng), nn.ReLU()]
        channels, height, width = wider, -(-height // 2), -(-width // 2)
    hidden = linear(channels * height * width, 128 * times, rng)
    return nn.Sequential(
        *layers, nn.Flatten(), hidden, nn.ReLU(), linear(128 * times, classes, rng)
    )


def small_mlp(
    shape: tuple[int, int, int], classes: int, rng: torch.Generator, units: int = 32
) -> nn.Module:
    """Two hidden layers of 32 ReLUs: on 8 x 8 digits small enough to be decided completely.

    Args:
        shape: (C, H, W) of the images.
        classes: number of classes, at least 2.
        rng: every weight is drawn from it, as in :func:`small_cnn`.
        units: of each hidden layer, > 0.
    """
    channels, height, width = check_shape("small_mlp", shape, classes, least=1)
    first = linear(channels * height * width, units, rng)
    layers = [Normalize(), nn.Flatten(), first, nn.ReLU(), linear(units, units, rng), nn.ReLU()]
    return nn.Sequential(*layers, linear(units, classes, rng))


def paper_mnist(shape: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
    """The network that the paper trains on MNIST.

    Convolutions 5 x 5 with 32 and 64 channels and same padding, each followed by ReLU and 2 x 2
    max-pooling, then 1024 ReLU units and the logits. Pixels go in as they are.
    Source: released code of Tramèr and Boneh, 2019.

    Args:
        shape: (C, H, W) of the images, at least 4 pixels a side; (1, 28, 28) in the paper.
        classes: number of classes, at least 2; 10 in the paper.
        rng: every weight is drawn from it, as in :func:`small_cnn`.
    """
    channels, height, width = check_shape("paper_mnist", shape, classes, least=4)
    layers = [conv(channels, 32, 5, 1, rng), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [conv(32, 64, 5, 1, rng), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), linear(64 * (height // 4) * (width // 4), 1024, rng), nn.ReLU()]
    return nn.Sequential(*layers, linear(1024, classes, rng))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "small_cnn": small_cnn,
    "wide_cnn": partial(small_cnn, times=2),
    "wider_cnn": partial(small_cnn, times=4),
    "broad_cnn": partial(small_cnn, times=2, kernel=5, rest=7),
    "small_mlp": small_mlp,
    "wide_mlp": partial(small_mlp, units=512),
    "paper_mnist": paper_mnist,
    "small_resnet": small_resnet,
    "preact_resnet18": preact_resnet18,
}


ZONE, RANK = "@", "rank"
"""Between a network's name and the dead zone in front of it: small_cnn@0.3, small_cnn@rank20."""


def front_in(name: str) -> Front | None:
    """What a network's name tells of a dead zone in front of it, None where it has none.

    Raises: ValueError: what follows the sign is neither a width nor a rank.
    """
    plain, zone, told = name.partition(ZONE)
    if not zone or plain not in NETWORKS:
        return None
    return read_front(name, told)


def read_front(who: str, told: str) -> Front:
    """The width that a name ends with, such as 0.3, or the rule, such as rank20.

    Raises: ValueError: it is neither a width nor a rank.
    """
    rank = told.removeprefix(RANK)
    return RankRule(int(rank)) if rank != told and rank.isdigit() else read_width(who, told)


def front_of(model: nn.Module) -> Front | None:
    """The width of the dead zone in a network, or its rule; None where it has no dead zone."""
    fronts = (part for part in model.modules() if isinstance(part, DeadZone | RankZone))
    found = next(fronts, None)
    return found.rule if isinstance(found, RankZone) else found.a if found else None


def network(name: str) -> Callable[..., nn.Module]:
    """The factory of a name: a key of ``NETWORKS``, alone or with a zone, small_cnn@0.3.

    Raises: KeyError: there is no such network; ValueError: a width that is none.
    """
    factory, front = NETWORKS[name.partition(ZONE)[0]], front_in(name)
    if front is None:
        return factory
    layer = RankZone(front) if isinstance(front, RankRule) else DeadZone(front)

    def behind(shape: tuple[int, int, int], classes: int, rng: torch.Generator) -> nn.Module:
        return nn.Sequential(layer, factory(shape, classes, rng))

    return behind


def parameter_count(model: nn.Module) -> int:
    """The number of trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
