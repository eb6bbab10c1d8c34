"""nbval for the pages of a book: numbers may move as their cell says, and what ran is kept.

``book/conftest.py`` hands this to pytest. A chapter is executed under the settings of
``mpkit.core.processor``, its cells are compared as ``mpbook.pages.tolerance`` says, and a chapter
whose cells all passed is put where ``mpkit book`` looks for it, so that the book can be rendered
from it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import pytest
from nbval.plugin import IPyNbCell, IPyNbFile

from mpbook.pages import chapters, execution
from mpbook.pages.kernel import scrub
from mpbook.pages.tolerance import Tolerance, settled
from mpkit.core import processor


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: Any) -> Iterator[None]:
    """Collect a notebook as a page where nbval has collected it."""
    found = yield
    return [
        Page.from_parent(parent, path=file_path) if isinstance(one, IPyNbFile) else one
        for one in found
    ]


@cache
def known(root: Path) -> list[chapters.Chapter]:
    """The chapters of the book there, if there is one."""
    return chapters.chapters(root) if (root / "_toc.yml").is_file() else []


class Cell(IPyNbCell):
    """A cell whose numbers may move as far as it declares."""

    def compare_outputs(self, test: Any, ref: Any, skip_compare: Any = None) -> bool:
        """Compare as nbval does what moved by more than that."""
        allowed = settled(test, ref, Tolerance.of(self.cell), pictures=False)
        shown = list(map(nbformat.from_dict, allowed))
        return bool(super().compare_outputs(shown, ref, skip_compare))

    def runtest(self) -> None:
        """Run and compare the cell; tell its page when all was well."""
        super().runtest()
        self.parent.passed[self.cell_num] = self.test_outputs


class Page(IPyNbFile):
    """A notebook that is executed under the book's settings, and kept when all of it passed."""

    def collect(self) -> Iterator[Cell]:
        """Collect every code cell."""
        for one in super().collect():
            kept = ("cell_num", "cell", "options")
            yield Cell.from_parent(self, name=one.name, **{key: getattr(one, key) for key in kept})

    def setup(self) -> None:
        """Start the kernel."""
        self.passed: dict[int, Any] = {}
        self.begun = time.monotonic()
        book = known(self.path.parents[1])
        self.chapter = next((one for one in book if one.path == self.path), None)
        values = execution.effective(self.chapter, {}) if self.chapter else {}
        self.setting = processor.settings(values)
        with patch.dict(os.environ, self.setting):
            super().setup()

    def teardown(self) -> None:
        """End the kernel; keep a chapter of which every cell passed."""
        super().teardown()
        code = [cell for cell in self.nb.cells if cell.cell_type == "code"]
        if self.chapter is None or len(self.passed) < len(code):
            return
        for number, cell in enumerate(code):
            cell.outputs = nbformat.from_dict(self.passed[number])
            cell.execution_count = number + 1
        scrub(self.nb)
        store = self.path.parents[1] / "_build" / "executed"
        seconds = time.monotonic() - self.begun
        written = json.loads(nbformat.writes(self.nb))
        target = execution.stored(self.chapter, {}, store)
        execution.keep(written, self.chapter, {}, target, seconds, "quick", self.setting)
