"""Telling how far a training run is: not at all, or with a bar."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO


@dataclass
class Quiet:
    """Says nothing; also the interface of everything that tells progress."""

    def start(self, total: int, done: int) -> None:
        """A run of ``total`` steps begins, with ``done`` of them behind it."""

    def advance(self, steps: int, note: str) -> None:
        """So many steps more are done; ``note`` is a short word on how it goes."""

    def close(self) -> None:
        """The run is over, well or badly."""


@dataclass
class Bar(Quiet):
    """A bar with the time left, by tqdm.

    Args:
        label: what stands before the bar.
        file: where the bar is drawn.
        unit: what is counted.
    """

    label: str = "training"
    file: TextIO = sys.stderr
    unit: str = "step"
    _bar: Any = field(default=None, init=False, repr=False)

    def start(self, total: int, done: int) -> None:
        """Draw the bar."""
        from tqdm import tqdm

        self._bar = tqdm(total=total, initial=done, desc=self.label, file=self.file, unit=self.unit)

    def advance(self, steps: int, note: str) -> None:
        """Move the bar on."""
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(steps)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


class OutOfTime(Exception):
    """The time that was given is over; what was done so far is kept."""


class Deadline(Quiet):
    """Progress that ends the work when the time is over.

    Args:
        inner: is told what is told.
        end: on the clock of time.monotonic; None for no end.
    """

    def __init__(self, inner: Quiet, end: float | None) -> None:
        self.inner, self.end = inner, end

    def start(self, total: int, done: int) -> None:
        """Pass it on."""
        self.inner.start(total, done)

    def advance(self, steps: int, note: str) -> None:
        """Pass it on, and look at the clock.

        Raises: OutOfTime: it is later than the end.
        """
        self.inner.advance(steps, note)
        if self.end is not None and time.monotonic() > self.end:
            raise OutOfTime

    def close(self) -> None:
        """Pass it on."""
        self.inner.close()
