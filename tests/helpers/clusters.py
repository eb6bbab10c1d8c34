"""Real Dask processes for tests: a scheduler and workers, started and ended with the test."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="Dask is not installed: pip install 'mpkit[distributed]'")

DASK = str(Path(sys.executable).with_name("dask"))


def wait_for(happened: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL one process, and nobody else: those below it have to notice themselves."""
    process.send_signal(signal.SIGKILL)
    process.wait()


@contextmanager
def scheduler(folder: Path) -> Iterator[str]:
    """A scheduler without workers; gives its address."""
    file = folder / "scheduler.json"
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    with running(["scheduler", *words], folder):
        wait_for(file.exists)
        import json

        yield json.loads(file.read_text())["address"]


@contextmanager
def worker(address: str, folder: Path, *words: str, path: Path | None = None) -> Iterator[None]:
    """A worker; ``path`` goes before everything else on its module path."""
    words = ("--nthreads", "1", "--no-dashboard", *words)
    front = {"PYTHONPATH": os.pathsep.join([str(path), *sys.path])} if path else {}
    with running(["worker", address, *words], folder, **front):
        yield


@contextmanager
def running(words: list[str], folder: Path, **environment: str) -> Iterator[None]:
    process = subprocess.Popen(
        [DASK, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
