"""Memory that a process has freed: kept for its next tensors instead of given back to the system.

With its usual settings the C library of Linux gives large freed blocks back at once, and every new
tensor asks for its pages again. Where pages come slowly, as on virtual machines, that costs more
than the arithmetic on them.
"""

from __future__ import annotations

import ctypes
import sys

TRIM, MMAP = -1, -3
"""Names of two settings of glibc: when the heap shrinks, and what size lies outside of it."""

LARGEST = 2**30


def keep(size: int = LARGEST) -> bool:
    """Keep freed blocks of up to a size, and as much free memory, until the process ends.

    Args:
        size: in bytes, > 0 and below 2^31.

    Returns: whether the C library has these settings; where not, nothing changes.

    Raises:
        ValueError: size is out of range.

    Source: mallopt(3).
    """
    if not 0 < size < 2**31:
        raise ValueError(f"keep: size must lie between 1 and 2^31 - 1 bytes, got {size}")
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(name, size) == 1 for name in (TRIM, MMAP))
