"""A tiny book in a folder of its own, for tests that run, break and kill chapters."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

CONFIG = {
    "title": "Toy",
    "execute": {"execute_notebooks": "off"},
    "only_build_toc_files": True,
    "exclude_patterns": ["_build", "**/_build"],
}
PARAMETERS = (
    'dataset: str = "digits"  # images\n'
    'device: str = "cpu"  # where to compute\n'
    "seed: int = 0  # of every draw [0, 1000]\n"
    "radius: float = 0.5  # in pixel units (0, 1]\n"
    'norm: str = "linf"  # which ball {linf, l2}'
)
MPKIT = str(Path(sys.executable).with_name("mpkit"))
ENV = {**os.environ, "PYTHONUNBUFFERED": "1"}


def code(source: str, *tags: str) -> dict[str, Any]:
    """A code cell."""
    return {
        "cell_type": "code",
        "id": "x",
        "source": source,
        "metadata": {"tags": list(tags)} if tags else {},
        "outputs": [],
        "execution_count": None,
    }


def text(source: str) -> dict[str, Any]:
    """A markdown cell."""
    return {"cell_type": "markdown", "id": "x", "source": source, "metadata": {}}


def notebook(*cells: dict[str, Any]) -> dict[str, Any]:
    """A notebook of these cells."""
    numbered = [{**cell, "id": f"cell-{number:02d}"} for number, cell in enumerate(cells)]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "cells": numbered,
    }


def toy_book(folder: Path, *sources: str) -> Path:
    """A book of one chapter, ``toy``, whose code cells are the parameters and these sources."""
    cells = [text("# A toy chapter\n\nIt counts."), code(PARAMETERS, "parameters")]
    cells += [code(source) for source in sources]
    (folder / "book" / "profiles").mkdir(parents=True)
    (folder / "book" / "profiles" / "quick.yml").write_text("chapters: {}\n")
    (folder / "book" / "index.md").write_text("# A toy book\n\nNothing here.\n")
    (folder / "book" / "toy.ipynb").write_text(json.dumps(notebook(*cells)))
    (folder / "_config.yml").write_text(json.dumps(CONFIG))
    toc = {"format": "jb-book", "root": "book/index", "chapters": [{"file": "book/toy"}]}
    (folder / "_toc.yml").write_text(json.dumps(toc))
    return folder


def mpkit(root: Path, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line in a book, to its end."""
    return subprocess.run(
        [MPKIT, *words], cwd=root, env=ENV, capture_output=True, text=True, timeout=480, **options
    )


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    """Start the command line in a book and leave it running.

    It can be interrupted even where the tests themselves run in the background of a shell.
    """
    return subprocess.Popen(
        [MPKIT, *words],
        cwd=root,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
