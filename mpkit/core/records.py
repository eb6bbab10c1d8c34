"""Run records: where a number comes from, written beside the number.

Every executed page and every file under ``book/results/`` carries a provenance: parameters, seed,
package versions, device, commit and date of the code, duration.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from platform import python_version
from typing import Any

from mpkit.core import processor
from mpkit.core.files import write_atomically

CHECKOUT = Path(__file__).resolve().parents[2]  # what holds mpkit, where it is a checkout
PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "matplotlib", "plotly")
DECLARED = "application/vnd.mpkit.results+json"  # the kind of output that holds results
# What may differ between two equal runs, and between two machines.
VOLATILE = ("commit", "commit_date", "duration_s", "sources", "processor", "settings")


@dataclass(frozen=True)
class Code:
    """The state of the code: the last commit and its date; "+" marks changes since then."""

    commit: str
    date: str

    @classmethod
    def of(cls, root: Path, paths: Iterable[str] = ("mpkit", "book/mpbook")) -> Code:
        """Read the state from git.

        Args:
            root: a checkout; outside of one the commit is "unknown".
            paths: what counts as code, relative to root; only changes there are marked.
        """
        if not (root / ".git").exists():  # an installed package may lie within another's checkout
            return cls("unknown", "unknown")
        try:
            commit, date = _git(root, "log", "-1", "--abbrev=10", "--format=%h %cs").split()
            changed = _git(root, "status", "--porcelain", "--", *paths)
        except (OSError, ValueError, subprocess.CalledProcessError):
            return cls("unknown", "unknown")
        return cls(commit + "+" * bool(changed), date)


def versions() -> dict[str, str]:
    """Versions of Python, mpkit and the packages that decide a result, where installed."""
    found = {"python": python_version()}
    for name in ("mpkit", *PACKAGES):
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            continue
    return found


def device_name(device: str) -> str:
    """What a result ran on, in words: "cpu", or the GPU's own name; see ``resolve_device``."""
    import torch

    from mpkit.core.devices import resolve_device

    chosen = resolve_device(device)
    return torch.cuda.get_device_name(chosen) if chosen.type == "cuda" else chosen.type


def provenance(
    parameters: Mapping[str, Any], root: Path, duration_s: float, profile: str = "quick"
) -> dict[str, Any]:
    """The record of one run, as plain data.

    Args:
        parameters: all parameters of the run, those left at their defaults included.
        root: the checkout that the code came from.
        duration_s: wall time in seconds, at least 0.
        profile: the name of the parameter file, or "custom".
    """
    code = Code.of(root)
    return {
        "parameters": dict(parameters),
        "seed": parameters.get("seed"),
        "profile": profile,
        "versions": versions(),
        "device": device_name(str(parameters.get("device", "cpu"))),
        "processor": processor.model(),
        "commit": code.commit,
        "commit_date": code.date,
        "duration_s": round(duration_s, 1),
    }


def source_texts(*packages: str) -> list[tuple[str, str]]:
    """Name, such as mpkit/core/files.py, and text of packages' (mpkit's) source files, in order."""
    found = []
    for name in packages or ("mpkit",):
        spec = find_spec(name)
        for folder in map(Path, spec.submodule_search_locations or () if spec else ()):
            for path in sorted(folder.rglob("*.py")):
                found.append(
                    (path.relative_to(folder.parent).as_posix(), path.read_text(encoding="utf-8"))
                )
    return found


def declare(**numbers: Any) -> None:
    """Mark numbers of a chapter as its results: for the table of a sweep and the page's footer.

    Nothing is shown where this is called; print what a reader should see there.

    Args:
        numbers: by name, such as ``union=0.42``: finite numbers, tensors that hold one, or short
            words. Numbers are rounded to four significant digits.
    Raises: ValueError: a value is of another kind, or not finite.
    """
    from IPython.display import display

    kept = {name: _plain(name, value) for name, value in numbers.items()}
    display({DECLARED: kept, "text/html": ""}, raw=True)


def _plain(name: str, value: Any) -> float | int | str:
    """A result as plain data."""
    if isinstance(value, int | str):
        return value
    with suppress(TypeError, ValueError, RuntimeError):  # as other things, or many of them, raise
        if math.isfinite(number := float(value)):
            return float(f"{number:.4g}")
    raise ValueError(
        f"declare: {name} is {value!r}, expected a finite number or a word; give the mean of many"
    )


def declared(notebook: Mapping[str, Any]) -> dict[str, float | int | str]:
    """The results that an executed notebook declares (see declare); later ones win."""
    found: dict[str, float | int | str] = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            found |= output.get("data", {}).get(DECLARED, {})
    return found


HOLDS, FAILS = "holds: ", "does not hold with these numbers: "


def claim(text: str, holds: Any) -> None:
    """Say whether a sentence of a chapter is true of the numbers at hand.

    A chapter that is run with other parameters may find that it is not. In the book's own pages
    every claim holds: the tests of the book compare what is printed.

    Args:
        text: the sentence, short.
        holds: the condition that it stands for: a bool, or a tensor that holds one.
    """
    print(f"{HOLDS if bool(holds) else FAILS}{text}")


def claimed(notebook: Mapping[str, Any]) -> dict[str, bool]:
    """The sentences that an executed notebook claims (see claim), and whether they hold."""
    printed = [
        line
        for cell in notebook["cells"]
        for output in cell.get("outputs", [])
        for line in "".join(output.get("text", "")).splitlines()
    ]
    found = dict[str, bool]()
    for start, true in ((HOLDS, True), (FAILS, False)):
        found |= {line.removeprefix(start): true for line in printed if line.startswith(start)}
    return found


def digest(*parts: Any) -> str:
    """A sha256 over JSON-able parts: the same for equal parts, on every machine and run."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, its folder included (see files.write_atomically)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(text.encode()))


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as readable JSON, whole or not at all (see write_text)."""
    write_text(path, json.dumps(record, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """Read a record written by write_record.

    Raises: ValueError: the file is not a record; the message names it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a record ({error}): delete it and run again") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} is not a record (a JSON object): delete it and run again")
    return record


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=30,
    )
    return done.stdout.strip()
