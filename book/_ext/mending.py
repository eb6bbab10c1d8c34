"""What a screen reader needs and the stock pages lack.

The browser tests show with axe-core that nothing else is left, on every page of the book.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SPOKEN = {r"\linf": "l infinity", r"\ltwo": "l 2", r"\lone": "l 1", r"\lp": "l p"}
MATH_HEADER = re.compile(
    r'(<th class="head[^"]*"><p>)(<span class="math[^"]*">\\\((.+?)\\\)</span>)'
)
ARGUMENTS = re.compile(r"<dl>\s*((?:<dd><em class=\"sig-param.*?</dd>\s*)+)</dl>", re.DOTALL)
ROLES = re.compile(r' role="doc-biblioentry"| role="list"(?= class="citation-list")')
SHARED = re.compile(r' id="(?:proof|exercise|solution)-content"')
SOLUTION = re.compile(r'(Solution to)(<a class="reference internal" href="[^"]*">) ')
FORMULA = re.compile(r'(<span class="math[^"]*">\\\([^<]*</span>[.,;:!?)]+)')
PROOF = re.compile(r'<div class="proof admonition" id="proof">\s*<p>Proof\. ')


def speak(header: re.Match[str]) -> str:
    """Say a table's header that is all formula in words, to those who do not see it."""
    words = escape(SPOKEN.get(header[3], header[3]))
    shown = f'<span aria-hidden="true">{header[2]}</span>'
    return f'{header[1]}{shown}<span class="visually-hidden">{words}</span>'


def unlist(arguments: re.Match[str]) -> str:
    """Give arguments, one to a line, without the markup of a list of definitions."""
    lines = arguments[1].replace("<dd>", "<span>").replace("</dd>", "</span>")
    return f'<span class="mp-lines">{lines}</span>'


def mend(body: str) -> str:
    """Mend the body of a page.

    Formulas in headers get words, signatures lose lists that are none, the bibliography loses
    roles that HTML gave up, boxes lose the ids that all boxes of a page share, and a formula keeps
    the punctuation behind it on its line.
    """
    body = MATH_HEADER.sub(speak, body)
    body = ARGUMENTS.sub(unlist, body)
    body = SHARED.sub("", ROLES.sub("", body))
    body = SOLUTION.sub(r"\1 \2", body)
    body = FORMULA.sub(r'<span class="mp-whole">\1</span>', body)
    return PROOF.sub('<div class="proof admonition mp-proof"><p><em>Proof.</em> ', body)


def name_folds(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the theme's drawing of the table of contents: every fold gets a name."""

    def drawn(*args: Any, **options: Any) -> Any:
        contents = draw(*args, **options)
        if options.get("kind") != "sidebar":
            return contents
        return str(contents).replace("<summary>", '<summary aria-label="Pages of this part">')

    return drawn


def mend_page(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Mend what Sphinx and the theme are about to write."""
    context["body"] = mend(context.get("body", ""))
    context["generate_toctree_html"] = name_folds(context["generate_toctree_html"])


def setup(app: Sphinx) -> dict[str, Any]:
    """Run after the theme."""
    app.connect("html-page-context", mend_page, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
