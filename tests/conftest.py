"""The rendered book, built once for all tests that look at it."""

from __future__ import annotations

import pytest
from site_rules import Site, build, copy_book


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The book of this checkout; tests that use it share the xdist group ``site``."""
    tree = tmp_path_factory.mktemp("site")
    copy_book(tree)
    return build(tree)
