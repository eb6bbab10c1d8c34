"""Files: nobody ever sees half of one, tensors go in and out, and a lock has one holder."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from torch import Tensor


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


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal checksum of a file, ``algorithm`` being a name that :mod:`hashlib` knows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def packed(tensors: Mapping[str, Tensor], **words: str) -> bytes:
    """The content of a safetensors file: tensors by name, and words about them."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, words)


def unpacked(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and words of a safetensors file, on the CPU.

    Raises: DataError: the file is missing, damaged or of another form.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read as safetensors ({error})") from error


@contextmanager
def claimed(path: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process holds what a lock file stands for; freed even by SIGKILL.

    Args:
        path: the file; its folder is made.
        wait: until another process lets go; the answer is then yes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=-1 if wait else 0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
