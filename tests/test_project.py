"""The repository as a whole: one list of dependencies, rooms in order, nothing private."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from mpbook.pages.execution import asked_python

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mpkit"
ORDER = "geometry losses sets attacks search schemes models stored data train threats".split()
ORDER += "membership ledger merging goals sheet suites evaluate loading theory".split()
ORDER += "processor results tolerance".split()
ORDER += "catalog costs estimates weightfiles planned examinations study zoo findings".split()
ORDER += "places slurm cluster sharding looks sliders charts figures reports chapters".split()
ORDER += "execution rendering running sweeping summaries commands_cluster".split()
ORDER += "commands_subject commands_evaluate commands_train commands_sweep cli".split()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def tracked() -> list[Path]:
    done = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def room(name: str) -> str:
    """The room of a dotted module: mpbook.theory.bounds lives in theory."""
    return name.split(".")[1] if "." in name else ""


def imports(path: Path) -> set[str]:
    """The rooms of mpkit that a file imports when it is loaded, not inside its functions."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and node.module == "mpkit":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mpkit."):
            found.add(room(node.module or ""))
        elif isinstance(node, ast.Import):
            found |= {room(a.name) for a in node.names if a.name.startswith("mpkit.")}
    return found - {""}


def graph() -> dict[str, set[str]]:
    edges: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = room(".".join(["mpkit", *path.relative_to(PACKAGE).with_suffix("").parts]))
        if name != "__init__":
            edges.setdefault(name, set()).update(imports(path) - {name})
    return edges


def reach(edges: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for name in edges.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def test_rooms_import_only_downward() -> None:
    edges = graph()
    assert set(ORDER) <= set(edges)
    for place, name in enumerate(ORDER):
        assert not reach(edges, name) & set(ORDER[place + 1 :]), f"{name} looks up"


def test_no_room_imports_itself_in_a_circle() -> None:
    edges = graph()
    assert [name for name in edges if name in reach(edges, name)] == []


def test_importing_the_science_is_light() -> None:
    rooms = "sets attacks search losses schemes models data train figures results".split()
    heavy = "torchvision matplotlib seaborn plotly sklearn scipy sympy papermill foolbox pandas"
    code = "import sys; " + "; ".join(f"import mpkit.{name}" for name in rooms)
    code += f"; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


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


def test_files_stay_small() -> None:
    long = {p.name: n for p in PACKAGE.rglob("*.py") if (n := p.read_text().count("\n")) > 260}
    assert not long


def test_make_help_names_every_target() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^\.PHONY: (.+)$", text, re.MULTILINE)[0].split())
    explained = set(re.findall(r"^([a-z]+):.*## ", text, re.MULTILINE))
    assert targets == explained


def test_the_command_line_is_also_a_module() -> None:
    call = [sys.executable, "-m", "mpkit", "--version"]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mpkit, version ")
