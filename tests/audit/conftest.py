"""Audits collect garbage after each call; what was there before a test need not be looked at."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def frozen() -> Iterator[None]:
    """Follow only what the test itself makes; a leak is always that."""
    gc.freeze()
    yield
    gc.unfreeze()
