"""Scales: the network and the schedule of a data set's recipes, for a few cores or for a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mpkit.data import Crop, Flip
from mpkit.training import SGD, Recipe, Steps, Triangle

SCALES = ("cpu", "wide", "broad", "gpu")
FAST = Recipe(compute=torch.bfloat16, layout=torch.channels_last)
COLOUR = replace(FAST, batch=128, augment=(Crop(4), Flip()))


@dataclass(frozen=True)
class Scale:
    """What a scale decides for a data set.

    Args:
        network: a key of ``mpkit.models.NETWORKS``.
        recipe: for training from the start.
        tuning: for fine-tuning.
        steps: gradients of each inner attack.
        ramp: shares of the budgets in the first epochs.
        held_out: images for validation.
        watching: whether there is a validation where the scheme does not need it.
        images: so many are trained on, equally many of each class; 0 for all.
        spread: whether those held out lie all over the split.
    """

    network: str
    recipe: Recipe
    tuning: Recipe
    steps: int
    ramp: tuple[float, ...]
    held_out: int
    watching: bool = True
    images: int = 0
    spread: bool = False


def scale_of(data: str, scale: str) -> Scale:
    """Network and schedule for a data set.

    Args:
        data: its name; one that is not known is treated as MNIST.
        scale: "cpu"; on grey images also "wide" for a network of twice the width and twice the
            passes, or "broad" for one with larger kernels and 16 passes; "gpu".

    Raises: ValueError: unknown scale, or a wide or broad one for colour images.
    """
    if scale not in SCALES:
        raise ValueError(f"scale: take {' or '.join(SCALES)}, got {scale!r}")
    if scale in ("wide", "broad"):
        size = scale_of(data, "cpu")
        if size.network != "small_cnn":
            raise ValueError(f"scale: there is no {scale} one for {data}; take cpu or gpu")
        network, passes = {"wide": ("wide_cnn", 12), "broad": ("broad_cnn", 16)}[scale]
        longer = replace(size.recipe, epochs=passes)
        return replace(size, network=network, recipe=longer, spread=scale == "broad")
    if scale == "gpu":
        return _on_gpu(data)
    if data == "digits":
        recipe = Recipe(epochs=10, averaging=0.99)
        tuning = replace(recipe, epochs=4, lr=1e-3)
        return Scale("small_cnn", recipe, tuning, 5, (1 / 3,), 100, watching=False)
    if data == "cifar10":
        recipe = replace(COLOUR, epochs=8, batch=64, averaging=0.995)
        tuning = replace(recipe, epochs=2, lr=1e-3)
        return Scale("small_resnet", recipe, tuning, 3, (), 500, watching=False, images=10000)
    recipe = replace(FAST, epochs=6, batch=128, averaging=0.999)
    tuning = replace(recipe, epochs=3, lr=1e-3)
    return Scale("small_cnn", recipe, tuning, 10, (0.1, 0.3, 0.6), 1000)


def _on_gpu(data: str) -> Scale:
    """The networks and schedules of the literature."""
    if data == "cifar10":
        recipe = replace(COLOUR, epochs=15, lr=0.1, optimizer=SGD(), schedule=Triangle(0.3))
        tuning = replace(recipe, epochs=3, lr=0.02, averaging=0.999)
        return Scale("preact_resnet18", recipe, tuning, 10, (), 1000)
    recipe = replace(FAST, epochs=10, batch=100, lr=1e-3, schedule=Steps((0.5,)))
    tuning = replace(recipe, epochs=3, lr=3e-4)
    return Scale("paper_mnist", recipe, tuning, 40, (1 / 3,), 1000)
