"""Pages on machines of strangers: another kernel of the same name, another locale."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

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


STARTUP = "leak = 1\nimport builtins\nbuiltins.leak = 1\n"


@pytest.mark.parametrize("way", ["startup", "config", "variable", "module"])
def test_settings_and_modules_of_the_user_do_not_reach_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    seen = "import plotly\nprint('leak' in dir() + dir(__builtins__), plotly.__version__)"
    root, profile = toy_book(tmp_path / "book", seen), tmp_path / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    if way == "startup":
        (profile / "startup" / "00.py").write_text(STARTUP)
    elif way == "config":
        told = "c.InteractiveShellApp.exec_lines = ['leak = 1']"
        (profile / "ipython_kernel_config.py").write_text(f"c = get_config()\n{told}\n")
    elif way == "variable":
        (tmp_path / "start.py").write_text(STARTUP)
        monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "start.py"))
    else:
        (root / "book" / "plotly").mkdir()
        (root / "book" / "plotly" / "__init__.py").write_text("__version__ = '9.9'\n")
    done = json.loads(execute(chapters.chapter(root, "toy"), {}, root / "store").read_text())
    (printed,) = (o["text"] for c in done["cells"] for o in c.get("outputs", []))
    assert "".join(printed).split() == ["False", done["metadata"]["mpkit"]["versions"]["plotly"]]


def test_a_relative_path_of_packages_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = toy_book(tmp_path / "book", "import sys\nprint(sys.path)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "lib")
    done = execute(chapters.chapter(root, "toy"), {}, root / "store").read_text()
    assert str(tmp_path / "lib") in done


def test_a_page_runs_again_when_pictures_behind_links_or_arrays_change(tmp_path: Path) -> None:
    shown = (
        "import glob, numpy as np\n"
        "from PIL import Image\n"
        "kind, _, path = dataset.partition(':')\n"
        "print(np.load(dataset)['x'].mean() if kind != 'folder' else\n"
        "      np.asarray(Image.open(path + '/a/0.png')).mean())"
    )
    root = toy_book(tmp_path / "book", shown)
    for label in ("a", "b"):
        (tmp_path / "far" / label).mkdir(parents=True)
        (root / "own").mkdir(exist_ok=True)
        (root / "own" / label).symlink_to(tmp_path / "far" / label)
    for value in (50, 200):
        for label in ("a", "b"):
            picture = Image.fromarray(np.full((4, 4), value, np.uint8))
            picture.save(tmp_path / "far" / label / "0.png")
        np.savez(root / "own.npz", x=np.full((2, 1, 4, 4), value / 255), y=np.arange(2))
        for dataset, told in (("folder:own", f"{value}.0"), ("own.npz", f"{value / 255:.4}"[:5])):
            words = ("run", "toy", "-p", "dataset", dataset)
            done = mpkit(root, *words)
            assert done.returncode == 0, done.stderr
            notebook = Path(done.stdout.split("notebook:")[1].split()[0])
            assert told in notebook.read_text()
    refused = mpkit(root, "run", "toy", "-p", "dataset", "own_sets:batches")
    assert refused.returncode == 1
    assert "write them to a file" in refused.stderr
    here = mpkit(root, "run", "toy", "-p", "dataset", "folder:.")
    assert "no such file or directory" not in here.stderr or here.returncode == 1
