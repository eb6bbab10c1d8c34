"""How nbval runs and compares the pages: tests/helpers/pages.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from helpers.pages import pytest_collect_file  # noqa: F401
