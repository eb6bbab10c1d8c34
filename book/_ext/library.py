"""The reference of the code: which rooms a page shows, and docstrings in napoleon's form.

A line ``% library: mpkit.sets`` of a page becomes a section for each public module of this room.
Docstrings may say
``Returns: the image.`` or ``Raises: ValueError if eps is 0.`` beside the header, and they write
absolute values as ``|x|``, which reStructuredText would take for a substitution.
"""

from __future__ import annotations

import re
import sys
from pkgutil import walk_packages
from typing import Any, TypeVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

import mpbook
import mpkit

LINE = re.compile(r"^% library: (.+)$", re.MULTILINE)
HEADER = re.compile(r"(Args|Returns|Raises|Yields|Sources?|Examples?|Notes?):(?: +(\S.*))?$")
ERROR = re.compile(r"(\w+(?:Error|Exception)),? (?=\S)")
BAR = re.compile(r"(``.*?``)|(?<!\\)\|")
PROGRAMS = {"mpkit.cli", "mpkit.__main__", "mpbook.pages.kernel", "mpbook.pages.commands"}  # run
SECTION = """
## `{name}`

```{{eval-rst}}
.. automodule:: {name}
```
"""


def modules() -> dict[str, list[str]]:
    """Name the public modules of every room: mpkit.sets has mpkit.sets.balls and others."""
    rooms: dict[str, list[str]] = {}
    for package in (mpbook, mpkit):
        for info in walk_packages(package.__path__, f"{package.__name__}."):
            room = info.name.rpartition(".")[0]
            if not info.ispkg and not {room, info.name} & PROGRAMS:
                rooms.setdefault(room, []).append(info.name)
    return rooms


def write_sections(app: Sphinx, page: str, source: list[str]) -> None:
    """Write the sections that a page asks for into its source."""

    def sections(line: re.Match[str]) -> str:
        there = modules()
        return "".join(
            SECTION.format(name=name) for room in line[1].split() for name in there[room]
        )

    source[0] = LINE.sub(sections, source[0])


def open_sections(lines: list[str]) -> list[str]:
    """Give a section that begins beside its header lines of its own, and set sections apart.

    Args:
        lines: a docstring, dedented.

    Returns:
        The lines with every section in napoleon's form and a blank line before each.
    """
    opened: list[str] = []
    indent = ""
    for line in lines:
        if found := HEADER.match(line):
            opened += ["", f"{found[1]}:"] if opened and opened[-1] else [f"{found[1]}:"]
            indent = ""
            if found[2]:
                raises = found[1] == "Raises"
                opened.append("    " + (ERROR.sub(r"\1: ", found[2], 1) if raises else found[2]))
                indent = "        " if raises else "    "
        else:
            indent = indent if line else ""
            opened.append(indent + line)
    return opened


def rewrite(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place, before napoleon reads it."""
    opened = open_sections([BAR.sub(lambda bar: bar[1] or r"\|", line) for line in lines])
    if what in ("attribute", "data", "property"):
        opened[:0] = ["..", ""]  # words before a colon in the first line, napoleon takes for a type
    lines[:] = opened


def skip_fields(
    app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out the fields of named tuples: their class describes them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def is_placeholder(target: str) -> bool:
    """Whether a dotted name of mpkit is a type variable, which has no description."""
    module, _, name = target.rpartition(".")
    return isinstance(getattr(sys.modules.get(module), name, None), TypeVar)


def resolve(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.Element | None:
    """Find a bare name, or one that a room shows as its own, where the library has it once."""
    if node.get("refdomain") != "py":
        return None
    if is_placeholder(node["reftarget"]):
        return content
    room, _, bare = node["reftarget"].rpartition(".")
    objects = env.get_domain("py").get_objects()
    found = [one for one in objects if one[0].startswith(room) and one[0].split(".")[-1] == bare]
    if len(found) != 1:
        return None
    name, _, _, page, anchor, _ = found[0]
    return make_refnode(app.builder, node["refdoc"], page, anchor, content, name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the above; docstrings are rewritten before napoleon sees them."""
    app.connect("source-read", write_sections)
    app.connect("autodoc-process-docstring", rewrite, priority=100)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
