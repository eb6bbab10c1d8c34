"""The rendered book, built once for all tests that look at it."""

from __future__ import annotations

import pytest
from sample_book import ADDRESS, figure_cell, pixels_cell, slider_cell, small_book
from site_rules import Site, build, copy_book


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The book of this checkout; tests that use it share the xdist group ``site``."""
    tree = tmp_path_factory.mktemp("site")
    copy_book(tree)
    return build(tree)


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A small book with everything that a page may have, at a public address."""
    cells = [figure_cell("A chart."), pixels_cell(), slider_cell()]
    return small_book(tmp_path_factory.mktemp("public"), cells, ADDRESS)
