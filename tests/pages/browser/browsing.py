"""A page in a browser, and everything that is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, TimeoutError

Scheme = Literal["light", "dark"]
THEME = {"label-content-name-mismatch", "region"}  # what axe-core says of the stock theme
PHONE = 576  # pixels, the widest window for which the style sheet sets a page for a phone
ALONE = {"preload": False}  # axe-core would fetch the style sheets itself, from wrong addresses
FAULTS = {**ALONE, "resultTypes": ["violations"]}  # it describes nothing else, in half the time
SHAPE = {**FAULTS, "rules": {"color-contrast": {"enabled": False}}}  # the same in every colour
CONTRAST = {**FAULTS, "runOnly": ["color-contrast"]}
THINNED = """() => {  // of texts with one path of tags, classes and styles, and of formulas: one
    const paths = new Map();
    const path = node => {
        if (!node) return '';
        if (!paths.has(node)) {
            const own = [node.tagName, node.id && 'id', node.getAttribute('class') || '',
                         node.getAttribute('style') || '', node.rowIndex % 2];
            paths.set(node, `${path(node.parentElement)}>${own.join('|')}`);
        }
        return paths.get(node);
    };
    const speaks = node => [...node.childNodes].some(
        child => child.nodeType === Node.TEXT_NODE && child.data.trim());
    for (let removed = true; removed; ) {
        const seen = new Set();
        removed = false;
        for (const node of document.body.querySelectorAll('*:not(.mp-slider, .mp-slider *)')) {
            const key = path(node) + speaks(node);
            const whole = node.childElementCount && !node.matches('mjx-container');
            if (seen.has(key) && !whole && node.isConnected) {
                node.remove();
                removed = true;
            }
            seen.add(key);
        }
    }
}"""
SETTLED = """async () => {
    if (window.MathJax?.startup) await MathJax.startup.promise;
    await new Promise(done => requestAnimationFrame(done));
    await document.fonts.ready;
    const late = [...document.images].filter(image => !image.complete);
    await Promise.all(late.map(image => new Promise(done => image.onload = image.onerror = done)));
}"""
FORMULAS = """() => {
    const raw = [...document.querySelectorAll('.math')].filter(
        formula => !formula.querySelector('mjx-container'));
    const bad = [...document.querySelectorAll('mjx-merror')];
    return [...raw.map(formula => `TeX left as it is: ${formula.textContent.slice(0, 80)}`),
            ...bad.map(formula => `bad TeX: ${formula.textContent.slice(0, 80)}`)];
}"""
SHOWN = "scheme => document.documentElement.dataset.theme === scheme"
CLIPPED = """() => [...document.querySelectorAll('.cell_output pre, .mp-table')]
    .filter(shown => shown.getClientRects().length && shown.scrollWidth > shown.clientWidth + 1)
    .map(shown => `${shown.scrollWidth - shown.clientWidth} px of an output are cut off: `
        + shown.textContent.trim().slice(0, 60))"""
WIDTH = "[document.documentElement.scrollWidth, innerWidth]"
WEIGHT = "performance.getEntries().reduce((sum, one) => sum + (one.decodedBodySize || 0), 0)"
HEAVIEST = 2_000_000  # bytes that a page loads, unpacked; a page with networks in it may load more
NETWORKS = {"book/laboratory": 4_000_000}


@dataclass(frozen=True)
class Browsing:
    """A running browser before a site.

    Args:
        browser: the browser.
        address: where the site is served.
        root: the folder that is served.
    """

    browser: Browser
    address: str
    root: Path

    @contextmanager
    def opened(
        self, page: str, width: int, scheme: Scheme, rest: str = "", found: list[str] | None = None
    ) -> Iterator[Page]:
        """Open a page in a window of that width, wait until it rests, and note what fails."""
        heard = found if found is not None else []
        context = self.browser.new_context(
            viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce"
        )

        def on_request(request: Request) -> None:
            if not request.url.startswith((self.address, "data:", "blob:")):
                heard.append(f"asks another host: {request.url}")

        def on_response(response: Response) -> None:
            if response.status >= 400:
                heard.append(f"{response.status}: {response.url}")

        def on_console(said: ConsoleMessage) -> None:
            if said.type == "error":
                heard.append(f"console: {said.text}")

        try:
            tab = context.new_page()
            tab.on("request", on_request)
            tab.on("response", on_response)
            tab.on("pageerror", lambda error: heard.append(f"page error: {error}"))
            tab.on("console", on_console)
            tab.goto(f"{self.address}/{page}.html{rest}", wait_until="load")
            tab.evaluate(SETTLED)
            yield tab
        finally:
            context.close()

    def complaints(self, page: str, width: int, *schemes: Scheme) -> list[str]:
        """Everything that is wrong with a page, in words; empty for a good one.

        Args:
            page: its address without suffix.
            width: of the window, in pixels.
            schemes: what the reader prefers; colours are looked at in each, the rest in the first.
        """
        found: list[str] = []
        with self.opened(page, width, schemes[0], found=found) as tab:
            weight = tab.evaluate(WEIGHT)
            if not 0 < weight <= NETWORKS.get(page, HEAVIEST):
                found.append(f"loads {weight:,} bytes")
            tab.evaluate("dispatchEvent(new Event('beforeprint'))")  # opens what waits for a guess
            found += tab.evaluate(FORMULAS)
            wide, window = tab.evaluate(WIDTH)
            if wide > window:
                found.append(f"{wide - window} px wider than the window")
            if width <= PHONE:
                found += tab.evaluate(CLIPPED)
            found += _faults(tab, SHAPE)
            tab.evaluate(THINNED)
            for scheme in schemes:
                tab.emulate_media(color_scheme=scheme)
                try:
                    tab.wait_for_function(SHOWN, arg=scheme, timeout=5000)
                except TimeoutError as error:
                    found.append(f"does not show itself {scheme}: {error}")
                found += [f"{scheme}: {fault}" for fault in _faults(tab, CONTRAST)]
        return found


def _faults(tab: Page, options: dict[str, Any]) -> Iterator[str]:
    """What axe-core finds beyond the theme's own."""
    for fault in Axe().run(tab, options=options).response["violations"]:
        if fault["id"] not in THEME:
            where = [(node["html"][:120], node["any"][:1]) for node in fault["nodes"][:3]]
            yield f"{fault['id']}: {fault['help']}: {where}"
