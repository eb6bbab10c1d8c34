"""The rooms of mpkit and mpbook, which of them import which, and the picture in CONTRIBUTING.md.

python tests/helpers/rooms.py           # print the picture
python tests/helpers/rooms.py --write   # put it into CONTRIBUTING.md
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = {"mpkit": ROOT / "mpkit", "mpbook": ROOT / "book" / "mpbook"}
FLOORS = (
    ("mpkit.core",),
    ("mpkit.sets", "mpkit.data"),
    ("mpkit.models",),
    ("mpkit.attacks",),
    ("mpkit.training", "mpkit.evaluation", "mpkit.masking"),
    ("mpkit.certify",),
    ("mpkit.studies",),
    ("mpkit.audit",),
    ("mpkit.cli",),
    ("mpbook.figures", "mpbook.theory", "mpbook.teaching"),
    ("mpbook.pages",),
)
PICTURE = re.compile(r"```mermaid\n.*?```\n", re.DOTALL)


def room(module: str) -> str:
    """The room of a dotted module: mpkit.sets.balls lives in mpkit.sets."""
    return ".".join(module.split(".")[:2])


def files() -> Iterator[tuple[str, Path]]:
    """Every module's dotted name and file, those of the packages themselves left out."""
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            if len(parts) > 2:
                yield ".".join(part for part in parts if part != "__init__"), path


def imports(path: Path) -> set[str]:
    """The modules of both packages that a file imports, inside functions too, but not for types."""
    found = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if "TYPE_CHECKING" not in ast.unparse(node)[:20]]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            found |= {name if is_module(name) or "." not in module else module for name in names}
        elif isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] in PACKAGES}
    return found


def is_module(name: str) -> bool:
    """Whether a dotted name is a file of one of the packages."""
    package, *rest = name.split(".")
    return PACKAGES[package].joinpath(*rest).with_suffix(".py").is_file()


def arrows() -> dict[str, set[str]]:
    """Which rooms every room imports."""
    found: dict[str, set[str]] = {}
    for name, path in files():
        found.setdefault(room(name), set()).update(map(room, imports(path)))
    rooms = set(found)
    return {name: others & rooms - {name} for name, others in found.items()}


def reach(edges: dict[str, set[str]], start: str) -> set[str]:
    """All that can be come to from a place."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in edges.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def picture() -> str:
    """The rooms floor by floor with their arrows, those left out that follow from others."""
    edges, lines = arrows(), ["```mermaid", "flowchart BT"]
    for number, floor in enumerate(FLOORS):
        lines += [f'  subgraph f{number} [" "]', *(f"    {name}" for name in floor), "  end"]
    for name in sorted(edges):
        beyond = {far for near in edges[name] for far in reach(edges, near)}
        lines += [f"  {name} --> {other}" for other in sorted(edges[name] - beyond)]
    return "\n".join([*lines, "```", ""])


if __name__ == "__main__":
    if "--write" in sys.argv:
        page = ROOT / "CONTRIBUTING.md"
        page.write_text(PICTURE.sub(lambda _: picture(), page.read_text()))
    else:
        print(picture(), end="")
