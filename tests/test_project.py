"""The repository as a whole: one list of dependencies, rooms in order, nothing private."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import yaml

from helpers import ROOT, rooms
from mpbook.pages.execution import asked_python

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    done = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def test_rooms_import_only_downward() -> None:
    """Inside functions too: no floor knows of one above it, or of a neighbour on its own."""
    floor = {name: number for number, names in enumerate(rooms.FLOORS) for name in names}
    edges = rooms.arrows()
    assert set(edges) == set(floor)
    up = [(a, b) for a, others in edges.items() for b in others if floor[b] >= floor[a]]
    assert up == []


def test_no_module_imports_itself_in_a_circle() -> None:
    edges = {name: rooms.imports(path) - {name} for name, path in rooms.files()}
    assert [name for name in edges if name in rooms.reach(edges, name)] == []


def test_the_picture_of_the_rooms_is_true() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    assert rooms.PICTURE.findall(page) == [rooms.picture()], "run make map"


def test_rooms_have_few_files_and_faces_of_one_screen() -> None:
    count = Counter(rooms.room(name) for name, _ in rooms.files())
    assert count.pop("mpkit.attacks") <= 16, count  # one more: replays on a GPU
    assert max(count.values()) <= 15, count  # with the face
    faces = [path for _, path in rooms.files() if path.name == "__init__.py"]
    assert {
        str(path): lines(path) for path in faces if lines(path) > 80 and "theory" not in str(path)
    } == {}


def test_files_stay_small() -> None:
    long = {name: n for name, path in rooms.files() if (n := lines(path)) > 300}
    assert long == {}


def test_the_library_and_the_book_stay_small() -> None:
    size = Counter[str]()
    for name, path in rooms.files():
        size[name.split(".")[0]] += lines(path)
    # of certificates 1,850, of kernels for a GPU 900, of the audit of other libraries 2,100, of
    # dead zones 400, of searches replayed on a GPU 400, of a screen for unions 150, of minimum-norm
    # attacks, their measures and names of other zoos 500, of the doctor's detours around
    # operations, causes and active test 1,250, of random poses and a broad network 30, of how a
    # gradient fails and of models that remember 200, of draws by chance 35, of custom functions
    # whose gradient lies 85, of clamps 10, of the soft margin 40, of what melts and of
    # slopes that are not finite 30, of searches that would not end 12, of rank zones, their recipe
    # and bent images 410, of pilots 85
    assert size["mpkit"] <= 25_385, size
    # of handouts 110, of tables 90
    assert size["mpbook"] <= 5_000, size


def loaded(*modules: str) -> set[str]:
    """Every module that is there once some were imported."""
    code = "import sys; " + "; ".join(f"import {name}" for name in modules)
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print(*sys.modules)"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_the_science_is_light() -> None:
    heavy = "torchvision matplotlib seaborn plotly sklearn scipy sympy papermill foolbox pandas"
    rooms_of_science = "sets attacks data models training evaluation masking certify"
    faces = [f"mpkit.{name}" for name in rooms_of_science.split()]
    assert loaded(*faces) & set(heavy.split()) == set()
    assert not [name for name in loaded("mpkit") if name.startswith("mpkit.")]


def test_reading_a_record_needs_no_training() -> None:
    ours = {name for name in loaded("mpkit.studies.analysis") if name.startswith("mpkit.")}
    allowed = ("mpkit.core", "mpkit.studies")
    assert [name for name in ours if rooms.room(name) not in allowed] == []


def test_environment_points_to_the_one_list() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    names = [entry if isinstance(entry, str) else "pip:" for entry in environment["dependencies"]]
    assert [re.split(r"[<>=]", name)[0] for name in names] == ["python", "pip", "pip:"]
    assert environment["dependencies"][-1] == {"pip": ["-e .[book,test]"]}
    assert names[0].endswith(PYPROJECT["project"]["requires-python"])


def test_extras_are_all_there() -> None:
    extras = PYPROJECT["project"]["optional-dependencies"]
    assert set(extras) >= {"book", "test", "distributed", "compare"}


def test_lock_pins_every_dependency_by_hash() -> None:
    first, text = (ROOT / "requirements.lock").read_text().split("\n", 1)
    project = PYPROJECT["project"]
    assert first == f"# for Python {project['requires-python']}"
    assert asked_python(ROOT) == dict.fromkeys(
        ("environment.yml", "requirements.lock"), project["requires-python"]
    )
    wanted = project["dependencies"] + project["optional-dependencies"]["book"]
    wanted += project["optional-dependencies"]["test"]
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))
    for requirement in wanted:
        name = re.split(r"[<>=\[ ]", requirement)[0].lower().replace("_", "-")
        assert name in pinned, f"{name}: run make lock"
    assert "://" not in text
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)
    assert all("--hash=sha256:" in entry for entry in entries if entry.strip())


def test_nothing_private_is_committed() -> None:
    """No package registry's address and no path of a machine, in any tracked text file."""
    words = [
        ("pypi", ".org"),
        ("python", "hosted"),
        ("npm", "js"),
        ("deb", ".debian"),
        ("/wo", "rk/"),
    ]
    words += [("/ro", "ot/")]
    pattern = re.compile("|".join(re.escape(a + b) for a, b in words))
    for path in tracked():
        if path.suffix in {".woff", ".png", ".safetensors", ".lock"}:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        found = pattern.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {found and found.group()}"


def test_make_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z]+):.*## ", text, re.MULTILINE))
    assert targets == explained


def test_the_command_line_is_also_a_module() -> None:
    call = [sys.executable, "-m", "mpkit", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mpkit, version ")


def test_the_example_of_the_readme_runs_and_is_short() -> None:
    example = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    assert len([line for line in example.splitlines() if line]) <= 10
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if "%" in line)
    clean, union = (float(shown[name].split()[0]) for name in ("clean", "union"))
    assert 85 < clean <= 100
    assert 0 < union <= min(float(shown[name].split()[0]) for name in ("linf:0.15", "l2:0.7"))
