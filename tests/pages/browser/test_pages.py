"""Every page in the system's Chromium: what a reader, a phone and a screen reader meet."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from browsing import Browsing, Scheme

from helpers.site_rules import toc_pages

pytestmark = pytest.mark.browser
VIEWS: list[tuple[int, tuple[Scheme, ...]]] = [(1280, ("light", "dark")), (390, ("light", "dark"))]


@pytest.mark.parametrize("page", toc_pages())
@pytest.mark.parametrize(("width", "schemes"), VIEWS)
def test_page_is_sound(
    browsing: Browsing, page: str, width: int, schemes: tuple[Scheme, ...]
) -> None:
    assert browsing.complaints(page, width, *schemes) == []


@pytest.mark.parametrize(("width", "schemes"), VIEWS)
@pytest.mark.parametrize("page", ["book/first", "book/sample"])
def test_page_with_everything_is_sound(
    public_browsing: Browsing, page: str, width: int, schemes: tuple[Scheme, ...]
) -> None:
    assert public_browsing.complaints(page, width, *schemes) == []


DRAWN = """canvas => {
    const { width, height } = canvas;
    const rgba = [...canvas.getContext('2d').getImageData(0, 0, width, height).data];
    return [width, height, rgba.filter((_, i) => i % 4 === 0)];
}"""


def test_a_slider_works_by_keyboard_and_says_its_value(public_browsing: Browsing) -> None:
    with public_browsing.opened("book/sample", 390, "light") as tab:
        control, canvas = tab.get_by_role("slider", name="radius"), tab.locator(".mp-slider canvas")
        assert canvas.first.evaluate(DRAWN) == [2, 2, [0, 255, 255, 0]]
        control.press("ArrowRight")
        assert canvas.first.evaluate(DRAWN) == [2, 2, [255, 255, 255, 0]]
        assert control.get_attribute("aria-valuetext") == "radius 0.2"
        assert tab.locator(".mp-slider output").inner_text() == "radius 0.2"
        assert tab.locator(".mp-slider-plot").get_attribute("aria-label") == "Four pixels."


def test_a_chart_behind_a_slider_is_drawn_to_scale(browsing: Browsing) -> None:
    with browsing.opened("book/between", 1280, "light") as tab:
        slider = tab.locator("#between-box")
        control, dot = slider.get_by_role("slider"), slider.locator(".mp-slider-plot > svg circle")

        def place() -> list[float]:
            return [float(dot.get_attribute(name) or "nan") for name in ("cx", "cy")]

        line = (slider.locator("polyline").first.get_attribute("points") or "").split()
        points = [list(map(float, point.split(","))) for point in line]
        assert len(points) == 21 and points[0] == place()
        control.fill("6")
        assert place() == points[6] and points[6][1] == min(y for _, y in points)
        control.fill("20")
        assert place() == points[20]
        assert points[20][1] == pytest.approx(points[0][1], abs=1e-6)
        steps = [b[0] - a[0] for a, b in pairwise(points)]
        assert steps == pytest.approx([steps[0]] * 20, rel=1e-6)
        told = slider.locator(".mp-slider-plot > svg text").all_text_contents()
        assert {"0.0", "1.0", "0.50", "0.70", "gain"} <= set(told)


def test_a_slider_takes_the_ink_of_the_page(browsing: Browsing) -> None:
    ink = "getComputedStyle(document.querySelector('.mp-slider-plot text')).fill"
    inks = set()
    for scheme in ("light", "dark"):
        with browsing.opened("book/between", 1280, scheme) as tab:
            inks.add(tab.evaluate(ink))
            page_ink = "getComputedStyle(document.querySelector('.mp-slider')).color"
            assert tab.evaluate(ink) == tab.evaluate(page_ink)
    assert len(inks) == 2


def test_a_solution_opens_by_keyboard(public_browsing: Browsing) -> None:
    with public_browsing.opened("book/sample", 1280, "light") as tab:
        solution = tab.locator(".solution section")
        assert not solution.is_visible()
        tab.locator(".solution button").press("Enter")
        solution.wait_for(state="visible")


def test_search_and_source_pages_are_sound(browsing: Browsing) -> None:
    for page in ("search", "genindex", "_modules/mpbook/figures/style"):
        assert browsing.complaints(page, 1280, "light") == []


@pytest.mark.parametrize("page", ["book/notation", "book/intro"])
def test_keyboard_reaches_the_content_and_shows_where_it_is(browsing: Browsing, page: str) -> None:
    with browsing.opened(page, 1280, "light") as tab:
        tab.keyboard.press("Tab")
        assert tab.evaluate("document.activeElement.getAttribute('href')") == "#main-content"
        tab.keyboard.press("Enter")
        assert tab.evaluate("location.hash") == "#main-content"
        for _ in range(8):
            tab.keyboard.press("Tab")
            style = "getComputedStyle(document.activeElement)"
            name = tab.evaluate("document.activeElement.outerHTML.slice(0, 120)")
            assert tab.evaluate(f"{style}.outlineStyle") == "solid", name
            assert float(tab.evaluate(f"parseFloat({style}.outlineWidth)")) >= 2, name


def test_search_finds_a_word_of_a_page(browsing: Browsing) -> None:
    with browsing.opened("search", 1280, "light", "?q=pixel+box") as tab:
        found = tab.wait_for_selector("ul.search li a[href*='notation.html']")  # listed one by one
        assert found is not None and found.is_visible()


def test_excerpts_of_a_search_are_text(browsing: Browsing) -> None:
    excerpt = "ul.search li:has(a[href*='start.html']) p.context"
    with browsing.opened("search", 1280, "light", "?q=union+box") as tab:
        told = tab.wait_for_selector(excerpt)
        assert told is not None
        assert "\\" not in told.inner_text()  # no formula as it is in the source
        assert "Contents" not in told.inner_text()


PLANTED = {
    "bad TeX": (
        r"<p><span class='math notranslate nohighlight'>\(\undefinedmacro{x}\)</span></p>",
        "TeX",
    ),
    "another host": ("<script src='https://example.org/x.js'></script>", "example.org"),
    "console error": ("<script>console.error('planted')</script>", "planted"),
    "page error": ("<script>nowhere.to()</script>", "nowhere"),
    "missing file": ("<img src='nowhere.png' alt='nothing'>", "404"),
    "silent image": ("<img src='../_static/logo.svg'>", "image-alt"),
    "pale text": ("<p style='color: #bbb; background: #fff'>pale</p>", "color-contrast"),
    "pale twin": ("<p>good</p><p style='color: #bbb; background: #fff'>pale</p>", "contrast"),
    "too wide": ("<div style='width: 2000px'>wide</div>", "wider"),
    "clipped": (
        "<div class='cell_output'><pre style='overflow: auto'><b style='display: inline-block; "
        "width: 800px'>wide</b></pre></div>",
        "cut off",
    ),
}


@pytest.mark.parametrize(("markup", "word"), PLANTED.values(), ids=PLANTED)
def test_a_planted_fault_is_found(browsing: Browsing, markup: str, word: str) -> None:
    good = browsing.root / "book" / "notation.html"
    planted: Path = good.with_name(f"planted-{uuid4().hex}.html")
    planted.write_text(good.read_text().replace("</article>", f"{markup}</article>", 1))
    try:
        found = browsing.complaints(f"book/{planted.stem}", 390, "light")
    finally:
        planted.unlink()
    assert any(word in complaint for complaint in found), found
