"""How pytest --nbval runs and compares the pages: see tests/pages.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from pages import pytest_collect_file  # noqa: F401
