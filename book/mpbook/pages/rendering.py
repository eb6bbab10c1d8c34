"""From executed notebooks to pages: a staging copy of the book, built by Jupyter Book.

The pages are built beside their place and moved there when they are complete. A finished site
carries ``.mpkit.json``; a folder without it is never taken for one, and never overwritten.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpbook.pages.chapters import ChapterError
from mpbook.pages.execution import SOURCES
from mpbook.pages.handout import without_solutions
from mpkit.core.files import file_hash, scratch
from mpkit.core.records import digest, source_texts, write_text

MARK = ".mpkit.json"
BRIEF = (
    "```{note}\nThis is the text of the page alone. The whole is in the book: `mpkit book`.\n```"
)
UTF8 = {"PYTHONUTF8": "1"}  # for children, whose packages may trust the locale
STRICT = ("-W", "-n", "--keep-going")
BUILD = "from jupyter_book.cli.main import main; main()"
SKIPPED = shutil.ignore_patterns("_build", "__pycache__", ".ipynb_checkpoints", ".*")


def site_key(root: Path, executed: Mapping[str, Path], solutions: bool = True) -> str:
    """What decides the pages: every file of the book, its configuration, the executed notebooks,
    the docstrings of mpkit, and whether solutions are shown."""
    files = [root / "_config.yml", root / "_toc.yml"]
    files += sorted(
        p for p in (root / "book").rglob("*") if p.is_file() and "__pycache__" not in p.parts
    )
    named = [(str(path.relative_to(root)), file_hash(path)) for path in files]
    pages = {name: file_hash(path) for name, path in executed.items()}
    return digest(named, source_texts(*SOURCES), pages, *[] if solutions else ["no solutions"])


def is_current(site: Path, key: str) -> bool:
    """Whether a folder holds a finished site of that key."""
    try:
        return bool(json.loads((site / MARK).read_text(encoding="utf-8"))["key"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_target(target: Path) -> None:
    """Refuse a target that holds something other than what mpkit made.

    Raises: ChapterError: the folder exists, is not empty and carries no mark of a finished run.
    """
    blocked = next((p for p in target.absolute().parents if p.exists() and not p.is_dir()), None)
    if blocked:
        raise ChapterError(f"{target}: {blocked} is a file, no folder: name another place")
    if target.is_file() or (
        target.is_dir() and any(target.iterdir()) and not (target / MARK).is_file()
    ):
        raise ChapterError(f"{target} holds files that mpkit did not make: name an empty folder")


def render(
    root: Path,
    executed: Mapping[str, Path],
    site: Path,
    options: Sequence[str] = STRICT,
    contents: Mapping[str, Any] | None = None,
    brief: bool = False,
    solutions: bool = True,
) -> Path:
    """Build the pages of the book with these executed notebooks in place of the committed ones.

    Args:
        root: the checkout that the book comes from; it is only read.
        executed: page to the file in its place, chapter id to executed notebook above all;
            chapters not named keep their committed outputs.
        site: where the pages go; an earlier site there is replaced when the new one is complete.
        options: further options of ``jupyter-book build``; strict unless told otherwise.
        contents: another table of contents than ``_toc.yml``, in the same form.
        brief: whether all other pages are reduced to their prose, which references need.
        solutions: whether exercises are shown with them.
    Returns: the site's front page.
    Raises: ChapterError: the build failed; the earlier site is untouched and the log is named.
    """
    key = site_key(root, executed, solutions)
    with scratch(site.parent) as place:
        stage = place / "stage"
        shutil.copytree(root / "book", stage / "book", ignore=SKIPPED)
        for name in ("_config.yml", "_toc.yml"):
            shutil.copy(root / name, stage / name)
        if brief:
            _reduce(stage / "book")
        if contents is not None:
            (stage / "_toc.yml").write_text(json.dumps(contents), encoding="utf-8")
        for name, path in executed.items():
            shutil.copy(path, stage / "book" / f"{name}{path.suffix}")
        if not solutions:
            for path in (stage / "book").glob("*.ipynb"):
                whole = json.loads(path.read_text(encoding="utf-8"))
                write_text(path, json.dumps(without_solutions(whole)))
        command = [sys.executable, "-P", "-c", BUILD, "build", "--all", *options, str(stage)]
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            cwd=stage,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **UTF8},
        )
        html = stage / "_build" / "html"
        if done.returncode or not (html / "index.html").is_file():
            log = site.parent / f"{site.name}.log"
            write_text(log, done.stdout + done.stderr)
            raise ChapterError(
                f"the pages were not built\n{_complaints(done.stderr)}\n  log: {log}"
            )
        write_text(html / MARK, json.dumps({"key": key}))
        if site.exists():
            site.rename(place / "old")
        html.rename(site)
    return site / "index.html"


def _reduce(book: Path) -> None:
    """Leave of every page its prose alone, with a word about it."""
    for path in book.rglob("*.ipynb"):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        prose = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
        prose[0]["source"] = [*prose[0]["source"], f"\n\n{BRIEF}"]
        write_text(path, json.dumps({**notebook, "cells": prose}))
    for path in (book / "api").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        write_text(path, re.sub("^% library: .*$", BRIEF, text, flags=re.MULTILINE))


def _complaints(text: str) -> str:
    """The lines of a build that say what is wrong, a few of them."""
    words = ("WARNING", "ERROR", "Error")
    lines = [line.strip() for line in text.splitlines() if any(word in line for word in words)]
    return "\n".join(f"  {line[:300]}" for line in lines[:8])
