"""Handouts: solved they run, with blanks they stop at their tests, and they give nothing away."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from helpers import ROOT
from helpers.toybook import code, mpkit, notebook, text, toy_book
from mpbook.pages.chapters import ChapterError, chapter
from mpbook.pages.handout import blanked, exercises, hand_out, without_solutions

SOLUTION = '''import math


def root(square: float) -> float:
    """The side of a square, from its area."""
    return math.sqrt(square)'''
BLANK = '''import math


def root(square: float) -> float:
    """The side of a square, from its area."""
    raise NotImplementedError("your turn")'''
TESTS = "assert root(4) == 2\nprint('well done')"
PENCIL = """## Exercises

```{exercise} One
:label: ex-one
How long is it?
```

````{solution} ex-one
:class: dropdown
Secretly two.
```python
secret = 2
```
````

## Sources

A book."""
PATHS = sorted((ROOT / "book").glob("*.ipynb"))


def load(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def toy(folder: Path) -> Path:
    """A book whose one chapter has an exercise in code and one in words."""
    root = toy_book(folder)
    path = root / "book" / "toy.ipynb"
    cells = load(path)["cells"] + [
        text(PENCIL),
        {**code(SOLUTION, "hide-input", "solution"), "execution_count": 2},
        {**code(TESTS, "tests"), "outputs": [{"output_type": "stream", "name": "stdout",
                                              "text": "well done\n"}]},
    ]  # fmt: skip
    path.write_text(json.dumps(notebook(*cells)))
    return root


# The book's own exercises


def runs(source: str, tests: str) -> None:
    """Run an exercise as somebody does who has nothing else of its page."""
    names: dict[str, Any] = {}
    exec(source, names)
    exec(tests, names)


def solved() -> list[Any]:
    return [
        pytest.param(source, tests, id=f"{path.stem}-{number}")
        for path in PATHS
        for number, (source, tests) in enumerate(exercises(load(path)))
    ]


@pytest.mark.parametrize(("source", "tests"), solved())
def test_a_solution_passes_its_tests_and_a_blank_does_not(source: str, tests: str) -> None:
    runs(source, tests)
    with pytest.raises(NotImplementedError, match="your turn"):
        runs(blanked(source), tests)


def test_pages_have_an_exercise_in_code() -> None:
    assert [path.stem for path in PATHS if not list(exercises(load(path)))] == []


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_handout_gives_nothing_away(path: Path) -> None:
    whole = load(path)
    told = json.dumps(without_solutions(whole))
    assert "{solution" not in told
    for source, _ in exercises(whole):
        secret = set(source.splitlines()) - set(blanked(source).splitlines())
        assert secret
        assert [line for line in secret if len(line.split()) > 2 and json.dumps(line) in told] == []


# How they are made


def test_a_blank_keeps_what_is_called_and_what_it_should_do() -> None:
    assert blanked(SOLUTION) == BLANK


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("answer = 2", "imports and functions"),
        ('def f():\n    """Nothing."""', "without a solution"),
    ],
)
def test_what_would_give_it_away_is_refused(source: str, words: str) -> None:
    with pytest.raises(ChapterError, match=words):
        blanked(source)


def test_a_solution_without_tests_is_refused() -> None:
    with pytest.raises(ChapterError, match="no cell tagged tests follows"):
        list(exercises(notebook(code(SOLUTION, "solution"), code("1"))))


def test_a_chapter_without_exercises_in_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChapterError, match="no exercise in code"):
        hand_out(chapter(toy_book(tmp_path), "toy"), tmp_path / "out")


def test_words_are_cut_out_and_their_neighbours_stay() -> None:
    page = without_solutions(notebook(text(PENCIL), text(PENCIL[PENCIL.index("````") :])))
    assert "Secretly" not in json.dumps(page) and "secret" not in json.dumps(page)
    assert "How long is it?" in page["cells"][0]["source"]
    assert page["cells"][0]["source"].endswith("A book.")
    only = PENCIL[PENCIL.index("````") : PENCIL.index("## Sources")]
    assert without_solutions(notebook(text(only)))["cells"] == []


def executed(path: Path) -> str:
    """Everything that a notebook prints when it is run from its first cell to its last."""
    page = nbformat.read(path, as_version=4)
    NotebookClient(page, timeout=60).execute()
    return json.dumps(page)


def test_a_handout_is_written_and_runs_once_it_is_solved(tmp_path: Path) -> None:
    root = toy(tmp_path)
    done = mpkit(root, "handout", "toy")
    assert done.returncode == 0, done.stderr
    blanks, full = (root / "_build/handouts" / f"toy-{name}.ipynb" for name in ("blanks", "solved"))
    assert str(blanks) in done.stdout and str(full) in done.stdout
    assert load(full) == load(root / "book" / "toy.ipynb")
    with pytest.raises(CellExecutionError, match="your turn"):
        executed(blanks)
    page = load(blanks)
    assert "well done" not in json.dumps([cell.get("outputs") for cell in page["cells"]])
    for cell in page["cells"]:
        if "".join(cell["source"]) == BLANK:
            cell["source"] = SOLUTION
    blanks.write_text(json.dumps(page))
    assert "well done" in executed(blanks)


def test_handouts_are_marked_by_the_command_of_the_page_on_teaching(tmp_path: Path) -> None:
    command = "pytest --nbval-lax --nbval-current-env course/*.ipynb"
    assert f"```bash\n{command}\n```" in (ROOT / "book" / "teaching.md").read_text()
    root = toy(tmp_path)
    assert mpkit(root, "handout", "toy", "--output", "course").returncode == 0
    empty, good = root / "course" / "toy-blanks.ipynb", root / "course" / "toy-good.ipynb"
    good.write_text(empty.read_text().replace(json.dumps(BLANK)[1:-1], json.dumps(SOLUTION)[1:-1]))
    came_back = [str(empty), str(good)]
    asked = [sys.executable, "-m", *command.split()[:-1], "-p", "no:cacheprovider", *came_back]
    marked = subprocess.run(asked, capture_output=True, text=True, cwd=tmp_path)
    failed = re.findall(r"^FAILED (\S+)", marked.stdout, re.MULTILINE)
    cells = [
        c for c in load(root / "course" / "toy-blanks.ipynb")["cells"] if c["cell_type"] == "code"
    ]
    place = ["".join(cell["source"]) for cell in cells].index(TESTS)
    assert [Path(one).name for one in failed] == ["toy-blanks.ipynb::Cell"], marked.stdout
    assert f"toy-blanks.ipynb::Cell {place}" in marked.stdout


def test_the_book_of_a_course_has_no_solutions(tmp_path: Path) -> None:
    root = toy(tmp_path)
    config = json.loads((root / "_config.yml").read_text())
    config["sphinx"] = {"extra_extensions": ["sphinx_exercise"]}
    (root / "_config.yml").write_text(json.dumps(config))
    for words, name in (((), "html"), (("--no-solutions",), "course")):
        done = mpkit(root, "book", "--no-execute", *words)
        assert done.returncode == 0, done.stderr
        page = (root / "_build" / name / "book" / "toy.html").read_text()
        source = (root / "_build" / name / "_sources" / "book" / "toy.ipynb").read_text()
        assert "How long is it?" in page and "side of a square" in page
        assert ("Secretly" in page, "Secretly" in source, "math.sqrt" in source) == (
            (name == "html",) * 3
        )
