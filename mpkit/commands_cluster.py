"""What ``mpkit sweep`` and ``mpkit evaluate`` share: options that say where the work is done."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mpkit.places import ClusterError, Local, Place, Remote
from mpkit.slurm import Slurm

OPTIONS = (
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
    click.option(
        "--workers",
        type=click.IntRange(min=1),
        help="Worker processes on this machine. [default: one per core]",
    ),
    click.option("--gpu", is_flag=True, help="Use only workers that offer a GPU, one task each."),
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options ``scheduler``, ``slurm``, ``workers`` and ``gpu``."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def place_of(scheduler: str | None, slurm: Path | None, workers: int | None, gpu: bool) -> Place:
    """Where the work is to be done.

    Raises:
        ClusterError: options that exclude each other, or an unfit SLURM file.
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
