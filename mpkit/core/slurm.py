"""Workers that SLURM starts: a small file of options, the job script made from it, the jobs.

One job is one worker, which does one task at a time. The options, as YAML::

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

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from mpkit.core.workers import ClusterError, library


@dataclass(frozen=True)
class Slurm:
    """Workers in jobs of SLURM; see the module for what the fields mean."""

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

        Raises:
            ClusterError: the file cannot be read, or an option is unknown, missing or unfit.
        """
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

        Raises:
            ClusterError: Dask or dask-jobqueue is missing.
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

        Raises:
            ClusterError: this machine has no SLURM, or Dask is missing.
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
