"""The rendered book: strict, whole, silent towards other hosts; and faults that are found."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

from helpers.sample_book import ADDRESS, MADE, figure_cell, small_book
from helpers.site_rules import ROOT, Site, anchors, complaints, soup, toc_pages

sys.path.insert(0, str(ROOT / "book" / "_ext"))
import footers
import library
import mending
import slimming

from mpkit.core.records import DECLARED


def page_of(site: Site, name: str) -> Path:
    return site.html / f"{name}.html"


# The book as it is committed


def test_the_strict_build_has_nothing_to_say(site: Site) -> None:
    assert site.returncode == 0, site.log[-4000:]
    assert "WARNING" not in site.log


def test_every_page_of_the_contents_is_there(site: Site) -> None:
    assert [page for page in toc_pages() if not page_of(site, page).is_file()] == []
    assert (site.html / "index.html").is_file()


def test_links_lead_somewhere_images_speak_and_nothing_comes_from_elsewhere(site: Site) -> None:
    assert complaints(site.html) == []


def test_every_public_module_is_in_the_reference(site: Site) -> None:
    pages = (site.html / "book" / "api").glob("*.html")
    described = frozenset[str]().union(*map(anchors, pages))
    names = [name for room in library.modules().values() for name in room]
    assert [name for name in names if f"module-{name}" not in described] == []


def test_executed_pages_say_how_they_were_made(site: Site) -> None:
    tree = site.html.parents[1]
    for page in toc_pages():
        source = next((tree / page).parent.glob(f"{Path(page).name}.*"))
        footer = soup(page_of(site, page)).find(class_="mp-provenance")
        assert bool(footers.provenance(source)) == bool(footer), page


def test_only_pages_with_a_slider_load_its_script_and_only_a_search_its_index(site: Site) -> None:
    for page in toc_pages():
        html = page_of(site, page).read_text()
        assert ("mp-slider.js?v=" in html) == ('class="mp-slider"' in html), page
        assert "plotly.min" not in html and "searchindex.js" not in html, page
    assert "searchindex.js" in (site.html / "search.html").read_text()


def test_pages_are_light(site: Site) -> None:
    parts = {*(site.html / "_static" / "mathjax").rglob("*.js")}  # startup.js loads the others
    for page in toc_pages():
        path = page_of(site, page)
        files = {path} | {
            (path.parent / tag[name].partition("?")[0]).resolve()
            for kind, name in (("img", "src"), ("script", "src"), ("link", "href"))
            for tag in soup(path)(kind, **{name: True})
            if not tag[name].startswith(("data:", "#", "http"))
            and not {"next", "prev", "index", "search"} & set(tag.get("rel") or ())
        }
        files |= parts if parts & files else set()
        weight = sum(one.stat().st_size for one in files if one.is_file())
        most = 4_000_000 if page == "book/laboratory" else 2_000_000  # it carries networks
        assert 200_000 < weight < most, f"{page}: {weight:,} bytes"


def test_the_theme_keeps_the_rules_that_pages_need_and_no_others(site: Site) -> None:
    sheet = (site.html / "_static" / "styles" / "pydata-sphinx-theme.css").read_text()
    assert 50_000 < len(sheet) < 200_000 and "sourceMappingURL" not in sheet
    assert (
        ".bd-article" in sheet and ".bs-tooltip-auto" in sheet and ".accordion-button" not in sheet
    )


def test_a_rule_stays_if_one_of_its_selectors_may_match() -> None:
    first, kept = "@font-face{src:url(a)}", ".a:not(.b){y:2}"
    media, rest = "@media(x){", "}:is(.b,.c){z:1}p{z:2}.bs-b{z:3}"
    sheet = f"{first}/* {{ */.a{{x:1}}.b,.a .c{{x:2}}{media}.b{{y:1}}{kept}{rest}"
    slim = f"{first}.a{{x:1}}{media}{kept}{rest}"
    assert slimming.drop_rules(sheet, {"a"}) == slim == slimming.drop_rules(slim, {"a"})
    assert ".b,.a .c{x:2}" in slimming.drop_rules(sheet, {"a", "c"})


@pytest.mark.parametrize(("colours", "step"), [(200, 0), (256, 0), (1000, 8), (20_000, 0)])
def test_a_picture_with_a_palette_looks_the_same(colours: int, step: int) -> None:
    draw = np.random.default_rng(0)
    shades = draw.integers(0, 256, (colours, 4), dtype=np.uint8)
    if step:  # shades of two colours, as at the edges of lines
        shades[:] = np.linspace([90, 40, 20, 0], [200, 180, 250, 255], colours)
    pixels = shades[draw.permutation(np.arange(40_000) % colours)]
    pixels = pixels.reshape(200, 200, 4).repeat(2, 0).repeat(2, 1)
    written = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(written, "PNG")
    slim = slimming.with_palette(written.getvalue())
    found = np.asarray(Image.open(io.BytesIO(slim)).convert("RGBA"))
    before, after = (one[..., :3] * (one[..., 3:] / 255) for one in (pixels, found))
    assert np.abs(before - after).max() <= step + 1e-6
    assert np.abs(pixels[..., 3].astype(int) - found[..., 3]).max() <= step
    assert (len(slim) < len(written.getvalue())) == (colours < 20_000)


def test_icons_that_pages_show_are_there_and_no_others(site: Site) -> None:
    script = (site.html / "_static" / "scripts" / "fontawesome.js").read_text()
    there = {(one[1] or one[2]) for one in slimming.ICON.finditer(script)}
    there |= {
        name for one in slimming.ICON.finditer(script) for name in re.findall(r"[\w-]+", one[3])
    }
    for page in toc_pages():
        shown = {c for icon in soup(page_of(site, page))("i") for c in icon.get("class", ())}
        names = {name.removeprefix("fa-") for name in shown if name.startswith("fa-")}
        assert names - there - {"solid", "lg", "regular", "brands"} == set(), page
    assert len(script) < 300_000 and "bars" in there and "monero" not in there


def test_without_a_public_address_nothing_points_to_one(site: Site) -> None:
    words = ("mybinder.org", "colab.research", 'property="og:', 'rel="canonical"', "github.com//")
    for page in toc_pages():
        html = page_of(site, page).read_text()
        assert [word for word in words if word in html] == [], page


# A small book with everything that a page may have, at a public address


def test_a_public_address_turns_on_its_buttons(public: Site) -> None:
    assert public.returncode == 0, public.log[-4000:]
    page = soup(page_of(public, "book/sample"))
    links = [a["href"] for a in page("a", href=True)]
    for start in (
        f"{ADDRESS}/issues/new",
        f"{ADDRESS}/edit/main/book/sample.ipynb",
        "https://mybinder.org/v2/gh/Some/thing/main?urlpath=lab/tree/book/sample.ipynb",
        "https://colab.research.google.com/github/Some/thing/blob/main/book/sample.ipynb",
    ):
        assert [link for link in links if link.startswith(start)], start
    assert ADDRESS in links


def test_a_public_address_gives_pages_and_social_cards_theirs(public: Site) -> None:
    page = soup(page_of(public, "book/sample"))
    start = "https://some.github.io/thing/"
    assert page.find("link", rel="canonical")["href"] == f"{start}book/sample.html"
    card = page.find("meta", property="og:image")["content"]
    assert card.startswith(start)
    assert (public.html / card.removeprefix(start)).is_file()


@pytest.mark.parametrize("address", ["github.com/Some/thing", "https://github.com/Some", "thing"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"write https://github\.com/OWNER/NAME"):
        footers.public_address(address)


def test_a_slider_brings_its_script_to_its_page_alone(public: Site) -> None:
    assert "mp-slider.js" in page_of(public, "book/sample").read_text()
    assert "mp-slider.js" not in page_of(public, "book/first").read_text()
    assert complaints(public.html) == []


def test_figures_are_numbered_sized_and_told(public: Site) -> None:
    figure = soup(page_of(public, "book/sample")).find("figure", id="fig-sample")
    assert figure.find("img")["alt"] == "A chart."
    assert "width: 192px" in figure.find("img")["style"]
    assert figure.find(class_="caption-number").get_text(strip=True).startswith("Figure")


def test_charts_are_marked_and_pixels_are_not(public: Site) -> None:
    """The dark page lights up charts; the values of an image stay as they are."""
    images = {image["alt"]: image for image in soup(page_of(public, "book/sample"))("img")}
    assert "mp-chart" in images["A chart."]["class"]
    assert "mp-chart" not in images["Four pixels."].get("class", [])


def test_no_two_things_of_a_page_share_an_id(public: Site) -> None:
    ids = [tag["id"] for tag in soup(page_of(public, "book/sample"))(id=True)]
    assert sorted(ids) == sorted(set(ids))


def test_notebooks_can_be_downloaded(public: Site) -> None:
    links = [a["href"] for a in soup(page_of(public, "book/sample"))("a", href=True)]
    assert any(link.endswith("_sources/book/sample.ipynb") for link in links)


def test_the_footer_tells_all_of_the_provenance(public: Site) -> None:
    footer = soup(page_of(public, "book/sample")).find("details", class_="mp-provenance")
    assert footer.find("summary").get_text() == "How this page was made"
    words = footer.get_text(" ")
    for value in ("digits", "0.3", "7", "quick", "2.15.0", "cpu", "abc1234", "2026-11-21", "12.3"):
        assert value in words
    for value in ("Some Processor 7", "MKL_CBWR COMPATIBLE", "environment.yml >=3.11"):
        assert value in " ".join(words.split())
    assert "Results" not in words
    assert soup(page_of(public, "book/first")).find(class_="mp-provenance") is None


def test_the_footer_tells_the_results(tmp_path: Path) -> None:
    page = nbformat.v4.new_notebook(metadata={"mpkit": MADE})
    output = nbformat.v4.new_output("display_data", {DECLARED: {"union": 0.465}, "text/html": ""})
    page.cells = [nbformat.v4.new_code_cell(outputs=[output])]
    nbformat.write(page, tmp_path / "page.ipynb")
    made = footers.provenance(tmp_path / "page.ipynb")
    assert "<dt>Results</dt><dd><ul><li>union <code>0.465</code></li>" in footers.footer(made)


def test_the_footer_tells_how_to_check_a_study() -> None:
    made = footers.provenance(ROOT / "book" / "mnist.ipynb")
    path = "book/results/mnist/mnist-max-seed0.json"
    assert path in made["checked"]
    assert all((ROOT / one).is_file() for one in made["checked"])
    assert f"<li><code>mpkit verify {path}</code></li>" in footers.footer(made)
    assert not footers.provenance(ROOT / "book" / "start.ipynb")["checked"]


def test_the_footer_shows_values_as_text() -> None:
    assert "<script>" not in footers.footer({**MADE, "parameters": {"a": "<script>"}})


def test_a_page_with_faults_fails_the_strict_build(tmp_path: Path) -> None:
    link = nbformat.v4.new_markdown_cell("## A fault\n\nSee [nowhere](nowhere.md).")
    faulty = small_book(tmp_path, [link, figure_cell(alt=None)])
    assert faulty.returncode != 0
    assert "without a text alternative" in faulty.log
    assert "nowhere.md" in faulty.log


# The rules themselves

PLANTED = {
    "a page that is missing": ("<a href='nowhere.html'>x</a>", "not there"),
    "an anchor that is missing": ("<a href='#nowhere'>x</a>", "without that anchor"),
    "a script from elsewhere": ("<script src='https://example.org/x.js'></script>", "example.org"),
    "a font from elsewhere": ("<style>@import url(//example.org/x.css)</style>", "example.org"),
    "a preload from elsewhere": ("<link rel='preload' href='//example.org/x'>", "example.org"),
    "a silent image": ("<img src='page.html'>", "text alternative"),
    "an image with an empty text": ("<img src='page.html' alt=' '>", "text alternative"),
}


@pytest.mark.parametrize(("markup", "words"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(tmp_path: Path, markup: str, words: str) -> None:
    page = tmp_path / "page.html"
    page.write_text(f"<html><body id='top'><a href='page.html#top'>x</a>{markup}</body></html>")
    found = complaints(tmp_path)
    assert len(found) == 1
    assert words in found[0]


def test_a_style_sheet_from_elsewhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("body { background: url('https://example.org/x.png') }")
    assert complaints(tmp_path) == ["a.css: loads url('https://example.org/x.png"]


def test_a_link_to_a_paper_is_fine(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<a href='https://arxiv.org/abs/1904.13000'>x</a>")
    assert complaints(tmp_path) == []


# What the book adds to Sphinx


def test_sections_on_one_line_are_opened() -> None:
    lines = ["Do.", "", "Args:", "    x: an image.", "Returns: the image,", "whole.", "", "After."]
    assert library.open_sections(lines) == [
        "Do.", "", "Args:", "    x: an image.", "", "Returns:", "    the image,", "    whole.", "",
        "After.",
    ]  # fmt: skip


def test_errors_on_one_line_are_named() -> None:
    opened = library.open_sections(["Raises: ValueError if eps is 0,", "or worse."])
    assert opened == ["Raises:", "    ValueError: if eps is 0,", "        or worse."]


def test_a_docstring_in_napoleons_form_stays_as_it_is() -> None:
    lines = ["Do.", "", "Args:", "    x: an image.", "", "Returns:", "    It.", ""]
    assert library.open_sections(lines) == lines


def test_formulas_in_headers_are_said_in_words() -> None:
    header = '<th class="head"><p><span class="math notranslate">\\(\\linf\\)</span></p></th>'
    assert '<span class="visually-hidden">l infinity</span></p>' in mending.mend(header)


def test_a_formula_keeps_the_full_stop_behind_it() -> None:
    formula = '<span class="math notranslate nohighlight">\\(s &lt; 1\\)</span>'
    assert mending.mend(f"<p>{formula}. So {formula} is</p>") == (
        f'<p><span class="mp-whole">{formula}.</span> So {formula} is</p>'
    )


def test_proofs_share_no_id() -> None:
    proof = '<div class="proof admonition" id="proof">\n<p>Proof. Clear.</p></div>'
    assert 'id="proof"' not in mending.mend(proof + proof)


def test_the_configuration_names_the_extensions_that_are_there() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())
    local = set(config["sphinx"]["local_extensions"])
    assert local == {path.stem for path in (ROOT / "book" / "_ext").glob("*.py")}
    assert not {"sphinx_thebe", "sphinx_comments"} & set(config["sphinx"]["config"]["extensions"])
