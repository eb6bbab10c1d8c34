"""How hard a page is, shown below its title and in contents, and links to the glossary.

``mp_levels`` in ``_config.yml`` gives a level to every chapter. The first use of a term of the
glossary on a page becomes a link; words in titles, links, code and formulas stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)
LEVELS = {1: "for everybody", 2: "some mathematics or code", 3: "proofs or research"}
GLOSSARY = "book/glossary"
H1 = re.compile(r"(<h1>.*?</h1>)", re.DOTALL)
CONTENTS = re.compile(
    r'(<li class="toctree-l\d"><a class="reference internal" href="([^"#]+)\.html">)'
)


def level_of(app: Sphinx, page: str) -> int | None:
    """The level of a page, if it has one."""
    level: int | None = app.config.mp_levels.get(page.removeprefix("book/"))
    return level


def dots(level: int) -> str:
    """The level as dots, said in words to those who do not see them."""
    words = f"{level} of 3, {LEVELS[level]}"
    return (
        f'<span class="mp-dots" title="{escape(words)}"><span aria-hidden="true">'
        f"{'●' * level}{'○' * (3 - level)}</span>"
        f'<span class="visually-hidden">difficulty {escape(words)}</span></span>'
    )


def show_levels(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None
) -> None:
    """Put the dots below a page's title, and beside every chapter of a table of contents."""
    if doctree is None:
        return
    body = context["body"]
    if level := level_of(app, page):
        line = f'\\1<p class="mp-level">{dots(level)} {escape(LEVELS[level])}</p>'
        body = H1.sub(line, body, count=1)

    def beside(link: re.Match[str]) -> str:
        there = level_of(app, link[2].rpartition("/")[2])
        return f"{link[1]}{dots(there)} " if there else link[1]

    context["body"] = CONTENTS.sub(beside, body)


def require_levels(app: Sphinx, env: Any) -> None:
    """Warn of a level that no page has asked for; the strict build fails on a warning."""
    pages = {page.removeprefix("book/") for page in env.found_docs}
    whole = GLOSSARY in env.found_docs  # a sample of the book has other pages
    for name, level in app.config.mp_levels.items() if whole else ():
        if name not in pages or level not in LEVELS:
            LOG.warning("mp_levels: %s: %r: no such page or level", name, level, type="mpbook")


def texts(doctree: nodes.document) -> Iterator[nodes.Text]:
    """The words of paragraphs that stand in no link, title or code of their own."""
    for text in doctree.findall(nodes.Text):
        around = text.parent
        if isinstance(around, nodes.emphasis | nodes.strong):
            around = around.parent
        if isinstance(around, nodes.paragraph):
            yield text


def link_terms(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link the first use of every term to its place in the glossary."""
    if page == GLOSSARY or not page.startswith("book/") or GLOSSARY not in app.env.found_docs:
        return
    terms = {
        words: node
        for (kind, words), node in app.env.get_domain("std").objects.items()
        if kind == "term"
    }
    if not terms:
        return
    some = "|".join(sorted(map(re.escape, terms), key=len, reverse=True))
    found = re.compile(rf"(?<![\w-])({some})(?![\w-])", re.IGNORECASE)
    done: set[str] = set()
    for text in list(texts(doctree)):
        pieces: list[nodes.Node] = []
        words, at = text.astext(), 0
        for match in found.finditer(words):
            name = next(term for term in terms if term.lower() == match[0].lower())
            target, anchor = terms[name]
            if anchor in done:
                continue
            done.add(anchor)
            address = app.builder.get_relative_uri(page, target)
            link = nodes.reference("", "", internal=True, refuri=f"{address}#{anchor}")
            link["classes"].append("mp-term")
            link += nodes.inline("", match[0])
            pieces += [nodes.Text(words[at : match.start()]), link]
            at = match.end()
        if pieces:
            text.parent.replace(text, [*pieces, nodes.Text(words[at:])])


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the above to Sphinx."""
    app.add_config_value("mp_levels", {}, "env", types=frozenset({dict}))
    app.connect("doctree-resolved", link_terms)
    app.connect("env-updated", require_levels)
    app.connect("html-page-context", show_levels, priority=700)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
