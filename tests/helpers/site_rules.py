"""What the rendered site has to be; each rule is a function from a page to complaints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup

from helpers import ROOT

BUILD = "from jupyter_book.cli.main import main; main()"
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
FOREIGN = re.compile(r"(?:url\(|@import)\s*['\"]?\s*(?:https?:)?//[^)'\"\s]+")


class Site(NamedTuple):
    """A strict build: where its pages are, how it ended, what it said."""

    html: Path
    returncode: int
    log: str


def build(tree: Path) -> Site:
    """Build the book in a tree of its own, as strictly as it goes."""
    command = [sys.executable, "-c", BUILD, "build", "--all", "-W", "-n", "--keep-going", str(tree)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tree, env=settings)
    return Site(tree / "_build" / "html", done.returncode, done.stdout + done.stderr)


def copy_book(tree: Path) -> None:
    """Copy the sources of the book, without anything built, into an empty folder."""
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(ROOT / name, tree)
    skipped = shutil.ignore_patterns("_build", "__pycache__", ".*")
    shutil.copytree(ROOT / "book", tree / "book", ignore=skipped)


def toc_pages(toc: Path = ROOT / "_toc.yml") -> list[str]:
    """Every page of the table of contents, in reading order, without suffix."""

    def files(entry: Any) -> Iterator[str]:
        if isinstance(entry, dict):
            for key, value in entry.items():
                if key in ("root", "file"):
                    yield value
                else:
                    yield from files(value)
        elif isinstance(entry, list):
            for value in entry:
                yield from files(value)

    return list(files(yaml.safe_load(toc.read_text(encoding="utf-8"))))


@cache
def soup(page: Path) -> BeautifulSoup:
    """A page, parsed."""
    return BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")


def complaints(root: Path) -> list[str]:
    """Everything that is wrong with a site, in words; empty for a good one."""
    found = []
    pages = [page for page in sorted(root.rglob("*.html")) if "macros" not in page.name]
    for page in pages:
        for rule in (broken_links, foreign_hosts, silent_images):
            found += [f"{page.relative_to(root)}: {words}" for words in rule(root, page)]
    for sheet in sorted(root.rglob("*.css")):
        for address in FOREIGN.findall(sheet.read_text(encoding="utf-8")):
            found.append(f"{sheet.relative_to(root)}: loads {address}")
    return found


def broken_links(root: Path, page: Path) -> Iterator[str]:
    """Links, pictures and scripts of the site itself that lead nowhere."""
    named = [(tag, tag.get("href") or tag.get("src")) for tag in soup(page)(href=True)]
    named += [(tag, tag["src"]) for tag in soup(page)(src=True)]
    for tag, address in named:
        parts = urlsplit(str(address))
        if parts.scheme or parts.netloc:
            continue
        target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
        if not target.is_file():
            yield f"<{tag.name}> leads to {address}, which is not there"
        elif parts.fragment and unquote(parts.fragment) not in anchors(target):
            yield f"<{tag.name}> leads to {address}, a page without that anchor"


@cache
def anchors(page: Path) -> frozenset[str]:
    """All ids of a page."""
    return frozenset(str(tag["id"]) for tag in soup(page)(id=True))


def foreign_hosts(root: Path, page: Path) -> Iterator[str]:
    """What a browser would fetch from another host when it opens the page."""
    for name, attribute in LOADED.items():
        for tag in soup(page)(name):
            address = urlsplit(str(tag.get(attribute, "")))
            if address.netloc and "canonical" not in tag.get("rel", []):
                yield f"<{name}> loads {address.geturl()}"
    for tag in soup(page)("style"):
        for address in FOREIGN.findall(tag.get_text()):
            yield f"<style> loads {address}"


def silent_images(root: Path, page: Path) -> Iterator[str]:
    """Pictures that a screen reader cannot tell; an empty text marks mere decoration."""
    for tag in soup(page)("img"):
        decoration = tag.find_parent(class_="navbar-brand") or tag.find_parent(class_="btn")
        if tag.get("alt") is None or not (tag["alt"].strip() or decoration):
            yield f"<img src={tag.get('src')}> has no text alternative"
