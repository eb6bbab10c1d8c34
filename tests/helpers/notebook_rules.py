"""What a committed chapter has to be; each rule is a function from a notebook to complaints."""

from __future__ import annotations

import re
from collections.abc import Iterator
from statistics import median
from typing import Any

from mpkit.core.records import claimed, declared

TAGS = {"parameters", "hide-input", "hide-cell", "remove-input", "remove-cell", "nbval-skip"}
TAGS |= {"nbval-ignore-output", "full-width", "solution", "tests"}
FORBIDDEN = {
    r"\bipywidgets\b": "ipywidgets show nothing without a kernel",
    r"\bsys\.exit\b": "sys.exit looks like success",
    r"https?://[^\s\"']*cdn": "scripts must not come from elsewhere",
    r";\s*$": "a trailing semicolon does not hide output here",
    r"torch\.manual_seed|np\.random\.seed": "randomness comes through an explicit generator",
}
BOX = re.compile(r"^`{3,}\{(?:exercise|solution)\}", re.MULTILINE)
REQUIRED = {"dataset": "str", "device": "str", "seed": "int"}
Notebook = dict[str, Any]


def complaints(notebook: Notebook) -> list[str]:
    """Everything that is wrong with a notebook, in words; empty for a good one."""
    content = (_structure, _exercises, _parameters, _execution, _sources, _prose, _figures)
    rules = (*content, _results, _claims, _provenance)
    return [words for rule in rules for words in rule(notebook)]


def _code(notebook: Notebook) -> list[Any]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _source(cell: Any) -> str:
    return "".join(cell["source"])


def _structure(notebook: Notebook) -> Iterator[str]:
    first = notebook["cells"][0]
    if first["cell_type"] != "markdown" or not _source(first).startswith("# "):
        yield "the first cell must be markdown and begin with the title, '# ...'"
    ids = [cell.get("id") for cell in notebook["cells"]]
    if ids != [f"cell-{number:02d}" for number in range(len(ids))]:
        yield "cell ids must count cell-00, cell-01, ...: run mpkit refresh"
    for cell in notebook["cells"]:
        unknown = set(cell["metadata"].get("tags", [])) - TAGS
        if unknown:
            yield f"unknown tag {sorted(unknown)} (known: {sorted(TAGS)})"
        strange = set(cell["metadata"]) - {"tags", "mystnb", "jupyter", "mpkit"}
        if strange:
            yield f"cell metadata that a run leaves behind: {sorted(strange)}"


def _exercises(notebook: Notebook) -> Iterator[str]:
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown" and len(BOX.findall(_source(cell))) > 1:
            yield f"exercises and solutions are cells of their own: {_source(cell)[:60]!r}"


def _parameters(notebook: Notebook) -> Iterator[str]:
    tagged = [c for c in _code(notebook) if "parameters" in c["metadata"].get("tags", [])]
    if len(tagged) != 1:
        yield f"exactly one cell must carry the tag 'parameters', found {len(tagged)}"
        return
    pattern = re.compile(r"^(\w+): (int|float|str|bool) = [^=#]+  # \S[^=]*$")
    found = {}
    for line in _source(tagged[0]).splitlines():
        match = pattern.match(line)
        if not match:
            yield f"not 'name: type = literal  # help': {line!r}"
        else:
            found[match.group(1)] = match.group(2)
    for name, kind in REQUIRED.items():
        if found.get(name) != kind:
            yield f"a chapter takes {name}: {kind}"


def _execution(notebook: Notebook) -> Iterator[str]:
    cells = _code(notebook)
    if [cell["execution_count"] for cell in cells] != list(range(1, len(cells) + 1)):
        yield "code cells must have been executed in order: run mpkit refresh"
    if not any(cell["outputs"] for cell in cells):
        yield "no cell has a stored output"
    for cell in cells:
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                yield f"a cell stopped with {output['ename']}"
            if output.get("name") == "stderr":
                yield f"a cell wrote to stderr: {''.join(output['text'])[:80]!r}"
            data = {k: v for k, v in output.get("data", output).items() if k != "image/png"}
            if re.search(r"0x[0-9a-f]{8}|/tmp/|/home/", str(data)[:20000]):
                yield "an output holds an address or a path of the machine"


def _sources(notebook: Notebook) -> Iterator[str]:
    lengths = []
    for cell in _code(notebook):
        source = _source(cell)
        lines = [line for line in source.splitlines() if line.strip()]
        lengths.append(len(lines))
        if len(lines) > 20:
            yield f"a code cell of {len(lines)} lines (at most 20): {lines[0]!r}"
        for pattern, reason in FORBIDDEN.items():
            if re.search(pattern, source, re.MULTILINE):
                yield f"{reason}: {lines[0]!r}"
    if median(lengths) > 8:
        yield f"the median code cell has {median(lengths)} lines (at most 8)"


def _prose(notebook: Notebook) -> Iterator[str]:
    prose = " ".join(_source(c) for c in notebook["cells"] if c["cell_type"] == "markdown")
    words, cells = len(prose.split()), len(_code(notebook))
    if words < 60 * cells:
        yield f"{words} words for {cells} code cells (at least 60 each)"
    for heading in ("exercise", "mpkit run"):
        if heading not in prose.lower():
            yield f"a chapter has exercises and tells how to rerun it: no {heading!r}"


def _figures(notebook: Notebook) -> Iterator[str]:
    names = []
    for cell in _code(notebook):
        drawn = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        if drawn & {"image/png", "application/vnd.plotly.v1+json"}:
            settings = cell["metadata"].get("mystnb", {})
            told = len(settings.get("image", {}).get("alt", "")) >= 30
            if "image/png" in drawn and not told:  # a slider has its own
                yield f"a figure without a text alternative: {_source(cell)[:60]!r}"
            if not settings.get("figure", {}).get("caption"):
                yield f"a figure without a caption: {_source(cell)[:60]!r}"
            names.append(settings.get("figure", {}).get("name"))
    if len(set(names)) != len(names):
        yield f"figure names must differ: {names}"


def _results(notebook: Notebook) -> Iterator[str]:
    source = "\n".join(map(_source, _code(notebook)))
    if re.search(r"^dataset: .*{\w+}$", source, re.MULTILINE):
        return  # it shows the record of one data set: the same at every point of a grid
    count = len(declared(notebook))
    if not 2 <= count <= 6:
        yield f"{count} results for the table of a sweep (2 to 6): call results.declare"


def _claims(notebook: Notebook) -> Iterator[str]:
    for text, holds in claimed(notebook).items():
        if not holds:
            yield f"the page claims what its own numbers contradict: {text!r}"


def _provenance(notebook: Notebook) -> Iterator[str]:
    record = notebook["metadata"].get("mpkit")
    if not record:
        yield "no record of the run: run mpkit refresh"
        return
    fields = {"parameters", "seed", "versions", "device", "commit", "commit_date", "duration_s"}
    if fields - set(record):
        yield f"the record of the run lacks {sorted(fields - set(record))}"
    if str(record.get("commit", "+")).endswith("+"):
        yield "the record of the run names uncommitted code: commit, then run mpkit refresh"
