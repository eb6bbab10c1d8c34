"""What leads through the book: levels, the glossary, citations, and the lists for programs."""

from __future__ import annotations

import base64
import json
import re
import sys
import zipfile
from collections import Counter

import pytest
import yaml
from docutils import nodes

from helpers import ROOT
from helpers.sample_book import MADE
from helpers.site_rules import Site, anchors, soup, toc_pages

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import citing
import guiding
import machine

from mpkit.core.records import claimed

CHAPTERS = {f"book/{path.stem}": path for path in (ROOT / "book").glob("*.ipynb")}
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]


def notebook(page: str) -> dict:
    return dict(json.loads(CHAPTERS[page].read_text(encoding="utf-8")))


# Claims and llms.txt


def test_the_list_has_every_claim_with_where_it_comes_from(site: Site) -> None:
    claims = json.loads((site.html / "claims.json").read_text())["claims"]
    assert Counter(one["page"] for one in claims) == Counter(
        f"{page}.html" for page in CHAPTERS for _ in claimed(notebook(page))
    )
    assert len(claims) > 50
    for one in claims:
        page = one["page"].removesuffix(".html")
        assert one["holds"] and claimed(notebook(page))[one["claim"]]
        assert one["command"] == f"mpkit run {CHAPTERS[page].stem}"
        assert one["commit"] == notebook(page)["metadata"]["mpkit"]["commit"]
        assert [path for path in one["records"] if not (ROOT / path).exists()] == []


def test_records_are_read_from_the_code() -> None:
    code = 'a = results("mnist")\nb = results("bench", "costs.json")\nc = results(study)'
    page = {"cells": [{"cell_type": "code", "source": code}]}
    assert machine.records_of(page) == ["book/results/bench/costs.json", "book/results/mnist"]


def test_one_archive_has_every_notebook(site: Site) -> None:
    with zipfile.ZipFile(site.html / "notebooks.zip") as packed:
        names = packed.namelist()
        assert len(names) == len(set(names)) == len(CHAPTERS) + 1
        for path in CHAPTERS.values():
            assert packed.read(f"notebooks/{path.name}") == path.read_bytes()
        told = packed.read("notebooks/README.txt").decode()
    order = [page for page in toc_pages() if page in CHAPTERS]
    assert re.findall(r"^  (\S+)\.ipynb", told, re.M) == [page.split("/")[1] for page in order]
    assert (site.html / "notebooks.zip").stat().st_size < 8e6


def test_llms_txt_leads_to_every_page(site: Site) -> None:
    text = (site.html / "llms.txt").read_text()
    title, summary = re.match(r"# (.+)\n\n> (.+)\n", text).groups()  # type: ignore[union-attr]
    assert title == "Robust to Many" and len(summary) > 30
    links = dict(re.findall(r"\]\(([^)]+)\)(.*)", text))
    assert {f"{page}.html" for page in toc_pages()} <= set(links)
    assert [link for link in links if not (site.html / link).is_file()] == []
    assert all(len(links[f"{page}.html"]) > 30 for page in CHAPTERS)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("# T\n\n**One\nclaim.** More.", "One claim."),
        ("myst:\n    description: What it is.\n", "What it is."),
        ("**As {doc}`start` says.**", "As start says."),
        ("nothing", ""),
    ],
)
def test_a_page_is_told_in_its_first_sentence(source: str, words: str) -> None:
    assert machine.sentence(source) == words


# Citations


def test_the_first_picture_is_the_one_that_the_first_chapter_drew() -> None:
    cells = json.loads((ROOT / "book" / "start.ipynb").read_text())["cells"]
    drawn = [
        output["data"]["image/png"]
        for cell in cells
        if cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") == "fig-start-mnist"
        for output in cell["outputs"]
    ]
    shown = (ROOT / "book" / "_static" / "three-digits.png").read_bytes()
    assert [base64.b64decode(one) for one in drawn] == [shown]


def test_a_page_is_cited_with_its_state() -> None:
    csl = citing.entry("book/a", "ℓ∞ & more", MADE, "https://some.github.io/thing/")
    assert csl["issued"] == {"date-parts": [[2026, 11, 21]]}
    assert csl["URL"] == "https://some.github.io/thing/book/a.html"
    text = citing.bibtex(csl)
    assert text.startswith("@incollection{mpkit-a-2026,\n") and text.endswith("}")
    assert r"title = {{$\ell$$_\infty$ \& more}}" in text and "abc1234" in text
    assert text.count("{") == text.count("}")
    assert "url" not in citing.bibtex(citing.entry("book/a", "A", MADE))


def test_citations_agree_with_the_file_for_the_whole() -> None:
    whole = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    csl = citing.entry("book/a", "A", MADE)
    assert csl["version"] == whole["version"]
    assert csl["author"] == [{"literal": one["name"]} for one in whole["authors"]]


def test_every_chapter_can_be_cited(site: Site) -> None:
    for page in CHAPTERS:
        fold = soup(site.html / f"{page}.html").find("details", class_="mp-cite")
        bibtex, csl = (block.get_text() for block in fold("pre"))
        assert json.loads(csl)["title"] in soup(site.html / f"{page}.html").find("h1").get_text()
        assert bibtex.startswith("@incollection{")


# Levels


def test_every_chapter_has_a_level_that_readers_see(site: Site) -> None:
    levels = CONFIG["mp_levels"]
    assert {f"book/{name}" for name in levels} == set(CHAPTERS) | {"book/scaling"}
    assert set(levels.values()) == set(guiding.LEVELS)
    front = soup(site.html / "book/intro.html").find("article")
    for name, level in levels.items():
        shown = soup(site.html / f"book/{name}.html").find("p", class_="mp-level")
        assert guiding.LEVELS[level] in shown.get_text()
        beside = [a for a in front("a", href=f"{name}.html") if a.find(class_="mp-dots")]
        assert [a.find(class_="mp-dots").get_text().count("●") for a in beside] == [level]


# The glossary


def linked(site: Site, page: str) -> list[str]:
    links = soup(site.html / f"{page}.html")("a", class_="mp-term")
    return [str(link["href"]).partition("#")[2] for link in links]


def test_first_uses_lead_to_the_glossary(site: Site) -> None:
    there = anchors(site.html / "book/glossary.html")
    counts = {page: Counter(linked(site, page)) for page in toc_pages()}
    assert all(set(count.values()) <= {1} for count in counts.values())
    assert set().union(*counts.values()) <= there
    assert len(set().union(*counts.values())) >= 30
    assert sum(map(bool, counts.values())) >= len(CHAPTERS)
    assert counts["book/glossary"] == Counter()


def test_only_the_words_of_paragraphs_are_linked() -> None:
    words, strong = nodes.Text("plain"), nodes.strong("", "", nodes.Text("strong"))
    link = nodes.reference("", "", nodes.Text("link"))
    paragraph = nodes.paragraph("", "", words, strong, link, nodes.literal("", "code"))
    section = nodes.section("", nodes.title("", "title"), paragraph)
    assert [text.astext() for text in guiding.texts(section)] == ["plain", "strong"]  # type: ignore[arg-type]
