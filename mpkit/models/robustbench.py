"""Networks of RobustBench by name, where its package and the network's weights are on the machine.

Nothing is downloaded here: RobustBench fetches weights that it lacks, so it is asked only once its
file is there. It reads pickles, its own affair; take names that you trust.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from torch import nn

from mpkit.core.checks import told
from mpkit.core.files import DataError

PREFIX = "robustbench:"
FOLDER = "MPKIT_ROBUSTBENCH"
"""Environment variable: the folder that RobustBench calls ``model_dir``; ./models if not set."""
THREATS = ("Linf", "L2", "corruptions", "corruptions_3d")
"""Its threat models, each a folder of weights."""


def of_robustbench(spec: str, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Load a network of RobustBench's leaderboards.

    Args:
        spec: ``robustbench:NAME``, or ``robustbench:THREAT/NAME`` where weights of that name are
            there for several threat models.
        shape: (C, H, W) of the images: (3, 32, 32) for CIFAR, larger for ImageNet.
        classes: 10, 100 or 1000, which decide between its data sets.

    Returns: the network as RobustBench gives it, for images in [0, 1].

    Raises:
        ValueError: the package or the name is missing, or the images are of no data set of its.
        DataError: the weights are missing, or cannot be loaded.

    Source: Croce, Andriushchenko, Sehwag et al. 2021 (RobustBench), the model zoo.
    """
    *threats, name = spec.removeprefix(PREFIX).split("/")
    if not name or len(threats) > 1 or not set(threats) <= set(THREATS):
        raise ValueError(
            f"--model: {spec!r} names no network; write robustbench:NAME or robustbench:THREAT/NAME"
            f", THREAT one of {', '.join(THREATS)}"
        )
    if find_spec("robustbench") is None:
        raise ValueError(
            f"--model: {spec} needs the package robustbench, which is not installed; install it "
            "with pip, or name the network as package.module:factory"
        )
    small = shape == (3, 32, 32)
    known = {10: "cifar10", 100: "cifar100"} if small else {1000: "imagenet"}
    if classes not in known or shape[0] != 3:
        raise ValueError(
            f"--model: {spec} is for images of CIFAR or ImageNet, got {shape} in {classes} classes;"
            " give such images with --data"
        )
    folder = Path(os.environ.get(FOLDER, "models"))
    there = [
        t for t in threats or THREATS if (folder / known[classes] / t / f"{name}.pt").is_file()
    ]
    if len(there) > 1:
        raise ValueError(
            f"--model: {spec} has weights for {' and '.join(there)} in {folder}; write "
            f"robustbench:{there[0]}/{name}"
        )
    if not there:
        place = folder / known[classes] / (threats[0] if threats else "THREAT") / f"{name}.pt"
        raise DataError(
            f"--model: {spec} has no weights at {place}; let robustbench.utils.load_model fetch "
            f"them once, or set {FOLDER} to the folder that it calls model_dir"
        )
    try:
        from robustbench.utils import load_model

        model = load_model(name, str(folder), known[classes], there[0])
    except (Exception, SystemExit) as error:
        raise DataError(
            f"--model: {spec} could not be loaded by robustbench: {told(error)}; see whether the "
            "file is whole and of this version"
        ) from error
    if not isinstance(model, nn.Module):
        raise DataError(
            f"--model: {spec} gave a {type(model).__name__}, not a torch.nn.Module; take another "
            "version of robustbench"
        )
    return model
