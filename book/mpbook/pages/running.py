"""What the commands ``run``, ``book`` and ``refresh`` do: execute, reuse, render, report."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from mpbook.pages import chapters
from mpbook.pages.chapters import INSTALLED, Chapter, ChapterError, Value, workspace
from mpbook.pages.execution import Report, effective, end_all, execute, run_key, stored, to_text
from mpbook.pages.rendering import MARK, STRICT, check_target, is_current, render, site_key
from mpbook.pages.tolerance import Tolerance, settled
from mpkit.core.files import require_room, scratch
from mpkit.core.processor import ONE_ARITHMETIC
from mpkit.core.records import VOLATILE, digest, write_text
from mpkit.data.own import ARRAYS, is_own

Job = tuple[Chapter, Mapping[str, Value]]


class Done(NamedTuple):
    """The two files that a run leaves: the executed notebook and the page made from it."""

    notebook: Path
    page: Path


def run_chapter(
    root: Path,
    name: str,
    given: Mapping[str, Any],
    output: Path | None = None,
    force: bool = False,
    timeout: float = 3600.0,
) -> Done:
    """Execute one chapter with new parameters and render it, or reuse an identical earlier run.

    Args:
        given: parameter name to value or its text; the others keep their defaults.
        output: folder for the result; by default one named after the run under ``_build/runs``.
        force: execute again and replace a different run in ``output``.
        timeout: seconds that the chapter may take.
    Raises:
        ChapterError: anything that keeps the run from being finished; the message says what,
            where and the remedy. Nothing is left in ``output`` then that was not there before.
    """
    from mpkit.core.devices import resolve_device

    chapter = chapters.chapter(root, name)
    parameters = at_home(chapter.check(given))
    resolve_device(str(effective(chapter, parameters).get("device", "cpu")))
    key = run_key(chapter, parameters)
    built = workspace(root) / "_build"
    output = (output or built / "runs" / f"{name}-{key}").resolve()
    check_target(output)
    require_room(output)
    done = Done(output / f"{name}.ipynb", output / "html" / "book" / f"{name}.html")
    store = built / "executed"
    require_room(store)
    notebook = stored(chapter, parameters, store)
    if not force and is_current(output, digest(key, site_key(root, {}))):
        return done
    if not force and (output / MARK).is_file():
        raise ChapterError(f"{output} holds another run: name another folder, or add --force")
    if force or not notebook.is_file():
        profile = "quick" if not parameters else "custom"
        with _told([(chapter, parameters)]) as report:
            notebook = execute(
                chapter, parameters, store, profile=profile, timeout=timeout, report=report
            )
    with scratch(output.parent) as place:
        new = place / "new"
        tqdm.write("rendering the page", file=sys.stderr)
        render(root, {name: notebook}, new / "html", options=(), brief=True)
        shutil.copy(notebook, new / f"{name}.ipynb")
        write_text(new / MARK, json.dumps({"key": digest(key, site_key(root, {}))}))
        if output.exists():
            output.rename(place / "old")
        new.rename(output)
    return done


def build_book(
    root: Path, profile: str | None = "quick", jobs: int = 2, solutions: bool = True
) -> Path:
    """Execute every chapter that changed, and render the book into ``_build/html``.

    Args:
        profile: a file of ``book/profiles``, or None to render the committed outputs.
        jobs: chapters executed at the same time.
        solutions: whether exercises are shown with them; the book without them, for a course,
            goes into ``_build/course``.
    Returns: the front page.
    Raises:
        ChapterError: a chapter failed (the others were finished and are kept), or the build did.
    """
    site = workspace(root) / "_build" / ("html" if solutions else "course")
    check_target(site)
    require_room(site)
    executed: dict[str, Path] = {}
    if profile is not None:
        given = chapters.profile(root, profile)
        work = [(chapter, given[chapter.id]) for chapter in chapters.chapters(root)]
        executed = execute_all(work, workspace(root) / "_build" / "executed", profile, jobs)
    if is_current(site, site_key(root, executed, solutions)):
        return site / "index.html"
    return render(root, executed, site, STRICT, solutions=solutions)


def refresh_chapters(root: Path, names: Sequence[str], jobs: int = 1) -> Iterator[tuple[Path, str]]:
    """Execute committed notebooks in place with their defaults.

    A notebook is written only if something other than commit, date, duration and machine came out
    differently, or if its record was made from uncommitted code. Numbers that moved by no more than
    their cell allows stay as they are stored, so that two machines do not contradict one another.

    Args:
        names: ids of chapters; empty for all.
        jobs: chapters executed at the same time.
    Returns: pairs of notebook and what happened to it.
    Raises:
        ChapterError: a chapter failed; it, those beside it and those after it are untouched.
        OSError: the book cannot be written; nothing was executed then.
    """
    wanted = [chapters.chapter(root, name) for name in names] or chapters.chapters(root)
    if root == INSTALLED:
        raise ChapterError("the installed book is not made anew in place: go to a clone of it")
    require_room(root / "book")
    with tempfile.TemporaryDirectory(prefix="mpkit-") as store:
        for start in range(0, len(wanted), jobs):
            beside = wanted[start : start + jobs]
            done = execute_all([(one, {}) for one in beside], Path(store), "quick", jobs)
            for chapter in beside:
                yield chapter.path, _refresh(chapter.path, done[chapter.id])


def _refresh(path: Path, executed: Path) -> str:
    """Put an executed notebook in the place of the committed one; say whether it changed."""
    new, old = (json.loads(one.read_text(encoding="utf-8")) for one in (executed, path))
    _settle(new, old)
    committed = not old["metadata"].get("mpkit", {}).get("commit", "+").endswith("+")
    if committed and _stable(new) == _stable(old):
        return "unchanged"
    write_text(path, to_text(new))
    return "refreshed"


def execute_all(work: Sequence[Job], store: Path, profile: str, jobs: int) -> dict[str, Path]:
    """Execute side by side the chapters that changed; return every chapter's executed notebook.

    Raises: ChapterError: some failed; raised when all have ended, with the words of each.
    """
    found = {chapter.id: stored(chapter, values, store) for chapter, values in work}
    work = [job for job in work if not found[job[0].id].is_file()]
    work.sort(key=lambda job: -_seconds(job[0]))  # the longest first, so that all end together
    if not work:
        return found
    threads = max(1, (os.cpu_count() or 1) // min(jobs, len(work)))
    with _told(work) as report, ThreadPoolExecutor(jobs) as pool:
        run = partial(execute, store=store, profile=profile, report=report, threads=threads)
        futures = [pool.submit(run, *job) for job in work]
        try:
            wait(futures)
        except BaseException:  # an interrupt: waiting threads end when their workers do
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    problems = [str(error) for error in (future.exception() for future in futures) if error]
    if problems:
        raise ChapterError("\n".join(problems))
    new = {chapter.id: future.result() for (chapter, _), future in zip(work, futures, strict=True)}
    return found | new


def _seconds(chapter: Chapter) -> float:
    """How long a chapter took when it was committed; 0 if that is not told."""
    known = json.loads(chapter.path.read_text(encoding="utf-8"))["metadata"].get("mpkit", {})
    return float(known.get("duration_s", 0))


def at_home(parameters: Mapping[str, Value]) -> dict[str, Value]:
    """Make the path of one's own images absolute: the chapter runs in another folder.

    Raises: ChapterError: they come from a function, whose answer may change unseen.
    """
    name = str(parameters.get("dataset", ""))
    kind, _, path = name.partition(":")
    if kind == "folder":
        return {**parameters, "dataset": f"folder:{Path(path).expanduser().resolve()}"}
    if name.lower().endswith(ARRAYS):
        return {**parameters, "dataset": str(Path(name).expanduser().resolve())}
    if is_own(name):
        raise ChapterError(
            f"dataset: a page cannot tell whether {name} still gives the same images; write them "
            "to a file: numpy.savez(path, x=images, y=labels)"
        )
    return dict(parameters)


def _stable(notebook: Mapping[str, Any]) -> dict[str, Any]:
    """A notebook without what may differ between two equal runs."""
    copy: dict[str, Any] = json.loads(json.dumps(notebook))
    for field in VOLATILE:
        copy["metadata"].get("mpkit", {}).pop(field, None)
    return copy


def _settle(new: dict[str, Any], old: Mapping[str, Any]) -> None:
    """Give a notebook, in place, the stored outputs of every cell that moved by no more than it
    may. Pictures too, if the same code ran, or if it drew them alike and other arithmetic ran."""
    made, known = (one["metadata"].get("mpkit", {}) for one in (new, old))
    here, there = (one.get("settings", {}) for one in (made, known))
    elsewhere = any(here.get(name) != there.get(name) for name in ONE_ARITHMETIC)
    what = "drawing" if elsewhere else "sources"
    same = made[what] == known.get(what)
    for cell, before in zip(new["cells"], old["cells"], strict=True):
        if cell["cell_type"] == before["cell_type"] == "code":
            tolerance = Tolerance.of(cell)
            cell["outputs"] = settled(cell["outputs"], before["outputs"], tolerance, same)


@contextmanager
def _told(work: Sequence[Job]) -> Iterator[Report]:
    """A progress bar over the cells of all chapters."""
    cells = [
        len(json.loads(chapter.path.read_text(encoding="utf-8"))["cells"]) for chapter, _ in work
    ]
    total = sum(cells) + sum(1 for _, given in work if given)
    title = work[0][0].id if len(work) == 1 else f"{len(work)} chapters"
    with tqdm(total=total, unit="cell", desc=title, leave=False, dynamic_ncols=True) as bar:
        yield lambda done, cells: bar.update(done)
