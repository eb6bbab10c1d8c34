"""The system's Chromium before the rendered book; without a Chromium these tests are skipped."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browsing import Browsing

from helpers.site_rules import Site

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def served(root: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium on this machine: none of {', '.join(NAMES)} is on the path")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def browsing(
    chromium: Any, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browsing]:
    own = tmp_path_factory.mktemp("browsed") / "html"  # links, so that none sees what is planted
    shutil.copytree(site.html, own, copy_function=os.symlink)
    with served(own) as address:
        yield Browsing(chromium, address, own)


@pytest.fixture(scope="session")
def public_browsing(chromium: Any, public: Site) -> Iterator[Browsing]:
    with served(public.html) as address:
        yield Browsing(chromium, address, public.html)
