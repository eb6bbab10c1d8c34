"""Where tasks run: processes of this machine, a running Dask scheduler's workers, SLURM's jobs.

Dask is the optional extra ``distributed``; it is imported where it is used.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

PATIENCE = 10.0  # seconds to reach a scheduler, and again for a first worker to appear


class ClusterError(ValueError):
    """Work cannot be given to other processes as asked; the message says why and the remedy."""


class Workers(Protocol):
    """Somewhere to run tasks, one at a time on every worker."""

    @property
    def gpus(self) -> int:
        """GPUs that every task needs: 0 or 1."""

    def client(self, stack: ExitStack, tasks: int) -> Any:
        """A connected Dask client, closed with the stack."""


@dataclass(frozen=True)
class Local:
    """Worker processes on this machine, one task each at a time.

    Args:
        workers: how many; 0 for one per core, or per GPU where a GPU is needed.
        gpus: of every worker, 0 or 1; each sees a GPU of its own.
    """

    workers: int = 0
    gpus: int = 0

    def client(self, stack: ExitStack, tasks: int) -> Any:
        """Start the workers, at most one per task.

        Raises: ClusterError: Dask is missing, or GPUs are asked for that are not there.
        """
        distributed = library()
        most = _cores()
        if self.gpus:
            import torch

            most = torch.cuda.device_count()
            if not most:
                raise ClusterError(
                    "--gpu: no CUDA device on this machine; leave out --gpu, or name a scheduler "
                    "whose workers have one"
                )
        cluster = distributed.LocalCluster(
            n_workers=max(1, min(self.workers or most, tasks)),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
            worker_class=_with_one_gpu(distributed) if self.gpus else distributed.Nanny,
            resources={"GPU": self.gpus} if self.gpus else {},
        )
        stack.callback(cluster.close)
        return stack.enter_context(distributed.Client(cluster, set_as_default=False))


@dataclass(frozen=True)
class Remote:
    """The workers of a running scheduler.

    Args:
        address: such as ``tcp://10.0.0.7:8786``.
        gpus: that every task needs, 0 or 1.
    """

    address: str
    gpus: int = 0

    def client(self, stack: ExitStack, tasks: int) -> Any:
        """Connect, and wait a moment for a first worker.

        Raises:
            ClusterError: Dask is missing, nothing answers at the address, or there is no worker.
        """
        distributed = library()
        try:
            client = distributed.Client(self.address, timeout=PATIENCE, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise ClusterError(
                f"no scheduler answers at {self.address} within {PATIENCE:g} s "
                f"({type(error).__name__}); start one with 'dask scheduler' and give the address "
                "that it prints, such as tcp://10.0.0.7:8786"
            ) from error
        stack.enter_context(client)
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise ClusterError(
                f"the scheduler at {self.address} has no workers; start some with "
                f"'dask worker {self.address} --nthreads 1'"
            ) from error
        return client


def library() -> Any:
    """The package ``distributed``, quiet.

    Raises: ClusterError: it is not installed.
    """
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ClusterError(
            "Dask is missing, which shares work among processes and machines: install it with "
            "pip install 'mpkit[distributed]'"
        ) from error
    for name in ("distributed", "bokeh", "tornado.application"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return distributed


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _with_one_gpu(distributed: Any) -> Any:
    class OneGPU(distributed.Nanny):  # type: ignore[misc]
        """A worker that sees the one GPU of its number."""

        def __init__(self, *words: Any, name: Any = 0, **options: Any) -> None:
            own = {"CUDA_VISIBLE_DEVICES": str(name)}
            super().__init__(*words, name=name, env=own, **options)

    return OneGPU


@dataclass(frozen=True)
class Slurm:
    """Workers in jobs of SLURM: one job is one worker, which does one task at a time.

    As YAML::

        queue: gpu            # the partition
        account: vision       # who pays
        cores: 8              # of each job
        memory: 32GB          # of each job
        walltime: "04:00:00"
        jobs: 16              # as many workers
        gpus: 1               # of each job, 0 or 1
        interface: ib0        # the network card that compute nodes can reach
        directives: ["--constraint=h100"]
        before: ["source ~/mpkit/.venv/bin/activate"]   # lines before the worker starts
    """

    memory: str
    walltime: str
    queue: str = ""
    account: str = ""
    cores: int = 1
    jobs: int = 1
    gpus: int = 0
    interface: str = ""
    directives: tuple[str, ...] = ()
    before: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rules: dict[str, tuple[Callable[[Any], bool], str]] = {
            "memory": (lambda v: bool(re.fullmatch(r"\d+ ?[MGT]i?B", v)), "a size such as 32GB"),
            "walltime": (
                lambda v: bool(re.fullmatch(r"(\d+-)?\d+:\d\d:\d\d", v)),
                'hours, minutes and seconds in quotes, such as "04:00:00"',
            ),
            "cores": (lambda v: v >= 1, "at least 1"),
            "jobs": (lambda v: v >= 1, "at least 1"),
            "gpus": (lambda v: v in (0, 1), "0 or 1; ask for more jobs to use more GPUs"),
        }
        for name, (good, wanted) in rules.items():
            if not good(getattr(self, name)):
                raise ClusterError(f"slurm: {name} is {getattr(self, name)!r}, expected {wanted}")

    @classmethod
    def read(cls, path: Path) -> Slurm:
        """Read the options from a YAML file.

        Raises: ClusterError: the file cannot be read, or an option is unknown, missing or unfit.
        """
        import yaml

        try:
            given = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ClusterError(f"slurm: {path} cannot be read as YAML ({error})") from error
        known = {field.name: field for field in fields(cls)}
        if not isinstance(given, dict) or not set(given) <= set(known):
            wrong = sorted(map(str, set(given) - set(known))) if isinstance(given, dict) else given
            raise ClusterError(
                f"slurm: {path} has unknown options {wrong!r}; the options are {', '.join(known)}"
            )
        missing = [n for n, f in known.items() if f.default is MISSING and n not in given]
        if missing:
            raise ClusterError(f"slurm: {path} lacks {' and '.join(missing)}")
        return cls(**{name: _typed(name, value, known[name].type) for name, value in given.items()})

    def cluster(self) -> Any:
        """The cluster without jobs yet.

        Raises: ClusterError: Dask or dask-jobqueue is missing.
        """
        library()
        try:
            from dask_jobqueue import SLURMCluster
        except ModuleNotFoundError as error:
            raise ClusterError(
                "--slurm needs dask-jobqueue: install it with pip install 'mpkit[distributed]'"
            ) from error
        gpu = ["--gres=gpu:1"] if self.gpus else []
        return SLURMCluster(
            queue=self.queue or None,
            account=self.account or None,
            cores=1,
            processes=1,
            job_cpu=self.cores,
            memory=self.memory,
            walltime=self.walltime,
            interface=self.interface or None,
            job_name="mpkit",
            python=sys.executable,
            job_extra_directives=[*gpu, *self.directives],
            job_script_prologue=[f"export OMP_NUM_THREADS={self.cores}", *self.before],
            worker_extra_args=["--resources", "GPU=1"] if self.gpus else [],
            scheduler_options={"dashboard": False, "dashboard_address": ":0"},
            n_workers=0,
        )

    def script(self) -> str:
        """The script that is handed to ``sbatch`` for every job."""
        with self.cluster() as cluster:
            text: str = cluster.job_script()
        return text

    def client(self, stack: ExitStack, tasks: int) -> Any:
        """Ask SLURM for the jobs, at most one per task, and wait until one runs.

        Raises: ClusterError: this machine has no SLURM, or Dask is missing.
        """
        distributed = library()
        if shutil.which("sbatch") is None:
            raise ClusterError(
                "--slurm: there is no sbatch on this machine; run this on a login node of the "
                "cluster, or start workers yourself and give --scheduler"
            )
        cluster = self.cluster()
        stack.callback(cluster.close)
        client = stack.enter_context(distributed.Client(cluster, set_as_default=False))
        jobs = min(self.jobs, tasks)
        cluster.scale(jobs=jobs)
        print(f"{jobs} jobs asked for; waiting for the first (squeue --me)", file=sys.stderr)
        client.wait_for_workers(1)
        return client


def _typed(name: str, value: Any, kind: Any) -> Any:
    """The value as its field has it, or a refusal."""
    if kind == "tuple[str, ...]" and isinstance(value, list):
        if all(isinstance(line, str) for line in value):
            return tuple(value)
    elif type(value).__name__ == kind:
        return value
    wanted = {"str": "text (in quotes)", "int": "a whole number"}.get(str(kind), "a list of texts")
    raise ClusterError(f"slurm: {name} is {value!r}, expected {wanted}")
