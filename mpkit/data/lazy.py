"""Images that stay on disk and are read a batch at a time: memory no longer grows with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mpkit.core.files import DataError

CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Rows:
    """Stands for a tensor of images; a slice of it is read and becomes one.

    Args:
        read: called with start and stop, 0 <= start < stop <= N; gives those images, (n, C, H, W)
            float32 in [0, 1], on the CPU.
        shape: (N, C, H, W).
        device: where slices go.
    """

    read: Callable[[int, int], Tensor] = field(repr=False)
    shape: torch.Size
    device: torch.device = CPU

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Tensor:
        """Read the images of a slice without a step: (n, C, H, W) on the device."""
        start, stop, step = rows.indices(len(self))
        if step != 1 or stop <= start:
            raise IndexError(f"Rows: give a slice without a step of 0..{len(self)}, got {rows}")
        return self.read(start, stop).to(self.device)

    def first(self, n: int) -> Rows:
        """The first n images, or all where there are fewer."""
        return replace(self, shape=torch.Size((min(n, len(self)), *self.shape[1:])))

    def to(self, device: torch.device) -> Rows:
        """The same images, which go to another device when they are read."""
        return replace(self, device=device)

    def like(self) -> Tensor:
        """A tensor of this shape, on this device, for checks: the first image again and again."""
        return self[:1].expand(self.shape)


def of_array(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> Rows:
    """8-bit pixels (N, H, W, C) in memory, a quarter of what they take as numbers."""

    def read(start: int, stop: int) -> Tensor:
        part = pixels[start:stop].transpose(0, 3, 1, 2)
        return torch.from_numpy(np.divide(part, 255, dtype=np.float32, order="C"))

    count, height, width, channels = pixels.shape
    return Rows(read, torch.Size((count, channels, height, width)))


def of_file(path: Path, offset: int, shape: tuple[int, int, int, int]) -> Rows:
    """8-bit pixels (N, C, H, W), uncompressed, from the byte ``offset`` of a file on.

    The file is opened again for every slice.

    Raises: DataError: while reading, if the file has become shorter.
    """
    size = int(np.prod(shape[1:]))

    def read(start: int, stop: int) -> Tensor:
        count = (stop - start) * size
        found = np.fromfile(path, np.uint8, count, offset=offset + start * size)
        if len(found) != count:
            raise DataError(
                f"{path}: ends within image {start + len(found) // size}, expected {shape[0]} "
                "images; it was changed while it was read"
            )
        return torch.from_numpy(np.divide(found.reshape(-1, *shape[1:]), 255, dtype=np.float32))

    return Rows(read, torch.Size(shape))


@dataclass(frozen=True, eq=False, repr=False)
class Stored:
    """Like `Images`, but on disk, for work that goes from batch to batch; see `stored`."""

    x: Rows
    y: Tensor
    classes: tuple[str, ...]
    name: str

    def __len__(self) -> int:
        return len(self.x)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    def first(self, n: int) -> Stored:
        """The first n images, or all where there are fewer."""
        return replace(self, x=self.x.first(n), y=self.y[:n])
