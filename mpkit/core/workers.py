"""Where tasks run: processes of this machine, or the workers of a running Dask scheduler.

Dask is the optional extra ``distributed``; it is imported where it is used.
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import dataclass
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

        Raises:
            ClusterError: Dask is missing, or GPUs are asked for that are not there.
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

    Raises:
        ClusterError: it is not installed.
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
