"""What a sweep leaves to look at: one page, one table, and the page of every run."""

from __future__ import annotations

import csv
import html
import io
import json
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mpbook.pages.chapters import Chapter, ChapterError
from mpbook.pages.rendering import MARK, check_target, is_current, render
from mpbook.pages.sweep import Outcome
from mpkit.core.files import write_atomically
from mpkit.core.records import declared, write_record, write_text

STYLE = """
:root { color-scheme: light dark; --line: #8885; --bad: light-dark(#a3171f, #ff9c94); }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; }
code { overflow-wrap: anywhere; }
a { color: light-dark(#0b5cad, #8cc4ff); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .4rem .7rem; text-align: left; }
td.number { text-align: right; }
.bad { color: var(--bad); font-weight: 600; }
pre { border: 1px solid var(--line); padding: .6rem; font-size: .85rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def rows_of(outcomes: Sequence[Outcome], folder: Path) -> list[dict[str, Any]]:
    """The table as plain data, one row a point: parameters, results, record, page, problem.

    Args:
        outcomes: of a sweep.
        folder: where the summary stands; pages are named relative to it, if they are there.
    """
    rows = []
    for one in outcomes:
        row: dict[str, Any] = {"parameters": one.point.varied, "key": one.key, "results": {}}
        if one.notebook is None:
            log = _log(folder, one)
            rows.append(row | {"state": "failed", "problem": one.problem, "log": log})
            continue
        content = json.loads(one.notebook.read_text(encoding="utf-8"))
        page = Path("pages", "book", f"{one.notebook.stem}.html")
        row |= {"state": "done", "results": declared(content)}
        row |= {"record": content["metadata"]["mpkit"], "notebook": f"notebooks/{one.key}.ipynb"}
        rows.append(row | {"page": page.as_posix() if (folder / page).is_file() else None})
    return rows


def write_summary(
    chapter: Chapter, command: str, outcomes: Sequence[Outcome], folder: Path
) -> Path:
    """Write the table (CSV and JSON), the notebooks and the page; returns the page.

    The CSV holds only what two equal sweeps share: no times, no commits.

    Args:
        chapter: what was swept.
        command: what to type to do it again.
        outcomes: how every point ended.
        folder: where everything goes.
    """
    for one in outcomes:
        if one.notebook is not None:
            text = one.notebook.read_text(encoding="utf-8")
            write_text(folder / "notebooks" / f"{one.key}.ipynb", text)
        elif one.log:
            write_text(folder / _log(folder, one), one.log + "\n")
    rows = rows_of(outcomes, folder)
    head = _columns(rows)
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow([*(name for _, name in head), "state"])
    for row in rows:
        writer.writerow([*(row[part].get(name, "") for part, name in head), row["state"]])
    write_text(folder / "table.csv", sheet.getvalue())
    about = {"chapter": chapter.id, "title": chapter.title, "command": command}
    write_record(folder / "table.json", {**about, "points": rows})
    write_text(folder / "index.html", _page(chapter, command, rows, head))
    return folder / "index.html"


def build_pages(
    root: Path, chapter: Chapter, outcomes: Sequence[Outcome], folder: Path, jobs: int
) -> None:
    """Render the page of every finished run into one site, ``pages``; those there stay.

    Args:
        root: the checkout.
        chapter: what was swept.
        outcomes: how every point ended.
        folder: of the summary.
        jobs: pages built at the same time.
    Raises: ChapterError: a build failed; pages built before it are kept.
    """
    site = folder / "pages"
    paths = [one.notebook for one in outcomes if one.notebook is not None]
    left = [path for path in paths if not (site / "book" / f"{path.stem}.html").is_file()]
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".pages-") as scratch,
        ThreadPoolExecutor(jobs) as pool,
    ):

        def build(path: Path) -> None:
            own = Path(scratch) / path.stem
            render(root, {path.stem: path}, own, options=(), only=f"book/{path.stem}")
            page = own / "book" / f"{path.stem}.html"
            aside = page.rename(own / ".page")
            hidden = shutil.ignore_patterns(".*")
            shutil.copytree(own, site, ignore=hidden, copy_function=_add, dirs_exist_ok=True)
            aside.replace(site / "book" / page.name)

        futures = [pool.submit(build, path) for path in left]
        try:
            problems = [str(error) for error in (one.exception() for one in futures) if error]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if problems:
        raise ChapterError(f"{len(problems)} pages of {chapter.id} were not built: {problems[0]}")


def _add(source: str, target: str) -> None:
    """Copy a file whole, unless it is there: what pages share is the same for all of them."""
    if not Path(target).exists():
        content = Path(source).read_bytes()
        write_atomically(Path(target), lambda file: file.write(content))


def summarized(outcomes: Sequence[Outcome]) -> str:
    """How a sweep went, in a few lines for a terminal."""
    failed = [one for one in outcomes if one.notebook is None]
    lines = [f"{one.point}:\n  {one.problem}" for one in failed[:5]]
    lines += [f"... and {len(failed) - 5} more"] * (len(failed) > 5)
    return "\n".join(
        [
            *lines,
            f"{len(outcomes)} points: {len(outcomes) - len(failed)} done"
            + f", {len(failed)} failed" * bool(failed),
        ]
    )


def claim(folder: Path, key: str) -> None:
    """Mark a folder as that of one sweep, before anything is put there.

    Raises: ChapterError: it holds another sweep, or something else.
    """
    check_target(folder)
    mark = {"key": f"sweep {key}"}
    if (folder / MARK).is_file() and not is_current(folder, mark["key"]):
        raise ChapterError(f"{folder} holds another run or sweep: name another folder")
    write_text(folder / MARK, json.dumps(mark))


def _columns(rows: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """Where each column of the table is found: parameters first, then results."""
    parts = ("parameters", "results")
    return list(dict.fromkeys((part, name) for part in parts for row in rows for name in row[part]))


def _log(folder: Path, one: Outcome) -> str:
    return f"logs/{one.key}.log" if one.log else ""


def _page(
    chapter: Chapter, command: str, rows: Sequence[dict[str, Any]], head: list[tuple[str, str]]
) -> str:
    failed = [row for row in rows if row["state"] == "failed"]
    say = html.escape
    names = "".join(f'<th scope="col">{say(name)}</th>' for _, name in head)
    lines = "\n".join(_line(row, head) for row in rows)
    problems = "\n".join(
        f"<h3>{say(_point(row))}</h3>\n<pre>{say(row['problem'])}</pre>"
        + (f'<p><a href="{row["log"]}">The whole traceback</a></p>' if row["log"] else "")
        for row in failed
    )
    records = [row["record"] for row in rows if "record" in row]
    made = sorted({f"{one['commit']} on {one['device']}" for one in records})
    seconds = sum(one["duration_s"] for one in records)
    count = f"{len(rows) - len(failed)} of {len(rows)} points done"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sweep: {say(chapter.title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Sweep: {say(chapter.title)}</h1>
<p>{count}{f', <span class="bad">{len(failed)} failed</span>' if failed else ""}.
{seconds:,.1f} seconds of computing in all. Code: {say(", ".join(made) or "none")}.</p>
<p>To repeat it: <code>{say(command)}</code></p>
<p>The table as <a href="table.csv">CSV</a> and, with the record of every run, as
<a href="table.json">JSON</a>.</p>
<div class="wide" role="region" aria-label="Results" tabindex="0">
<table>
<thead><tr>{names}<th scope="col">seconds</th><th scope="col">run</th></tr></thead>
<tbody>
{lines}
</tbody>
</table>
</div>
{"<h2>What failed</h2>" if failed else ""}
{problems}
</main>
</body>
</html>
"""


def _line(row: dict[str, Any], head: list[tuple[str, str]]) -> str:
    cells = [_cell(row[part].get(name, "")) for part, name in head]
    if row["state"] == "failed":
        return f'<tr>{"".join(cells)}<td></td><td class="bad">failed</td></tr>'
    links = [(row["page"], "page"), (row["notebook"], "notebook")]
    shown = " ".join(
        f'<a href="{path}" aria-label="{word}, {html.escape(_point(row))}">{word}</a>'
        for path, word in links
        if path
    )
    cells.append(f'<td class="number">{row["record"]["duration_s"]:.1f}</td><td>{shown}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _cell(value: Any) -> str:
    if isinstance(value, bool | str):
        return f"<td>{html.escape(str(value))}</td>"
    return f'<td class="number">{value:.6g}</td>'


def _point(row: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in row["parameters"].items())
