"""Pages on machines of strangers: another kernel of the same name, another locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.toybook import MPKIT, mpkit, toy_book
from mpbook.pages import chapters
from mpbook.pages.execution import execute

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.parametrize("where", ["JUPYTER_PATH", "JUPYTER_DATA_DIR"])
def test_a_chapter_runs_in_the_interpreter_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    root = toy_book(tmp_path / "book", "import sys\nprint(sys.executable)")
    spec = tmp_path / "jupyter" / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = ["/nowhere/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    words = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(words))
    monkeypatch.setenv(where, str(tmp_path / "jupyter"))
    done = execute(chapters.chapter(root, "toy"), {}, root / "store")
    outputs = [cell.get("outputs") for cell in json.loads(done.read_text())["cells"]]
    assert sys.executable in json.dumps(outputs)


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_the_command_line_reads_and_writes_utf8_in_any_locale(tmp_path: Path) -> None:
    root = toy_book(tmp_path, "print('ε ≤ ½', 'Tramèr')")
    profile = "# für alle: ε\nchapters: {toy: {seed: 3}}\n"
    (root / "book" / "profiles" / "quick.yml").write_text(profile, encoding="utf-8")
    environment = {**os.environ, **ASCII}
    for words in (("chapters",), ("recipes",), ("run", "toy", "-p", "seed", "2"), ("book",)):
        done = subprocess.run(
            [MPKIT, *words], cwd=root, env=environment, capture_output=True, encoding="ascii"
        )
        assert done.returncode == 0, done.stderr
    (page,) = (root / "_build").glob("runs/toy-*/html/book/toy.html")
    assert "ε ≤ ½ Tramèr" in page.read_text(encoding="utf-8")
    assert mpkit(root, "chapters").returncode == 0
