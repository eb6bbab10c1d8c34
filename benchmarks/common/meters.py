"""Clocks, memory and energy of one piece of work, on a CPU and on a GPU."""

from __future__ import annotations

import itertools
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

Work = Callable[[], object]
POWERCAP = Path("/sys/class/powercap")


def clock(device: torch.device, threads: int) -> tuple[str, Callable[[], float]]:
    """What time is measured with, in words, and the clock itself, in seconds.

    One thread on a CPU is timed by the time that the process had the core: others on the machine
    do not count. A GPU is waited for before the clock is read.

    Args:
        device: where the work is done.
        threads: of the work.
    """
    if device.type == "cuda":

        def waited() -> float:
            torch.cuda.synchronize(device)
            return time.perf_counter()

        return "wall time, with the device waited for", waited
    if threads == 1:
        return "CPU time of the process", time.process_time
    return "wall time", time.perf_counter


def seconds(work: Work, now: Callable[[], float], repeats: int = 1) -> float:
    """Mean seconds of one call."""
    begun = now()
    for _ in range(repeats):
        work()
    return (now() - begun) / repeats


def spread(values: list[float]) -> list[float]:
    """Median, least and greatest, with four digits."""
    chosen = (statistics.median(values), min(values), max(values))
    return [float(f"{one:.4g}") for one in chosen]


def peak_memory(work: Work, device: torch.device) -> int:
    """Bytes that the work has at most at one time beyond those that were there before.

    On a CPU every allocation of torch is followed; on a GPU its allocator knows the peak.

    Args:
        work: called once; call it before as well, so that what stays is there.
        device: where it allocates.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as seen:
        work()
    events = seen.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return max(0, *itertools.accumulate(size for _, size in sizes))


class Meter(Protocol):
    """Anything that tells the energy of a piece of work."""

    name: str

    def joules(self, work: Work) -> float:
        """The energy that was used while the work ran, by all that ran beside it as well."""


@dataclass(frozen=True)
class Rapl:
    """The counters of Intel and AMD processors: whole packages, whoever uses them.

    Args:
        packages: folders of the packages' counters.
    """

    packages: tuple[Path, ...]
    name: str = "RAPL, all packages of the machine"

    def joules(self, work: Work) -> float:
        """The counters' difference; they start again at zero when they are full."""
        before = [_number(place / "energy_uj") for place in self.packages]
        work()
        used = 0
        for place, start in zip(self.packages, before, strict=True):
            gone = _number(place / "energy_uj") - start
            used += gone if gone >= 0 else gone + _number(place / "max_energy_range_uj")
        return used / 1e6


@dataclass(frozen=True)
class Smi:
    """The power that nvidia-smi reads ten times a second, times the wall time.

    Args:
        gpu: index or UUID, as nvidia-smi has it.
    """

    gpu: str
    name: str = "mean power by nvidia-smi, times wall time"

    def joules(self, work: Work) -> float:
        """Mean power over the work times its time."""
        query = ["--query-gpu=power.draw", "--format=csv,noheader,nounits", "--loop-ms=100"]
        call = ["nvidia-smi", "-i", self.gpu, *query]
        with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as reader:
            assert reader.stdout is not None
            reader.stdout.readline()  # it is up
            begun = time.perf_counter()
            work()
            wall = time.perf_counter() - begun
            reader.terminate()
            watts = [float(line) for line in reader.stdout if _is_number(line)]
        if not watts:
            raise ValueError(f"Smi: no reading in {wall:.2f} s; measure for longer than 0.2 s")
        return statistics.mean(watts) * wall


def meter(device: torch.device, powercap: Path = POWERCAP) -> tuple[Meter | None, str]:
    """What measures energy here, or None, and that in words.

    Args:
        device: whose energy counts.
        powercap: where Linux shows the counters of processors.
    """
    if device.type == "cuda":
        try:
            gpu = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
            call = ["nvidia-smi", "-i", gpu, "--query-gpu=power.draw", "--format=csv,noheader"]
            shown = subprocess.run(call, capture_output=True, text=True, check=True).stdout
        except (OSError, AttributeError, subprocess.CalledProcessError) as why:
            return None, f"not measured: nvidia-smi gives no power reading ({why})"
        if not _is_number(shown.split()[0] if shown.split() else ""):
            return None, f"not measured: nvidia-smi reads {shown.strip()!r} as power"
        return Smi(gpu), Smi.name
    found = tuple(
        place
        for place in sorted(powercap.glob("*-rapl:*"))
        if place.name.count(":") == 1 and _readable(place / "energy_uj")
    )
    if not found:
        return None, "not measured: the machine shows no counter of its processors' energy"
    return Rapl(found), Rapl.name


def _number(path: Path) -> int:
    return int(path.read_text())


def _readable(path: Path) -> bool:
    try:
        _number(path)
    except (OSError, ValueError):
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
