"""Running a chapter: new parameters, reuse, and every way in which it can end."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from helpers import ROOT
from helpers.toybook import mpkit, start, toy_book
from mpbook.pages import chapters
from mpbook.pages.execution import execute
from mpbook.pages.kernel import scrub
from mpkit.cli.main import main

COUNT = (
    "from pathlib import Path\n"
    "log = Path('../count.txt')\n"
    "log.write_text(log.read_text() + 'x' if log.exists() else 'x')\n"
    "print(f'radius is {radius}')"
)


def finished(root: Path) -> list[Path]:
    """Everything that a later run would take for finished."""
    runs = list(root.glob("_build/runs/*/.mpkit.json")) + list(root.glob("out/.mpkit.json"))
    return runs + list(root.glob("_build/executed/*.ipynb")) + list(root.glob("_build/html/index*"))


def wait_for(happened: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_run_renders_reuses_and_forces(tmp_path: Path) -> None:
    root = toy_book(tmp_path, COUNT)
    first = mpkit(root, "run", "toy", "-p", "radius", "0.25", "-p", "norm", "l2")
    assert first.returncode == 0, first.stderr
    paths = {line.split()[0]: Path(line.split()[1]) for line in first.stdout.splitlines()}
    page = paths["page:"].read_text()
    assert "radius is 0.25" in page
    assert "0.25" in page
    stored = json.loads(paths["notebook:"].read_text())
    assert stored["metadata"]["mpkit"]["parameters"]["radius"] == 0.25
    assert stored["metadata"]["mpkit"]["profile"] == "custom"
    again = mpkit(root, "run", "toy", "-p", "norm", "l2", "-p", "radius", "0.250")
    assert again.stdout == first.stdout
    assert (root / "count.txt").read_text() == "x"
    forced = mpkit(root, "run", "toy", "-p", "norm", "l2", "-p", "radius", "0.25", "--force")
    assert forced.returncode == 0
    assert (root / "count.txt").read_text() == "xx"


def test_a_folder_of_images_is_found_from_where_the_user_stands(tmp_path: Path) -> None:
    root = toy_book(
        tmp_path, "from pathlib import Path\nprint(Path(dataset[7:], 'it').read_text())"
    )
    (root / "mine").mkdir()
    (root / "mine" / "it").write_text("my own images")
    done = mpkit(root, "run", "toy", "-p", "dataset", "folder:mine", "--output", "out")
    assert done.returncode == 0, done.stderr
    assert "my own images" in (root / "out" / "html" / "book" / "toy.html").read_text()


def test_output_folder_is_never_lost(tmp_path: Path) -> None:
    root = toy_book(tmp_path, COUNT)
    (root / "mine").mkdir()
    (root / "mine" / "thesis.txt").write_text("years of work")
    refused = mpkit(root, "run", "toy", "--output", "mine")
    assert refused.returncode == 1
    assert "mine" in refused.stderr
    assert (root / "mine" / "thesis.txt").read_text() == "years of work"
    assert mpkit(root, "run", "toy", "--output", "out").returncode == 0
    other = mpkit(root, "run", "toy", "--output", "out", "-p", "seed", "1")
    assert other.returncode == 1
    assert "--force" in other.stderr
    assert "radius is 0.5" in (root / "out" / "html" / "book" / "toy.html").read_text()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run", "nosuch"], ["nosuch", "toy"]),
        (["run", "toy", "-p", "raduis", "1"], ["raduis", "radius"]),
        (["run", "toy", "-p", "seed", "0.5"], ["seed", "0.5", "int"]),
        (["run", "toy", "-p", "radius", "nan"], ["radius", "nan", "finite"]),
        (["run", "toy", "-p", "radius", "0"], ["radius", "(0, 1]"]),
        (["run", "toy", "-p", "norm", "l7"], ["norm", "l7", "linf, l2"]),
        (["run", "toy", "-p", "seed", "1", "-p", "seed", "2"], ["seed", "twice"]),
        (["run", "toy", "-p", "device", "tpu"], ["device", "tpu", "cpu"]),
        (["run", "toy", "-p", "device", "cuda:99"], ["cuda:99", "CUDA device"]),
        (["book", "--profile", "nosuch"], ["nosuch", "quick"]),
    ],
)
def test_bad_requests_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: list[str]
) -> None:
    root = toy_book(tmp_path, COUNT)
    monkeypatch.chdir(root)
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert all(word in done.stderr for word in told), done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 4
    assert not finished(root)
    assert not (root / "count.txt").exists()


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("edge = 1 / (seed * 0)", [], ["ZeroDivisionError", "edge", "remedy"]),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", [], ["kernel died", "remedy"]),
        ("import time\ntime.sleep(600)", ["--timeout", "6"], ["6 s", "--timeout"]),
        ("import sys\nsys.exit(0)", [], ["toy"]),
    ],
    ids=["cell error", "dead kernel", "time-out", "exit"],
)
def test_a_run_that_fails_says_so_and_leaves_nothing(
    tmp_path: Path, source: str, options: list[str], told: list[str]
) -> None:
    root = toy_book(tmp_path, source, "print('the end')")
    done = mpkit(root, "run", "toy", "--output", "out", *options)
    assert done.returncode == 1, done.stdout
    assert all(word in done.stderr for word in told), done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("Error:") :]
    assert len(message.strip().splitlines()) <= 5
    assert not finished(root)
    assert not (root / "out").exists()


SLOW = (
    "import os, time\nfrom pathlib import Path\n"
    "Path('../pid.txt').write_text(str(os.getpid()))\n"
    "time.sleep(0 if Path('../quick').exists() else 600)"
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize(
    "words", [["run", "toy", "--output", "out"], ["book"]], ids=["run", "book"]
)
def test_a_killed_run_leaves_nothing_finished_and_no_process(
    tmp_path: Path, number: signal.Signals, words: list[str]
) -> None:
    root = toy_book(tmp_path, SLOW)
    process = start(root, *words)
    wait_for(lambda: (root / "pid.txt").exists() and (root / "pid.txt").read_text())
    kernel = int((root / "pid.txt").read_text())
    os.kill(process.pid, number)
    _, told = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in told
    wait_for(lambda: not alive(kernel), 30)
    assert not finished(root)
    (root / "quick").touch()
    again = mpkit(root, *words)
    assert again.returncode == 0, again.stderr
    assert finished(root)
    assert not list(root.rglob(".mpkit-*"))  # what the killed one worked in


def test_book_executes_only_what_changed(tmp_path: Path) -> None:
    root = toy_book(tmp_path, COUNT)
    assert mpkit(root, "book").returncode == 0
    assert mpkit(root, "book").returncode == 0
    assert (root / "count.txt").read_text() == "x"
    path = root / "book" / "toy.ipynb"
    path.write_text(path.read_text().replace("radius is", "the radius is"))
    again = mpkit(root, "book")
    assert again.returncode == 0, again.stderr
    assert (root / "count.txt").read_text() == "xx"
    assert "the radius is 0.5" in (root / "_build" / "html" / "book" / "toy.html").read_text()


def test_a_book_that_does_not_build_keeps_the_earlier_one(tmp_path: Path) -> None:
    root = toy_book(tmp_path, COUNT)
    assert mpkit(root, "book").returncode == 0
    (root / "book" / "index.md").write_text("# A toy book\n\n[broken](nosuch.md)\n")
    done = mpkit(root, "book")
    assert done.returncode == 1
    assert "nosuch" in done.stderr
    assert "Nothing here" in (root / "_build" / "html" / "book" / "index.html").read_text()


def test_a_stream_that_was_cut_is_whole_again() -> None:
    """Two equal runs may cut what a cell prints at different places."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")])
    stream = nbformat.v4.new_output
    notebook.cells[0].outputs = [
        stream("stream", name="stdout", text="a\n"),
        stream("stream", name="stdout", text="b\n"),
        stream("display_data", data={"text/plain": "c"}),
        stream("stream", name="stdout", text="d\n"),
        stream("stream", name="stderr", text="e\n"),
    ]
    scrub(notebook)
    texts = [output.get("text") for output in notebook.cells[0].outputs]
    assert texts == ["a\nb\n", None, "d\n", "e\n"]


def test_refresh_twice_changes_nothing(tmp_path: Path) -> None:
    root = toy_book(tmp_path, "print(seed + 1)")
    path = root / "book" / "toy.ipynb"
    assert "refreshed" in mpkit(root, "refresh").stdout
    once = path.read_bytes()
    assert b'"2' not in once or b"1\\n" in once
    assert "unchanged" in mpkit(root, "refresh", "toy").stdout
    assert path.read_bytes() == once
    path.write_text(path.read_text().replace("seed + 1", "seed + 2"))
    assert "refreshed" in mpkit(root, "refresh").stdout
    assert b'"2\\n"' in path.read_bytes()


def test_chapters_as_json(tmp_path: Path) -> None:
    root = toy_book(tmp_path, COUNT)
    (found,) = json.loads(mpkit(root, "chapters", "--json").stdout)
    assert (found["id"], found["title"]) == ("toy", "A toy chapter")
    assert found["parameters"][3] == {
        "name": "radius",
        "type": "float",
        "default": 0.5,
        "help": "in pixel units (0, 1]",
    }
    plain = mpkit(root, "chapters").stdout
    assert "A toy chapter" in plain
    assert "in pixel units" in plain


def test_data_says_what_is_there_and_what_mends_it(tmp_path: Path) -> None:
    good = CliRunner().invoke(main, ["data", "digits"])
    assert good.exit_code == 0
    assert "digits test: 500 images 1x8x8, 10 classes" in good.output
    bad = CliRunner().invoke(main, ["data", "mnist", "--root", str(tmp_path)])
    assert bad.exit_code == 1
    assert str(tmp_path) in bad.stderr
    assert "mpkit data mnist --download" in bad.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_second_chapter_runs_on_mnist(tmp_path: Path) -> None:
    """Real data, few of them: the numbers mean nothing here, but the outputs are about MNIST."""
    data = os.environ.get("MPKIT_DATA", "")
    if not (Path(data) / "MNIST" / "raw").is_dir():
        pytest.skip("MPKIT_DATA holds no MNIST")
    few = "dataset mnist epochs 1 steps 2 points 20 learn_from 200 precision float32".split()
    chapter = chapters.chapter(ROOT, "geometries")
    given = chapter.check(dict(zip(few[::2], few[1::2], strict=True)))
    done = json.loads(execute(chapter, given, tmp_path).read_text())
    printed = json.dumps([cell.get("outputs") for cell in done["cells"]])
    assert "mnist: 20 of shape (1, 28, 28)" in printed
    assert "Linf(eps=0.3)" in printed
