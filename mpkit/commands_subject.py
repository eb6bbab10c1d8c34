"""What ``mpkit evaluate`` and ``mpkit doctor`` share: a network, images, and what threatens it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mpkit.sets import PerturbationSet

OPTIONS = (
    click.option(
        "--model",
        "spec",
        required=True,
        metavar="NAME",
        help="small_cnn, small_resnet, ..., or package.module:factory of your own.",
    ),
    click.option(
        "--weights",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A safetensors file: a checkpoint of mpkit, or a plain state dict.",
    ),
    click.option(
        "--data",
        "dataset",
        default="digits",
        show_default=True,
        help="digits, mnist, cifar10 or folder:PATH; the test split is used.",
    ),
    click.option(
        "--root",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the data. [default: $MPKIT_DATA, else the user's cache]",
    ),
    click.option(
        "--threat",
        "words",
        default="usual",
        show_default=True,
        help="Such as 'linf:0.3 + l1:10 + l2:2 + rt:3px,30deg'; usual: the data set's own.",
    ),
)


def subject_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``spec``, ``weights``, ``dataset``, ``root`` and ``words``."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def threat_of(words: str, dataset: str, shape: tuple[int, int, int]) -> PerturbationSet:
    """The threat model in words, or the data set's own for "usual".

    Raises:
        ValueError: the words cannot be read.
    """
    from mpkit import sets, threats

    if words == "usual":
        return sets.Union(*sets.usual(dataset, shape).values())
    return threats.parse_threat(words)
