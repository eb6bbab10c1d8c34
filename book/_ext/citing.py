"""How to cite a page: an entry for BibTeX and one in CSL-JSON, folded at its foot."""

from __future__ import annotations

import json
import re
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

BOOK = "Robust to Many"


def entry(page: str, title: str, made: dict[str, Any], address: str = "") -> dict[str, Any]:
    """A page in CSL-JSON.

    Args:
        page: its name, such as book/start.
        title: what it is called.
        made: how it was made (see footers.provenance).
        address: where the book is, with a slash at its end; empty for one without an address.
    """
    about = metadata.metadata("mpkit")
    year, month, day = (int(part) for part in made["commit_date"].split("-"))
    found = {
        "id": f"mpkit-{Path(page).name}-{year}",
        "type": "chapter",
        "title": title,
        "container-title": BOOK,
        "author": [{"literal": about["Author"]}],
        "issued": {"date-parts": [[year, month, day]]},
        "version": about["Version"],
        "note": f"State of the code: {made['commit']}",
    }
    return found | ({"URL": f"{address}{page}.html"} if address else {})


def bibtex(csl: dict[str, Any]) -> str:
    """The same entry for BibTeX."""
    year = csl["issued"]["date-parts"][0][0]
    fields = {
        "author": "{" + csl["author"][0]["literal"] + "}",
        "title": "{" + plain_tex(csl["title"]) + "}",
        "booktitle": csl["container-title"],
        "year": year,
        "edition": f"version {csl['version']}",
        "note": csl["note"],
    }
    if "URL" in csl:
        fields["url"] = csl["URL"]
    lines = "".join(f"  {name} = {{{value}}},\n" for name, value in fields.items())
    return f"@incollection{{{csl['id']},\n{lines}}}"


def plain_tex(title: str) -> str:
    """A title in letters that every BibTeX knows."""
    for letter, word in {"∞": r"$_\infty$", "ℓ": r"$\ell$", "₁": "$_1$", "₂": "$_2$"}.items():
        title = title.replace(letter, word)
    return re.sub(r"([&%#])", r"\\\1", title)


def shown(csl: dict[str, Any]) -> str:
    """Both entries in HTML."""
    listed = json.dumps(csl, indent=1, ensure_ascii=False)
    parts = (("BibTeX", bibtex(csl)), ("CSL-JSON", listed))
    blocks = "".join(
        f'<p>{name}</p><pre tabindex="0" aria-label="{name}">{escape(text)}</pre>'
        for name, text in parts
    )
    summary = "<summary>Cite this page</summary>"
    return f'<details class="mp-provenance mp-cite">{summary}{blocks}</details>'


def add_citation(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Add the fold to every page that was executed from committed code."""
    import footers

    if doctree is None:
        return
    made = footers.provenance(Path(app.env.doc2path(page)))
    if re.fullmatch(r"\d{4}-\d\d-\d\d", str(made.get("commit_date", ""))):
        title = app.env.titles[page].astext()
        context["body"] += shown(entry(page, title, made, app.config.html_baseurl))


def setup(app: Sphinx) -> dict[str, Any]:
    """Run after the footer."""
    app.connect("html-page-context", add_citation, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
