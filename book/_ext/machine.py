"""What programs read, ``llms.txt`` and ``claims.json``, and all notebooks in one ``notebooks.zip``.

A claim is a sentence that a page checks when it is executed (``mpkit.core.records.claim``). The
list names its page, the records that the page reads, the command that runs the page again, and the
commit of the code that ran.
"""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from mpkit.core.records import claimed, declared

READ = re.compile(r"\bresults\(\s*((?:\"[^\"]+\",?\s*)+)\)")
PARTS = "The list of claims, each with its page, record, command and commit"
PACKED = """\
Robust to Many: the notebooks of the book, with their outputs, in reading order:

{pages}
They run where the book's packages are installed: in a copy of the repository
"make .venv/.ready" installs them into .venv, whose Python an editor or JupyterLab
can then take as kernel. "mpkit run PAGE -p NAME VALUE" computes a page with other
parameters, and "mpkit handout PAGE" writes one with blanks and tests.
"""


def records_of(notebook: dict[str, Any]) -> list[str]:
    """The files and folders of ``book/results`` that a page names."""
    code = "\n".join("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    named = (re.findall(r'"([^"]+)"', found) for found in READ.findall(code))
    return sorted({"/".join(["book/results", *names]) for names in named})


def claims_of(page: str, title: str, notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Every claim of a page, as plain data."""
    made = notebook["metadata"].get("mpkit", {})
    name = Path(page).name
    return [
        {
            "claim": text,
            "holds": holds,
            "page": f"{page}.html",
            "title": title,
            "records": records_of(notebook),
            "command": f"mpkit run {name}",
            "commit": made.get("commit"),
            "commit_date": made.get("commit_date"),
        }
        for text, holds in claimed(notebook).items()
    ]


def sentence(source: str) -> str:
    """What a page says first: its first bold sentence, or its description."""
    found = re.search(r"^\*\*(.+?)\*\*", source, re.MULTILINE | re.DOTALL)
    told = found or re.search(r"^    description: (.+)$", source, re.MULTILINE)
    words = re.sub(r"\{\w+(?::\w+)?\}`([^`<]*)[^`]*`", r"\1", told[1]) if told else ""
    return " ".join(words.split())


def contents(app: Sphinx) -> list[tuple[str, str, Path]]:
    """Every page in reading order: its name, its title and its source."""
    order: list[str] = []

    def visit(page: str) -> None:
        order.append(page)
        for child in app.env.toctree_includes.get(page, []):
            if child not in order:
                visit(child)

    visit(app.config.root_doc)
    return [(p, app.env.titles[p].astext(), Path(app.env.doc2path(p))) for p in order]


def write_lists(app: Sphinx, error: Exception | None) -> None:
    """Write both files beside the pages."""
    if error or app.builder.format != "html":
        return
    base = app.config.html_baseurl
    lines, claims, results = [], [], {}
    for page, title, path in contents(app):
        source = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            notebook = json.loads(source)
            source = "".join(notebook["cells"][0]["source"])
            claims += claims_of(page, title, notebook)
            results[f"{page}.html"] = declared(notebook)
        words = sentence(source)
        lines.append(f"- [{title}]({base}{page}.html)" + (f": {words}" if words else ""))
    out = Path(app.outdir)
    listed = {"claims": claims, "results": {k: v for k, v in results.items() if v}}
    text = json.dumps(listed, indent=1, ensure_ascii=False)
    (out / "claims.json").write_text(text + "\n", encoding="utf-8")
    front = Path(app.env.doc2path(app.config.root_doc)).read_text(encoding="utf-8")
    head = f"# {app.env.titles[app.config.root_doc].astext()}\n\n> {sentence(front)}\n\n"
    notebooks = f"Sources of the pages, as notebooks: {base}_sources/PAGE.ipynb.\n\n"
    tail = f"\n## For programs\n\n- [claims.json]({base}claims.json): {PARTS}.\n"
    pages = "## Pages\n\n" + "\n".join(lines) + "\n"
    (out / "llms.txt").write_text(head + notebooks + pages + tail, encoding="utf-8")


def write_notebooks(app: Sphinx, error: Exception | None) -> None:
    """Put all notebooks into one archive, the same bytes for the same notebooks."""
    if error or app.builder.format != "html":
        return
    pages = [(title, path) for _, title, path in contents(app) if path.suffix == ".ipynb"]
    listed = "".join(f"  {path.name:22} {title}\n" for title, path in pages)
    files = {"README.txt": PACKED.format(pages=listed).encode()}
    files |= {path.name: path.read_bytes() for _, path in pages}
    with zipfile.ZipFile(Path(app.outdir) / "notebooks.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(zipfile.ZipInfo(f"notebooks/{name}"), content, zipfile.ZIP_DEFLATED)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write when all pages are there."""
    app.connect("build-finished", write_lists)
    app.connect("build-finished", write_notebooks)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
