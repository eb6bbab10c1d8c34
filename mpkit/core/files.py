"""Files: nobody ever sees half of one, tensors go in and out, and a lock has one holder."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp
from typing import IO, TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from torch import Tensor


ROOM = "; make room and give the same command again: what was finished before is kept"
PLACE = "; name another place, or allow writing there"
REMEDIES = {errno.ENOSPC: ROOM, errno.EDQUOT: ROOM, errno.EFBIG: ROOM}
REMEDIES |= {errno.EROFS: PLACE, errno.EACCES: PLACE, errno.EPERM: PLACE}


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
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def require_room(place: Path, size: int = 1 << 18) -> None:
    """Find a full or read-only disk before the work that ends in a place, not after it.

    Args:
        place: the file or folder that will be written; it need not exist.
        size: bytes that are written for a trial, and deleted.
    Raises: OSError: no; it names the folder above the place.
    """
    folder = next(p for p in (place.absolute(), *place.absolute().parents) if p.is_dir())
    try:
        with TemporaryFile(dir=folder) as file:
            file.write(bytes(size))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from error


def refused(error: OSError) -> str:
    """What the system refused, in one line, with the file's name and the remedy."""
    if isinstance(error, shutil.Error) and isinstance(error.args[0], list) and error.args[0]:
        _, name, why = error.args[0][0]
        full = f"[Errno {errno.ENOSPC}]" in why
        error = OSError(errno.ENOSPC, "No space left on device", name) if full else OSError(why)
    if error.filename is None or error.errno is None:
        return str(error)
    why = str(error.strerror)
    if why == os.strerror(error.errno):  # nobody has said more yet
        why = why[:1].lower() + why[1:] + REMEDIES.get(error.errno, "")
    return f"{error.filename}: {why}"


def file_hash(path: Path, algorithm: str = "sha256") -> str:
    """The hexadecimal checksum of a file, ``algorithm`` being a name that :mod:`hashlib` knows."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def packed(tensors: Mapping[str, Tensor], **words: str) -> bytes:
    """The content of a safetensors file: tensors by name, and words about them."""
    from safetensors.torch import save

    return save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, words)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], **words: str) -> None:
    """Write a safetensors file, whole or not at all; its folder is made."""
    content = packed(tensors, **words)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))


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


TYPES = ("int8", "float16", "float32", "float64", "int64")


def squeezed(tensor: Tensor) -> tuple[Tensor, list[int]]:
    """A tensor's bytes, compressed, and its shape with the number of its type before it."""
    import torch

    content = zlib.compress(tensor.contiguous().numpy().tobytes(), 9)
    shape = [TYPES.index(str(tensor.dtype).removeprefix("torch.")), *tensor.shape]
    return torch.frombuffer(bytearray(content), dtype=torch.uint8), shape


def spread(content: Tensor, shape: list[int]) -> Tensor:
    """The tensor of what ``squeezed`` gave.

    Raises: DataError: the bytes are damaged.
    """
    import torch

    try:
        raw = bytearray(zlib.decompress(content.numpy().tobytes()))
    except zlib.error as error:
        raise DataError(f"compressed numbers are damaged ({error}); make them again") from error
    dtype, size = getattr(torch, TYPES[shape[0]]), shape[1:]
    return torch.frombuffer(raw, dtype=dtype).view(size) if raw else torch.empty(size, dtype=dtype)


@contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A hidden folder inside of another (made if missing), for work that is renamed into place.

    It is removed in the end; those that killed processes left there are removed in the beginning.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for lock in folder.glob(".mpkit-*/.lock"):
        with claimed(lock) as free:
            if free:
                shutil.rmtree(lock.parent, ignore_errors=True)
    new = Path(mkdtemp(dir=folder, prefix=".new-"))
    with claimed(new / ".lock"):  # under another name: nobody may find it before it is claimed
        mine = new.rename(new.with_name(new.name.replace(".new", ".mpkit", 1)))
        try:
            yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)


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
