"""Attacks in pieces: a bound on memory, halved by itself where it is still too much."""

from __future__ import annotations

import ctypes
import re
import sys
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from mpkit.core import cuda_graphs

Piece = TypeVar("Piece")


class NoMemory(torch.OutOfMemoryError):
    """The smallest piece of work does not fit into memory; the message says what to do."""


LACK = re.compile(
    r"DefaultCPUAllocator|out of memory|ALLOC(ATION)?_FAILED|OUT_OF_(DEVICE|HOST)_MEMORY"
)
"""How the host, drivers, cuBLAS, cuDNN, and devices of other makers say that memory ran out."""


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out, that of the device or that of the host.

    Errors of a driver and of libraries come as plain RuntimeErrors, or as ``AcceleratorError``.
    """
    told = isinstance(error, RuntimeError) and LACK.search(str(error))
    return bool(told) or isinstance(error, torch.OutOfMemoryError | MemoryError)


def in_pieces(
    who: str,
    work: Callable[[slice], Piece],
    rows: int,
    size: int,
    rng: torch.Generator | None = None,
) -> list[Piece]:
    """Do work on some rows at a time, on half as many from then on where memory runs out.

    While something is recorded, lack of memory is an error: what is halved would be recorded so.

    Args:
        who: names the work in warnings and errors.
        work: is given the rows of a piece.
        rows: how many there are.
        size: rows at a time, > 0.
        rng: set back before a piece is tried again, so that no number is drawn twice.

    Returns: what work returned for every piece, in order.

    Raises: NoMemory: if not even a single row fits.
    """
    parts: list[Piece] = []
    done = 0
    while done < rows:
        piece = slice(done, min(done + size, rows))
        count = piece.stop - done
        state = rng.get_state() if rng else None
        try:
            parts.append(work(piece))
            done = piece.stop
            continue
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error) or cuda_graphs.under_way():  # a recording must not change its way
                raise
            reason = str(error).split(".")[0]
        if count == 1:
            raise NoMemory(
                f"{who}: out of memory at a single example ({reason}); end what else uses this "
                "memory, or take a smaller network or a device with more"
            )
        if rng and state is not None:
            rng.set_state(state)
        size = count // 2
        empty_caches()
        warnings.warn(
            f"{who}: out of memory at {count} examples ({reason}); going on with {size}",
            stacklevel=3,
        )
    return parts


def empty_caches() -> None:
    """Give back what the allocators of devices keep for later."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


TRIM, MMAP = -1, -3
"""Names of two settings of glibc: when the heap shrinks, and what size lies outside of it."""

LARGEST = 2**30


def keep(size: int = LARGEST) -> bool:
    """Keep freed blocks of up to a size, and as much free memory, until the process ends.

    Args:
        size: in bytes, > 0 and below 2^31.

    Returns: whether the C library has these settings; where not, nothing changes.

    Raises: ValueError: size is out of range.

    Source: mallopt(3).
    """
    if not 0 < size < 2**31:
        raise ValueError(f"keep: size must lie between 1 and 2^31 - 1 bytes, got {size}")
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, size) == 1 for name in (TRIM, MMAP))
