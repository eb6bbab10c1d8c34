"""Options that several commands share: what is attacked, by whom, and where the work is done."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mpkit.core.files import require_room
from mpkit.core.workers import ClusterError, Local, Remote, Slurm, Workers

count = partial(click.option, type=click.IntRange(min=1), show_default=True)
folder = partial(click.option, type=click.Path(file_okay=False, path_type=Path), show_default=True)
seed = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of all draws."
)


def say_which(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """Say on standard error what auto stands for here; the name stays, for workers elsewhere."""
    if name == "auto":
        from mpkit.core.devices import chosen

        click.echo(f"device: {chosen()}", err=True)
    return name


device = click.option(
    "--device",
    default="auto",
    show_default=True,
    callback=say_which,
    help="auto (a CUDA GPU, else the CPU), cpu, cuda or cuda:1.",
)
root = folder("--root", help="Folder of the data. [default: $MPKIT_DATA, else the user's cache]")


def choice(name: str, words: list[str], default: str, help: str) -> Callable[..., Any]:
    """An option that takes one of some words."""
    return click.option(
        name, type=click.Choice(words), default=default, show_default=True, help=help
    )


class Seconds(click.ParamType[float]):
    """A positive, finite number of seconds."""

    name = "seconds"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        with suppress(ValueError):
            if 0 < float(value) < math.inf:
                return min(float(value), threading.TIMEOUT_MAX)
        raise click.BadParameter(f"{value!r} is no time; give a number of seconds above 0")


def require_place(option: str, path: Path) -> None:
    """Refuse a file that could not be written in the end, before the work begins.

    Raises:
        ValueError: there is a folder of that name, or a file where a folder should be.
        OSError: the disk is full, or not to be written.
    """
    blocked = next((p for p in path.absolute().parents if p.exists() and not p.is_dir()), None)
    lost = next((p for p in (path, *path.parents) if p.is_symlink() and not p.exists()), None)
    special = path.exists() and not path.is_file()
    if blocked or lost or special:
        why = f"{blocked} is a file, no folder" if blocked else "it is no file"
        why = f"{lost} is a link to nothing" if lost else why
        raise ValueError(f"{option}: {path} cannot be written ({why}); name another place")
    require_room(path)


CLUSTER = (
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="A running Dask scheduler such as tcp://10.0.0.7:8786, or local for workers here.",
    ),
    click.option(
        "--slurm",
        type=click.Path(dir_okay=False, exists=True, path_type=Path),
        help="A YAML file of SLURM options: workers are started as jobs.",
    ),
    count("--workers", help="Worker processes on this machine. [default: one per core]"),
    click.option("--gpu", is_flag=True, help="Use only workers that offer a GPU, one task each."),
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``scheduler``, ``slurm``, ``workers`` and ``gpu``."""
    for option in reversed(CLUSTER):
        command = option(command)
    return command


def workers_of(
    scheduler: str | None, slurm: Path | None, workers: int | None, gpu: bool
) -> Workers:
    """Where the work is to be done.

    Raises: ClusterError: options that exclude each other, or an unfit SLURM file.
    """
    if slurm is not None and scheduler is not None:
        raise ClusterError("--scheduler and --slurm exclude each other; give one of them")
    if workers is not None and (slurm is not None or scheduler not in (None, "local")):
        raise ClusterError(
            "--workers counts processes on this machine; the scheduler's workers are started "
            "elsewhere (with --slurm: jobs in its file)"
        )
    if slurm is not None:
        options = Slurm.read(slurm)
        if gpu and not options.gpus:
            raise ClusterError(f"--gpu: {slurm} asks for no GPU; add gpus: 1 to it")
        return options
    if scheduler in (None, "local"):
        return Local(workers or 0, int(gpu))
    if not re.fullmatch(r"(tcp|tls|ucx|ucxx|ws|wss)://\S+:\d+", str(scheduler)):
        raise ClusterError(
            f"--scheduler: {scheduler!r} is no address; expected local, or one such as "
            "tcp://10.0.0.7:8786"
        )
    return Remote(str(scheduler), int(gpu))


if TYPE_CHECKING:
    from mpkit.sets import PerturbationSet

SUBJECT = (
    click.option(
        "--model",
        "spec",
        required=True,
        metavar="NAME",
        help="small_cnn, small_resnet, ..., robustbench:NAME, or package.module:factory.",
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
        help="digits, mnist, cifar10, folder:PATH, PATH.npz or PATH.safetensors with x and y, or "
        "package.module:factory of batches; the test split is used.",
    ),
    root,
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
    for option in reversed(SUBJECT):
        command = option(command)
    return command


def threat_of(words: str, dataset: str, shape: tuple[int, int, int]) -> PerturbationSet:
    """The threat model in words, or the data set's own for "usual".

    Raises: ValueError: the words cannot be read.
    """
    from mpkit import sets

    if words == "usual":
        return sets.Union(*sets.usual(dataset, shape).values())
    return sets.parse_threat(words)
