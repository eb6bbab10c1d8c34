"""The chapters of the book: their titles, their parameters, and checks on new values.

A chapter is a notebook named in ``_toc.yml``. Its parameters stand in the one cell tagged
``parameters``, one annotated literal a line, each with a comment that is its help. A range or a
choice at the end of the comment is binding::

    steps: int = 40  # gradient steps of each attack [1, 1000]
    radius: float = 0.3  # in pixel units (0, 1]
    geometry: str = "linf"  # which ball {linf, l2, l1}
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Value = str | int | float | bool
TYPES: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
INSTALLED = Path(__file__).resolve().parents[1] / "home"  # the book as a wheel carries it


class ChapterError(ValueError):
    """A chapter cannot be run as asked; the message says what, where and the remedy."""


@dataclass(frozen=True)
class Interval:
    """A range of numbers, either end open or closed, printed as it was written."""

    text: str
    low: float
    high: float

    PATTERN = re.compile(r"([\[(])\s*([^\s,]+)\s*,\s*([^\s,]+)\s*([\])])\s*$")

    @classmethod
    def parse(cls, text: str) -> Interval | None:
        """Read the interval at the end of a help text, or None where there is none."""
        found = cls.PATTERN.search(text)
        if not found:
            return None
        try:
            return cls(found.group(0).strip(), float(found.group(2)), float(found.group(3)))
        except ValueError:
            return None

    def __contains__(self, value: float) -> bool:
        above = value > self.low or (self.text[0] == "[" and value == self.low)
        return above and (value < self.high or (self.text[-1] == "]" and value == self.high))


@dataclass(frozen=True)
class Parameter:
    """One parameter of a chapter: name, type, default, help, and what values it takes."""

    name: str
    type: str
    default: Value
    help: str

    @property
    def interval(self) -> Interval | None:
        """The range named at the end of the help, if there is one."""
        return Interval.parse(self.help)

    @property
    def choices(self) -> tuple[str, ...]:
        """The choices named at the end of the help, such as ``{linf, l2, l1}``, or nothing."""
        found = re.search(r"\{([^{}]+)\}\s*$", self.help)
        return tuple(word.strip() for word in found.group(1).split(",")) if found else ()

    def check(self, value: Any) -> Value:
        """Return the value in the parameter's own type.

        Args:
            value: a Python value, or its text as typed on a command line.
        Raises: ChapterError: wrong type, not finite, outside the range or not among the choices.
        """
        checked = self._convert(value)
        if self.interval and isinstance(checked, int | float) and checked not in self.interval:
            raise self._refusal(value, f"a value in {self.interval.text}")
        if self.choices and checked not in self.choices:
            raise self._refusal(value, "one of " + ", ".join(self.choices))
        return checked

    def _convert(self, value: Any) -> Value:
        text = str(value).strip()
        try:
            if self.type == "bool":
                return {"true": True, "false": False}[text.lower()]
            if self.type == "int" and not isinstance(value, bool):
                return int(text)
            if self.type == "float" and not isinstance(value, bool):
                number = float(text)
                if math.isfinite(number):
                    return number
            if self.type == "str":
                return str(value)
        except (KeyError, ValueError):
            pass
        raise self._refusal(
            value, {"bool": "true or false"}.get(self.type, f"a finite {self.type}")
        )

    def _refusal(self, value: Any, wanted: str) -> ChapterError:
        return ChapterError(
            f"parameter {self.name!r}: got {value!r}, expected {wanted} "
            f"({self.help}; default {self.default!r})"
        )


@dataclass(frozen=True)
class Chapter:
    """A notebook of the book, seen from outside."""

    id: str
    path: Path
    title: str
    parameters: tuple[Parameter, ...]

    def check(self, given: Mapping[str, Any]) -> dict[str, Value]:
        """Check given values against the parameters; return them in their own types.

        Raises: ChapterError: an unknown name (the message lists the known ones) or a bad value.
        """
        known = {parameter.name: parameter for parameter in self.parameters}
        for name in given:
            if name not in known:
                names = ", ".join(known) or "none at all"
                raise ChapterError(f"chapter {self.id!r} has no parameter {name!r}; it has {names}")
        return {name: known[name].check(value) for name, value in given.items()}

    def describe(self) -> dict[str, Any]:
        """The chapter as plain data, as ``mpkit chapters --json`` prints it."""
        fields = ("name", "type", "default", "help")
        return {
            "id": self.id,
            "title": self.title,
            "parameters": [{f: getattr(p, f) for f in fields} for p in self.parameters],
        }


def book_root(start: Path | None = None) -> Path:
    """The folder that holds ``_toc.yml`` and ``book/``: here, above, or where mpkit stands.

    Raises: ChapterError: no book is found.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents, Path(__file__).resolve().parents[3], INSTALLED):
        if (folder / "_toc.yml").is_file() and (folder / "book").is_dir():
            return folder
    raise ChapterError(f"no book found from {here} upward: go to a clone of the repository")


def workspace(root: Path) -> Path:
    """The folder of ``_build``, where all goes that is made from a book: its checkout, or the
    current folder if the book is the installed one."""
    return Path.cwd() if root == INSTALLED else root


def results(*names: str) -> Path:
    """A record of the book: the file or folder in ``results/`` beside the page, else the book's.

    So a page that was downloaded alone finds the records that came with the package.
    """
    beside = Path("results", *names)
    return beside if beside.exists() else book_root() / "book" / beside


def chapters(root: Path) -> list[Chapter]:
    """Every notebook of the table of contents, in its order.

    Raises: ChapterError: a parameters cell that cannot be read as annotated literals with help.
    """
    paths = [root / f"{name}.ipynb" for name in pages(root)]
    return [_read(path) for path in paths if path.is_file()]


def pages(root: Path) -> list[str]:
    """Every page of the table of contents, such as ``book/start``, in its order.

    Raises: ChapterError: the table cannot be read.
    """
    path = root / "_toc.yml"
    try:
        return _files(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ChapterError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def chapter(root: Path, name: str) -> Chapter:
    """The chapter of that id.

    Raises: ChapterError: there is none; the message lists what there is.
    """
    known = {found.id: found for found in chapters(root)}
    if name not in known:
        raise ChapterError(f"no chapter {name!r}; the chapters are: {', '.join(known) or 'none'}")
    return known[name]


def profile(root: Path, name: str) -> dict[str, dict[str, Value]]:
    """The parameters that a profile of ``book/profiles/`` gives to each chapter.

    The file has ``every:`` (given to each chapter that has such a parameter) and ``chapters:``
    (chapter id to parameters); both may be missing.

    Returns: chapter id to checked parameters; a chapter that keeps its defaults maps to {}.
    Raises: ChapterError: no such profile, or the file names unknown chapters, parameters or values.
    """
    folder = root / "book" / "profiles"
    path = folder / f"{name}.yml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in folder.glob("*.yml")))
        raise ChapterError(f"no profile {name!r}; the profiles are: {names}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ChapterError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    form = f"{path.name}: expected every: and chapters:, with parameters by name below"
    if not isinstance(content, dict):
        raise ChapterError(f"{form}, got a {type(content).__name__}")
    if odd := [key for key in content if key not in ("every", "chapters")]:
        raise ChapterError(f"{path.name}: unknown key {odd[0]!r}; it has every: and chapters:")
    every, special = (content.get("every") or {}, content.get("chapters") or {})
    if not all(isinstance(part or {}, dict) for part in (every, special, *special.values())):
        raise ChapterError(form)
    listed = chapters(root)
    given_names = {parameter.name for found in listed for parameter in found.parameters}
    if nobody := sorted(set(every) - given_names):
        raise ChapterError(f"{path.name}: no chapter has a parameter {nobody[0]!r}")
    unknown = set(special) - {found.id for found in listed}
    if unknown:
        raise ChapterError(f"{path.name} names chapters that do not exist: {sorted(unknown)}")
    given = {}
    for found in listed:
        own = {parameter.name for parameter in found.parameters}
        values = {k: v for k, v in every.items() if k in own} | (special.get(found.id) or {})
        given[found.id] = found.check(values)
    return given


def _files(entry: Any) -> list[str]:
    """Every ``root:`` and ``file:`` of a table of contents, in reading order."""
    if isinstance(entry, list):
        return [name for item in entry for name in _files(item)]
    if not isinstance(entry, dict):
        return []
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [name for value in entry.values() for name in _files(value)]


def _read(path: Path) -> Chapter:
    import nbformat
    import papermill

    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # whatever is wrong with it, the file is what matters
        why = str(error).partition("\n")[0][:200]
        raise ChapterError(f"{path}: is no notebook ({type(error).__name__}: {why})") from error
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", prose, re.MULTILINE)
    parameters = tuple(
        _parameter(path, item) for item in papermill.inspect_notebook(notebook).values()
    )
    return Chapter(path.stem, path, heading.group(1).strip() if heading else path.stem, parameters)


def _parameter(path: Path, item: Mapping[str, Any]) -> Parameter:
    name, kind, help = (item["name"], item["inferred_type_name"], item["help"].strip())
    if kind not in TYPES or not help:
        raise ChapterError(
            f"{path.name}: parameter {name!r} needs a type among {', '.join(TYPES)} and a comment "
            "that is its help, as in: eps: float = 0.3  # radius, pixel units (0, 1]"
        )
    default = ast.literal_eval(item["default"])
    parameter = Parameter(name, kind, default, help)
    return Parameter(name, kind, parameter.check(default), help)
