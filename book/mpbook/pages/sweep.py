"""A sweep: one chapter at every point of a grid, over workers; what is finished is never redone.

The executed notebooks go into the same store as those of ``mpkit run``, under a name that is a
hash of everything that decides their outputs. So a sweep that was killed goes on where it was, and
a sweep over the same points is one look at the store.
"""

from __future__ import annotations

import itertools
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mpbook.pages.chapters import Chapter, ChapterError, Value, workspace
from mpbook.pages.execution import Lost, effective, end_all, execute, run_key
from mpkit.core.cluster import answers, opened
from mpkit.core.progress import Quiet
from mpkit.core.records import device_name, digest, write_text
from mpkit.core.workers import Local, Workers

HALTED: set[str] = set()  # on a worker: keys of tasks that nobody waits for any more


@dataclass(frozen=True)
class Point:
    """One point of a grid.

    Args:
        varied: the parameters of the grid, with the values of this point.
        parameters: all parameters that are given, those of the grid included.
    """

    varied: dict[str, Value]
    parameters: dict[str, Value]

    def __str__(self) -> str:
        """Such as ``eps=0.1, scheme=avg``."""
        return ", ".join(f"{name}={value}" for name, value in self.varied.items())


class Outcome(NamedTuple):
    """How a point ended: its run's key, the notebook or None, what stopped it, and a traceback."""

    point: Point
    key: str
    notebook: Path | None
    problem: str = ""
    log: str = ""


class Ran(NamedTuple):
    """What a worker sends back: the text of a notebook, or a problem and its log."""

    text: str
    problem: str = ""
    log: str = ""


def points_of(
    chapter: Chapter, base: Mapping[str, Any], grid: Sequence[tuple[str, Sequence[str]]]
) -> list[Point]:
    """All points of a grid, checked, the last parameter varying fastest.

    Args:
        base: parameters that are the same at all points, by name.
        grid: names with the texts of their values.
    Raises: ChapterError: the grid is empty, names a parameter twice, or a value is unfit.
    """
    names = [name for name, _ in grid]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ChapterError(f"--grid: {', '.join(twice)} twice; give all its values at once")
    both = sorted(set(names) & set(base))
    if both:
        raise ChapterError(f"--grid and -p both give {', '.join(both)}; give it once")
    if not grid or not all(values for _, values in grid):
        raise ChapterError("--grid: nothing to sweep; give values, as in --grid eps=0.1,0.2,0.3")
    if "device" in names:
        raise ChapterError("--grid: device cannot be swept; give -p device=cpu, or use --gpu")
    fixed = chapter.check(base)
    columns = []
    for name, texts in grid:
        values = [chapter.check({name: text})[name] for text in texts]
        if len(set(values)) < len(values):
            raise ChapterError(f"--grid: {name} has a value twice: {', '.join(texts)}")
        columns.append([(name, value) for value in values])
    return [Point(dict(one), {**fixed, **dict(one)}) for one in itertools.product(*columns)]


def sweep(
    root: Path,
    chapter: Chapter,
    points: Sequence[Point],
    place: Workers,
    timeout: float,
    progress: Quiet,
) -> list[Outcome]:
    """Run the chapter at every point that was not run before.

    The checkout, ``root``, lies on a file system that all workers share; each run may take
    ``timeout`` seconds, and ``progress`` is told of every finished point.

    Returns: how every point ended, in their order.
    Raises:
        ClusterError: the workers are unfit, or the scheduler was lost; finished points are kept.
    """
    store = workspace(root) / "_build" / "executed"
    device = str(effective(chapter, points[0].parameters).get("device", "cpu"))
    if isinstance(place, Local) and not place.gpus:
        here = _missing(chapter, points, store, device_name(device))
        if not any(outcome.notebook is None for outcome in here):
            return here
    with opened(place, len(points), device) as (client, ground):
        found = {one.key: one for one in _missing(chapter, points, store, ground.device)}
        left = [one for one in found.values() if one.notebook is None]
        progress.start(len(found), len(found) - len(left))
        tasks = {f"{chapter.id}-{one.key}-{uuid.uuid4().hex}": one for one in left}
        jobs = {
            task: (task, chapter, one.point.parameters, ground.device, one.key, timeout)
            for task, one in tasks.items()
        }
        try:
            for task, answer in answers(client, ground, run_point, jobs, halt):
                one = tasks[task]
                found[one.key] = _kept(store, chapter, one, answer)
                progress.advance(1, str(one.point))
        finally:
            progress.close()
    return list(found.values())


def _missing(chapter: Chapter, points: Sequence[Point], store: Path, machine: str) -> list[Outcome]:
    """The points with the notebooks that are there."""
    outcomes = []
    for point in points:
        key = run_key(chapter, point.parameters, machine)
        path = store / f"{chapter.id}-{key}.ipynb"
        outcomes.append(Outcome(point, key, path if path.is_file() else None))
    return outcomes


def _kept(store: Path, chapter: Chapter, one: Outcome, answer: Any) -> Outcome:
    """Write what a worker sent, or note the problem."""
    if isinstance(answer, BaseException):
        return one._replace(problem=f"{type(answer).__name__}: {answer}")
    if answer.problem:
        return one._replace(problem=answer.problem, log=answer.log)
    path = store / f"{chapter.id}-{one.key}.ipynb"
    write_text(path, answer.text)
    return one._replace(notebook=path)


def run_point(
    task: str,
    chapter: Chapter,
    parameters: Mapping[str, Value],
    machine: str,
    key: str,
    timeout: float,
) -> Ran:
    """Execute the chapter once; runs on a worker. A process that died is tried a second time."""
    if not chapter.path.is_file() or run_key(chapter, parameters, machine) != key:
        raise ChapterError(
            f"the worker finds no such chapter, or another one, at {chapter.path}; a sweep needs "
            "the same checkout at the same path on all machines, as on a shared file system"
        )
    with tempfile.TemporaryDirectory(prefix="mpkit-") as folder:
        store = Path(folder)

        def watch(done: int, cells: int) -> None:
            if task in HALTED:
                raise ChapterError("nobody waits for it any more")

        def attempt() -> Ran:
            done = execute(
                chapter, parameters, store, profile="sweep", timeout=timeout, report=watch
            )
            return Ran(done.read_text(encoding="utf-8"))

        try:
            try:
                return attempt()
            except Lost:
                watch(0, 0)
                return attempt()
        except ChapterError as error:
            log = store / f"{chapter.id}.log"
            lines = [line for line in str(error).splitlines() if str(log) not in line]
            text = log.read_text(encoding="utf-8") if log.is_file() else ""
            return Ran("", "\n".join(lines), text)


def halt(tasks: list[str]) -> None:
    """End what runs for these tasks; runs on a worker that is at one of them."""
    HALTED.update(tasks)
    end_all()


def sweep_key(chapter: Chapter, points: Sequence[Point]) -> str:
    """A name for a sweep: the chapter and what is asked of it, whatever the code is."""
    return digest(chapter.id, [point.parameters for point in points])[:16]
