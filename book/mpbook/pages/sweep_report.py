"""What a sweep leaves to look at: a table, a page that links the runs, and the page of each."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpbook.pages.chapters import Chapter, ChapterError, pages
from mpbook.pages.rendering import MARK, check_target, is_current, render, site_key
from mpbook.pages.sweep import Outcome
from mpkit.core.files import require_room
from mpkit.core.records import declared, write_record, write_text

PARTS = ("parameters", "results")
LABEL = re.compile(r":label: *([\w-]+)|^\(([\w-]+)\)=|\$\$ *\(([\w-]+)\)", re.MULTILINE)


def rows_of(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The table as plain data, one row a point: parameters, results, record, page, problem."""
    rows = []
    for one in outcomes:
        row: dict[str, Any] = {"parameters": one.point.varied, "key": one.key, "results": {}}
        if one.notebook is None:
            log = f"logs/{one.key}.log" if one.log else ""
            rows.append(row | {"state": "failed", "problem": one.problem, "log": log})
            continue
        content = json.loads(one.notebook.read_text(encoding="utf-8"))
        row |= {"state": "done", "results": declared(content)}
        row |= {"record": content["metadata"]["mpkit"], "notebook": f"notebooks/{one.key}.ipynb"}
        rows.append(row | {"page": f"pages/book/{one.notebook.stem}.html"})
    return rows


def write_summary(
    chapter: Chapter, command: str, outcomes: Sequence[Outcome], folder: Path
) -> Path:
    """Write the notebooks, the logs and the table as CSV, JSON and MyST; returns the last.

    The CSV holds only what two equal sweeps share: no times, no commits. The command is what to
    type to do it again.
    """
    rows = rows_of(outcomes)
    for one, row in zip(outcomes, rows, strict=True):
        if one.notebook is not None:
            write_text(folder / row["notebook"], one.notebook.read_text(encoding="utf-8"))
        elif one.log:
            write_text(folder / row["log"], one.log + "\n")
    names = list(
        dict.fromkeys((part, name) for part in PARTS for row in rows for name in row[part])
    )
    lines = [[row[part].get(name, "") for part, name in names] + [row["state"]] for row in rows]
    head = [*(name for _, name in names), "state"]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([head, *lines])
    write_text(folder / "table.csv", text.getvalue())
    about = {"chapter": chapter.id, "title": chapter.title, "command": command}
    write_record(folder / "table.json", {**about, "points": rows})
    write_text(folder / "summary.md", _summary(chapter, command, rows, head, lines))
    return folder / "summary.md"


def build_pages(root: Path, outcomes: Sequence[Outcome], folder: Path) -> Path:
    """Render the summary, and the page of every finished run, into one site; returns its front.

    Raises: ChapterError: the build failed; an earlier site there is untouched.
    """
    done = {one.notebook: str(one.point) for one in outcomes if one.notebook is not None}
    runs = [{"file": f"book/{path.stem}", "title": point} for path, point in done.items()]
    others = [{"file": name} for name in pages(root)]
    parts = [{"caption": "Runs", "chapters": runs}] * bool(runs)
    parts.append({"caption": "The book", "chapters": others})
    contents = {"format": "jb-book", "root": "book/summary", "parts": parts}
    with tempfile.TemporaryDirectory(prefix="mpkit-") as scratch:
        executed, site = {"summary": folder / "summary.md"}, folder / "pages"
        for number, path in enumerate(done):
            executed[path.stem] = Path(scratch, path.name)
            write_text(executed[path.stem], relabelled(path.read_text(encoding="utf-8"), number))
        if is_current(site, site_key(root, executed)):
            return site / "index.html"
        return render(root, executed, site, options=(), contents=contents, brief=True)


def relabelled(text: str, number: int) -> str:
    """A notebook whose labels are its own among the runs of one site."""
    notebook = json.loads(text)
    prose = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    for cell in prose:
        cell["source"] = "".join(cell["source"])
    named = [cell["metadata"].get("mystnb", {}).get("figure", {}) for cell in notebook["cells"]]
    labels = {figure["name"] for figure in named if "name" in figure}
    texts = [cell["source"] for cell in prose]
    labels |= {label for text in texts for found in LABEL.findall(text) for label in found if label}
    word = re.compile(rf"(?<![\w-])({'|'.join(map(re.escape, labels)) or '(?!)'})(?![\w-])")
    for cell in prose:
        cell["source"] = word.sub(rf"\1-{number}", cell["source"])
    for figure in named:
        if "name" in figure:
            figure["name"] += f"-{number}"
    return json.dumps(notebook)


def summarized(outcomes: Sequence[Outcome]) -> str:
    """How a sweep went, in a few lines for a terminal."""
    failed = [one for one in outcomes if one.notebook is None]
    lines = [f"{one.point}:\n  {one.problem}" for one in failed[:5]]
    lines += [f"... and {len(failed) - 5} more"] * (len(failed) > 5)
    count = f"{len(outcomes)} points: {len(outcomes) - len(failed)} done"
    return "\n".join([*lines, count + f", {len(failed)} failed" * bool(failed)])


def claim(folder: Path, key: str) -> None:
    """Mark a folder as that of one sweep, before anything is put there.

    Raises: ChapterError: it holds another sweep, or something else.
    """
    check_target(folder)
    require_room(folder)
    mark = {"key": f"sweep {key}"}
    if (folder / MARK).is_file() and not is_current(folder, mark["key"]):
        raise ChapterError(f"{folder} holds another run or sweep: name another folder")
    write_text(folder / MARK, json.dumps(mark))


def _summary(
    chapter: Chapter,
    command: str,
    rows: Sequence[dict[str, Any]],
    head: Sequence[str],
    lines: Sequence[Sequence[Any]],
) -> str:
    """The page in MyST: how it went, how to repeat it, the table, what failed."""
    records = [row["record"] for row in rows if "record" in row]
    made = sorted({f"`{one['commit']}` on {one['device']}" for one in records})
    seconds = sum(one["duration_s"] for one in records)
    table = [[*head[:-1], "seconds", "run"], ["---:"] * (len(head) - 1) + ["---:", ":---"]]
    for row, line in zip(rows, lines, strict=True):
        page = f"[done]({Path(row['page']).stem}.ipynb)" if "page" in row else "**failed**"
        spent = f"{row['record']['duration_s']:.1f}" if "record" in row else ""
        table.append([*map(_cell, line[:-1]), spent, page])
    text = [
        f"# Sweep: {chapter.title}",
        f"{len(records)} of {len(rows)} points done. {seconds:,.1f} seconds of computing in all. "
        f"Code: {', '.join(made) or 'none'}.",
        f"To repeat it:\n\n```bash\n{command}\n```",
        "The folder of the sweep holds `table.csv`, the same table, and `table.json`, the records "
        "of all runs.",
        "\n".join(f"| {' | '.join(cells)} |" for cells in table),
    ]
    for row in rows:
        if row["state"] == "failed":
            point = ", ".join(f"{name}={value}" for name, value in row["parameters"].items())
            log = f"\n\nThe whole traceback: `{row['log']}`" * bool(row["log"])
            text.append(f"## Failed: `{point}`\n\n~~~~~text\n{row['problem']}\n~~~~~{log}")
    return "\n\n".join(text) + "\n"


def _cell(value: Any) -> str:
    """A number to six digits, or a text as it is, whatever signs it holds."""
    if isinstance(value, bool | str):
        return f"`{value}`".replace("|", "\\|") if value != "" else ""
    return f"{value:.6g}"
