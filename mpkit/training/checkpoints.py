"""Checkpoints that survive: hashed, never pickled, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mpkit.core.files import file_hash, packed, unpacked, write_atomically


class DamagedCheckpoint(UserWarning):
    """A checkpoint does not match its hash; the message names it, and the one before is used."""


class Saved(NamedTuple):
    """The content of a checkpoint: tensors by name, and facts that JSON can hold."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """A folder with the last few states of one training run.

    ``step-00001234.safetensors`` holds a state, ``step-00001234.sha256`` its hash in the form
    that ``sha256sum -c`` reads, and ``metrics.jsonl`` one line per epoch.

    Args:
        folder: made where it is missing; one folder for one run.
        seconds: least time between two checkpoints; the end of the run is always kept.
        keep: how many of the newest stay, at least 1.
    """

    folder: Path
    seconds: float = 30.0
    keep: int = 2

    def __post_init__(self) -> None:
        if self.keep < 1 or not self.seconds >= 0:
            raise ValueError(
                f"Checkpoints: keep must be at least 1 and seconds at least 0, got keep="
                f"{self.keep}, seconds={self.seconds}"
            )

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write one checkpoint, then remove the oldest.

        Raises: OSError: disk full or not writable; the earlier checkpoints are untouched.
        """
        path = self.folder / f"step-{step:08d}.safetensors"
        content = packed(tensors, facts=json.dumps(facts))
        line = f"{hashlib.sha256(content).hexdigest()}  {path.name}\n".encode()
        self._write(path.with_suffix(".sha256"), line)
        self._write(path, content)
        for old in self.paths()[: -self.keep]:
            old.unlink(missing_ok=True)
            old.with_suffix(".sha256").unlink(missing_ok=True)

    def latest(self) -> Saved | None:
        """The newest checkpoint that matches its hash; a damaged one is named in a warning."""
        for path in reversed(self.paths()):
            if _expected(path) != file_hash(path):
                warnings.warn(
                    f"{path}: damaged (its sha256 is not the one in "
                    f"{path.with_suffix('.sha256').name}); going on from the one before it",
                    DamagedCheckpoint,
                    stacklevel=2,
                )
                continue
            tensors, words = unpacked(path)
            return Saved(tensors, json.loads(words["facts"]))
        return None

    def paths(self) -> list[Path]:
        """The checkpoints that are there, oldest first."""
        return sorted(self.folder.glob("step-*.safetensors"))

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:
        """Replace ``metrics.jsonl``: one JSON object per epoch.

        Raises: OSError: as for :meth:`save`.
        """
        text = "".join(json.dumps(line) + "\n" for line in lines)
        self._write(self.folder / "metrics.jsonl", text.encode())

    def _write(self, path: Path, content: bytes) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: file.write(content))
        except OSError as error:
            raise OSError(
                error.errno,
                f"not written ({error.strerror}); the checkpoints so far are kept: mend this and "
                "start the same run again to go on from there",
                str(path),
            ) from error


def _expected(path: Path) -> str:
    try:
        return path.with_suffix(".sha256").read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        return ""
