"""Writing files so that nobody ever sees half of one; the error for files that are not right."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


class DataError(ValueError):
    """A file or folder is missing, truncated or not what it should be.

    The message names the file, what was expected, and the command that mends it.
    """


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Give ``path`` its new content in one step: readers see the old file or the new one.

    Args:
        path: the file to make or replace; its folder must exist.
        write: called with a binary file object that stands in for ``path``.

    Raises:
        OSError: the disk is full or not writable. The old file is then untouched and the
            partial one is gone.
    """
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def digest(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal checksum of a file, ``algorithm`` being a name that :mod:`hashlib` knows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether this process may do what a lock file stands for; freed even by SIGKILL.

    Where the system has no such locks the answer is always yes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except OSError:
            yield False
            return
        yield True


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait for the lock that a file stands for, and hold it; freed even by SIGKILL.

    Where the system has no such locks, nothing is waited for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        with suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
