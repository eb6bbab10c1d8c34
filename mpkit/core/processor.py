"""One arithmetic on every x86 processor: the settings under which pages are executed.

The libraries below torch choose their code by the processor, each in its own way, and each way
rounds differently. These settings make them choose the same code on every x86 processor with AVX2.
What no setting reaches is MKL's square root, so nothing here that decides a number takes it: see
``mpkit.sets.norms.root``. What the environment says of the arithmetic already has the last word.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ONE_ARITHMETIC = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "MKL_CBWR": "COMPATIBLE",  # its matrix products, on processors of every maker
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # its convolutions in 32 bits
    "OPENBLAS_CORETYPE": "Haswell",  # the matrix products of numpy and scipy
    "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR",  # numpy's own loops
}

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def settings(values: Mapping[str, Any], threads: int | None = None) -> dict[str, str]:
    """The environment variables with which a chapter is executed.

    On the digits it has one thread whatever the environment says: with 64 pixels threads only wait
    for one another, and each number of them adds up in another order.

    Args:
        values: all parameters of the chapter.
        threads: how many it may use where more than one helps; as the libraries like if None.
    """
    wanted = dict(ONE_ARITHMETIC) if "avx2" in flags() else {}
    digits = values.get("dataset") == "digits"
    if not digits and threads is not None:
        wanted["OMP_NUM_THREADS"] = str(threads)
    found = {name: os.environ.get(name, value) for name, value in wanted.items()}
    return found | dict.fromkeys(THREADS, "1") if digits else found


def chosen() -> list[str | None]:
    """What the environment says of the arithmetic; None for what it leaves to the libraries."""
    return [os.environ.get(name) for name in (*ONE_ARITHMETIC, *THREADS)]


def model() -> str:
    """The processor's name, as it calls itself."""
    named = _facts().get("model name") or platform.processor() or platform.machine()
    return " ".join(named.split())


def flags() -> list[str]:
    """What the processor can, in Linux's words; nothing on other systems."""
    return _facts().get("flags", "").split()


@cache
def _facts() -> Mapping[str, str]:
    """What Linux says of the first processor; nothing on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in lines}
