"""The package from a wheel, without a clone: pages run, and records are found, in any folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mpbook.pages import chapters

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("installed")]
ROOT = Path(__file__).parents[2]
ELSEWHERE = shutil.ignore_patterns(".*", "_build", "build", "*.egg-info", "__pycache__")
ALONE = "from nbclient.cli import main; main()"
MPKIT = (sys.executable, "-P", "-c", "from mpkit.cli.main import main; main()")


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of somebody else, with the unpacked wheel in ``site``."""
    top = tmp_path_factory.mktemp("theirs")
    shutil.copytree(ROOT, top / "source", ignore=ELSEWHERE)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"]
    build += ["--no-deps", "--no-index", "--no-build-isolation", "-w", "wheels", "./source"]
    subprocess.run(build, cwd=top, check=True, timeout=300)
    (wheel,) = (top / "wheels").iterdir()
    with zipfile.ZipFile(wheel) as file:
        file.extractall(top / "site")
    shutil.rmtree(top / "source")
    for words in ("init -q", "-c user.name=x -c user.email=x commit -q --allow-empty -m theirs"):
        subprocess.run(["git", *words.split()], cwd=top, check=True)
    return top


def call(there: Path, folder: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an empty folder, with the package of the wheel alone."""
    (there / folder).mkdir(exist_ok=True)
    env = {**os.environ, "PYTHONPATH": str(there / "site")}
    return subprocess.run(
        words, cwd=there / folder, env=env, capture_output=True, encoding="utf-8", timeout=500
    )


def files(folder: Path) -> set[str]:
    return {str(p) for p in folder.rglob("*") if p.is_file() and p.suffix != ".pyc"}


def test_a_wheel_knows_every_chapter(there: Path) -> None:
    done = call(there, "empty", *MPKIT, "chapters", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [one.describe() for one in chapters.chapters(ROOT)]
    refused = call(there, "empty", *MPKIT, "refresh")
    assert refused.returncode == 1
    assert "go to a clone" in refused.stderr
    planned = call(there, "empty", *MPKIT, "sweep", "start", "--grid", "seed=1,2", "--dry-run")
    assert str(there / "empty" / "_build" / "sweeps") in planned.stdout
    assert not files(there / "empty")


def test_a_chapter_of_a_wheel_is_run_and_rendered_where_the_user_stands(there: Path) -> None:
    before = files(there / "site")
    done = call(there, "run", *MPKIT, "run", "costs", "-p", "steps", "3")
    assert done.returncode == 0, done.stderr
    (notebook,) = (there / "run" / "_build" / "runs").glob("costs-*/costs.ipynb")
    record = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["mpkit"]
    assert record["commit"] == "unknown"  # not that of the checkout around it
    assert record["parameters"]["steps"] == 3
    page = notebook.with_name("html") / "book" / "costs.html"
    assert 'class="reference internal" href="bibliography.html#' in page.read_text("utf-8")
    assert files(there / "site") == before


def test_a_downloaded_notebook_finds_the_records(there: Path) -> None:
    (there / "alone").mkdir()
    shutil.copy(ROOT / "book" / "mnist.ipynb", there / "alone")
    words = (sys.executable, "-P", "-c", ALONE, "--inplace", "mnist.ipynb")
    done = call(there, "alone", *words)
    assert done.returncode == 0, done.stderr
    assert {Path(name).name for name in files(there / "alone")} == {"mnist.ipynb"}


def test_no_page_looks_for_records_by_itself() -> None:
    for one in chapters.chapters(ROOT):
        cells = json.loads(one.path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
        assert not re.search(r"""(Path|open)\(f?["'](\.\./|results|profiles)""", code), one.id


def test_records_beside_a_page_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert chapters.results("masking.json") == ROOT / "book" / "results" / "masking.json"
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "masking.json").touch()
    assert chapters.results("masking.json") == Path("results", "masking.json")
