"""Handouts: a chapter with blanks in place of its solutions, and the tests that tell when they fit.

An exercise in code is two cells. The one tagged ``solution`` holds imports and functions, and
nothing else; the one after it, tagged ``tests``, calls them and stops at the first mistake. A
blank keeps a function's name, arguments and docstring. The two cells import whatever they use, so
they run without the rest of their page. Solutions in words are ``{solution}`` directives.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mpbook.pages.chapters import Chapter, ChapterError
from mpkit.core.records import write_text

BLANK = 'raise NotImplementedError("your turn")'
WORDS = re.compile(r"^(`{3,})\{solution\}.*?^\1\s*?$\n?", re.MULTILINE | re.DOTALL)
FOLDING = ("hide-input", "solution")  # tags that a blank does not need
Notebook = dict[str, Any]


class Handout(NamedTuple):
    """The two notebooks of a course: for those who solve it, and for the one who teaches it."""

    blanks: Path
    solved: Path


def tagged(cell: dict[str, Any], tag: str) -> bool:
    """Whether a cell carries a tag."""
    return tag in cell["metadata"].get("tags", [])


def exercises(notebook: Notebook) -> Iterator[tuple[str, str]]:
    """The source of every solution in code, with that of its tests.

    Raises: ChapterError: a solution that no cell of tests follows.
    """
    cells = notebook["cells"]
    for cell, after in zip(cells, [*cells[1:], None], strict=True):
        if tagged(cell, "solution"):
            source = "".join(cell["source"])
            if after is None or not tagged(after, "tests"):
                raise ChapterError(f"no cell tagged tests follows the solution {source[:60]!r}")
            yield source, "".join(after["source"])


def blanked(source: str) -> str:
    """A solution without what solves it: of each function its head and its docstring remain.

    Raises: ChapterError: something other than imports and functions, which would give it away.
    """
    lines = source.splitlines()
    for node in reversed(ast.parse(source).body):
        if isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if not isinstance(node, ast.FunctionDef):
            raise ChapterError(
                f"a solution is imports and functions; not: {lines[node.lineno - 1]}"
            )
        told = ast.get_docstring(node) is not None
        if told and len(node.body) == 1:
            raise ChapterError(f"a solution without a solution: {node.name}")
        first, last = node.body[told], node.body[-1]
        assert last.end_lineno
        lines[first.lineno - 1 : last.end_lineno] = [f"    {BLANK}"]
    return "\n".join(lines)


def without_solutions(notebook: Notebook) -> Notebook:
    """A copy with blanks and without solutions in words, or what was printed with their help."""
    copy: Notebook = json.loads(json.dumps(notebook))
    kept = []
    for cell in copy["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = WORDS.sub("", source)
            if source.strip() and not cell["source"].strip():
                continue
        elif tagged(cell, "solution") or tagged(cell, "tests"):
            if tagged(cell, "solution"):
                cell["source"] = blanked(source)
                tags = [tag for tag in cell["metadata"]["tags"] if tag not in FOLDING]
                cell["metadata"] = {"tags": ["exercise", *tags]}
            cell["outputs"], cell["execution_count"] = [], None
        kept.append(cell)
    copy["cells"] = kept
    return copy


def hand_out(chapter: Chapter, folder: Path) -> Handout:
    """Write a chapter with blanks, and beside it the same chapter as it is.

    Args:
        folder: where the two notebooks go; others of the same names are replaced.
    Raises: ChapterError: the chapter has no exercise in code, or one without tests.
    """
    notebook = json.loads(chapter.path.read_text(encoding="utf-8"))
    if not list(exercises(notebook)):
        raise ChapterError(f"chapter {chapter.id!r} has no exercise in code: nothing to hand out")
    pair = Handout(folder / f"{chapter.id}-blanks.ipynb", folder / f"{chapter.id}-solved.ipynb")
    for path, content in zip(pair, (without_solutions(notebook), notebook), strict=True):
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return pair
