"""One thread a process, and the rendered book: built once for all tests that look at it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from helpers.sample_book import ADDRESS, figure_cell, pixels_cell, slider_cell, small_book
from helpers.site_rules import Site, build, copy_book

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; two workers, two cores


def shared(base: Path, name: str, make: Callable[[Path], Site]) -> Site:
    """What the first worker that comes by has built."""
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    told = folder / "built.json"
    with FileLock(f"{folder}.lock"):
        if not told.is_file():
            (folder / "tree").mkdir(parents=True)
            done = make(folder / "tree")
            told.write_text(json.dumps([str(done.html), done.returncode, done.log]))
    html, returncode, log = json.loads(told.read_text())
    return Site(Path(html), returncode, log)


def this_book(tree: Path) -> Site:
    """The book of this checkout."""
    copy_book(tree)
    return build(tree)


def sample(tree: Path) -> Site:
    """A small book with everything that a page may have, at a public address."""
    return small_book(tree, [figure_cell("A chart."), pixels_cell(), slider_cell()], ADDRESS)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The book of this checkout."""
    return shared(tmp_path_factory.getbasetemp(), "site", this_book)


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A small book at a public address."""
    return shared(tmp_path_factory.getbasetemp(), "public", sample)
