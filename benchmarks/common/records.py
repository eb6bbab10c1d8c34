"""What the scripts of this folder share: common options, one thread, one form of record."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mpkit.core import memory, records

ROOT = Path(__file__).parents[2]
RADII = {"linf": 0.3, "l2": 2.0, "l1": 10.0}
"""The usual radii on MNIST."""


def options(about: str | None, output: str, points: int) -> argparse.ArgumentParser:
    """A parser with the options that every script has.

    Args:
        about: the script's documentation.
        output: where the record goes by default, relative to the checkout.
        points: images by default.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=points)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=ROOT / output)
    return parser


def begin(parser: argparse.ArgumentParser, keep: bool = True) -> tuple[argparse.Namespace, float]:
    """Read the options, set the threads, keep freed memory as the commands do, start the clock."""
    given = parser.parse_args()
    if keep:
        memory.keep()
    torch.set_num_threads(given.threads)
    return given, time.monotonic()


def duration(text: str) -> float:
    """Seconds of a time such as 90s, 9m or 1h."""
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


class Kept:
    """Rows of a measurement, kept in a file as they come, so that a stopped one goes on.

    Args:
        output: where the record will go; the rows lie beside it until then.
        key: what must be the same for old rows to count.
        texts: of the code that decides the rows; all of mpkit's where not given.
        share: number of the process, where several measure a share each. A later one without it
            takes in what they kept.

    Attributes:
        rows: by name.
        seconds: wall time that all of them took, in every run so far.
    """

    def __init__(
        self, output: Path, *key: Any, texts: Sequence[Any] | None = None, share: int | None = None
    ) -> None:
        self.path = output.with_suffix(".part" if share is None else f".{share}.part")
        self.key = records.digest(records.source_texts() if texts is None else texts, *key)
        self.rows: dict[str, Any] = {}
        self.seconds = 0.0
        shares = output.parent.glob(f"{output.stem}.*.part") if share is None else []
        self.files = [self.path, *shares]
        for path in self.files:
            stored = json.loads(path.read_text()) if path.is_file() else {"key": ""}
            if stored["key"] == self.key:
                self.rows |= stored["rows"]
                self.seconds += stored["seconds"]

    def row(self, name: str, make: Callable[[], Any]) -> Any:
        """The row of that name, measured unless it is there."""
        if name not in self.rows:
            begun = time.monotonic()
            self.rows[name] = make()
            self.seconds += time.monotonic() - begun
            kept = {"key": self.key, "rows": self.rows, "seconds": self.seconds}
            records.write_text(self.path, json.dumps(kept))
            for path in self.files[1:]:
                path.unlink(missing_ok=True)
            self.files = [self.path]
        return self.rows[name]

    def done(self) -> None:
        """Remove the files: the record is written."""
        for path in self.files:
            path.unlink(missing_ok=True)


def again(old: Mapping[str, Any], new: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What a record says of which only a part was measured anew.

    Args:
        old: the record that gives the rest.
        new: names of what was measured now, by kind, such as {"attacks": ["PGD"]}.

    Returns: under "again" those names, with the ones of earlier times, and under "others" commit,
        date, duration and versions of the rest.
    """
    earlier = old.get("again") or {
        "others": {key: old[key] for key in ("commit", "commit_date", "duration_s", "versions")}
    }
    names = {kind: sorted({*earlier.get(kind, ()), *some}) for kind, some in new.items()}
    return {"again": {**names, "others": earlier["others"]}}


def write(
    given: argparse.Namespace,
    seconds: float,
    content: Mapping[str, Any],
    parameters: Mapping[str, Any],
) -> None:
    """Write the record: provenance, then the content.

    Args:
        given: the options; where files lie on this machine is left out.
        seconds: wall time of the run.
        content: what was measured, as plain data.
        parameters: what else decides the result.
    """
    plain = {key: value for key, value in vars(given).items() if not isinstance(value, Path)}
    facts = {**plain, **parameters, "output": given.output.name, "seed": 0}
    record = records.provenance(facts, ROOT, seconds, "benchmark")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    records.write_record(given.output, {**record, **content})
