"""The commands that run pages: ``mpkit chapters``, ``run``, ``book``, ``handout`` and others."""

from __future__ import annotations

import csv
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from mpkit.cli.options import Seconds, cluster_options, count, folder, workers_of

jobs_option = count("--jobs", default=2, help="Chapters executed at the same time.")


def timeout_option(what: str) -> Callable[[Any], Any]:
    """The option ``--timeout`` of a command that runs chapters."""
    text = f"Seconds that {what} may take."
    return click.option("--timeout", type=Seconds(), default=3600.0, show_default=True, help=text)


@click.command("chapters")
@click.option("--json", "form", flag_value="json", help="Print a list of objects instead.")
def list_chapters(form: str | None) -> None:
    """List the chapters with their parameters, types, defaults and meanings."""
    from mpbook.pages import chapters

    found = chapters.chapters(chapters.book_root())
    if form == "json":
        click.echo(json.dumps([one.describe() for one in found], indent=2))
        return
    for one in found:
        click.echo(f"{click.style(one.id, bold=True)}  {one.title}")
        for p in one.parameters:
            click.echo(f"    {p.name}: {p.type} = {p.default!r}\n        {p.help}")


@click.command()
@click.argument("chapter")
@click.option(
    "-p",
    "--parameter",
    "given",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="A new value for a parameter; may be repeated. See: mpkit chapters.",
)
@folder(
    "--output", help="Folder for the notebook and the pages. [default: _build/runs/CHAPTER-KEY]"
)
@click.option("--force", is_flag=True, help="Execute again, and replace what stands in --output.")
@timeout_option("the chapter")
def run(
    chapter: str,
    given: tuple[tuple[str, str], ...],
    output: Path | None,
    force: bool,
    timeout: float,
) -> None:
    """Execute CHAPTER with new parameters and render it into pages of its own.

    An identical earlier run is reused. Nothing that looks finished is left behind by a run that
    fails, is interrupted or is killed.

    \b
    Examples:
      mpkit run geometries -p steps 20
      mpkit run geometries -p dataset folder:my_images --output my_pages
    """
    from mpbook.pages.chapters import ChapterError, book_root
    from mpbook.pages.running import run_chapter

    repeated = {name for name, _ in given if [n for n, _ in given].count(name) > 1}
    if repeated:
        raise ChapterError(f"parameter given twice: {', '.join(sorted(repeated))}")
    done = run_chapter(book_root(), chapter, dict(given), output, force, timeout)
    click.echo(f"notebook: {done.notebook}\npage:     {done.page}")


@click.command()
@click.option(
    "--no-execute", is_flag=True, help="Render the outputs that are committed; execute nothing."
)
@click.option(
    "--profile",
    default="quick",
    show_default=True,
    help="Parameters for every chapter: a file of book/profiles/.",
)
@click.option(
    "--no-solutions",
    is_flag=True,
    help="Leave the solutions out, and render into _build/course: the book of a course.",
)
@jobs_option
def book(no_execute: bool, profile: str, no_solutions: bool, jobs: int) -> None:
    """Execute every chapter and render the book into _build/html.

    Chapters that did not change since their last run are not executed again.
    """
    from mpbook.pages.chapters import book_root
    from mpbook.pages.running import build_book

    page = build_book(book_root(), None if no_execute else profile, jobs, not no_solutions)
    click.echo(f"The book is ready. Open {page}")


@click.command()
@click.argument("names", nargs=-1, metavar="[CHAPTER]...")
@jobs_option
def refresh(names: tuple[str, ...], jobs: int) -> None:
    """Execute the committed notebooks in place (all, or only CHAPTER...).

    What differs between two equal runs is scrubbed, and numbers that moved by no more than their
    cell allows are kept, so an execution that changes nothing leaves the files as they are.
    """
    from mpbook.pages.chapters import book_root
    from mpbook.pages.running import refresh_chapters

    for path, state in refresh_chapters(book_root(), names, jobs):
        click.echo(f"{path}: {state}")


@click.command()
@click.argument("chapter")
@folder("--output", help="Folder for the two notebooks. [default: _build/handouts]")
def handout(chapter: str, output: Path | None) -> None:
    """Write CHAPTER for a course: with blanks for those who solve it, and solved.

    A blank keeps what a function is called, what it takes and what it should do; the cell of
    tests below it stops at the first mistake. Solutions in words are left out.

    \b
    Examples:
      mpkit handout primer
      mpkit handout slide --output course/week-3
    """
    from mpbook.pages import chapters
    from mpbook.pages.handout import hand_out

    root = chapters.book_root()
    place = output or chapters.workspace(root) / "_build" / "handouts"
    done = hand_out(chapters.chapter(root, chapter), place.resolve())
    click.echo(f"to solve: {done.blanks}\nsolved:   {done.solved}")


class Assigned(click.ParamType[tuple[str, str]]):
    """A name and a text, written ``name=text``."""

    name = "name=value"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the first equals sign."""
        name, sign, text = value.partition("=")
        if not sign or not name.strip():
            self.fail(f"{value!r} is not name=value, such as eps=0.1", param, ctx)
        return name.strip(), text.strip()


@click.command()
@click.argument("chapter")
@click.option(
    "--grid",
    type=Assigned(),
    multiple=True,
    metavar="NAME=VALUE,VALUE",
    help="A parameter and its values; repeated, every value meets every other. A value with a "
    "comma goes into double quotes.",
)
@click.option(
    "-p",
    "--parameter",
    "given",
    type=Assigned(),
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter that is the same at all points; may be repeated.",
)
@click.option("--profile", help="Begin with the parameters of a file of book/profiles/.")
@cluster_options
@folder(
    "--output", help="Folder for the summary and the pages. [default: _build/sweeps/CHAPTER-KEY]"
)
@timeout_option("each run")
@click.option("--no-pages", is_flag=True, help="Do not render a page for every run.")
@click.option("--dry-run", is_flag=True, help="Say what would be run, and start nothing.")
def sweep(
    chapter: str,
    grid: tuple[tuple[str, str], ...],
    given: tuple[tuple[str, str], ...],
    profile: str | None,
    scheduler: str | None,
    slurm: Path | None,
    workers: int | None,
    gpu: bool,
    output: Path | None,
    timeout: float,
    no_pages: bool,
    dry_run: bool,
) -> None:
    """Execute CHAPTER at every point of a grid, on several workers.

    Points that were run before are not run again, so a sweep that was stopped or killed goes on
    where it was. A point that fails is reported while the others go on; only a run whose worker
    died is tried again. At the end: a table, a page with links, and the page of every run.

    \b
    Examples:
      mpkit sweep geometries --grid steps=5,10,20 --grid seed=0,1,2
      mpkit sweep geometries --grid steps=5,10 -p points=100 --workers 2
      mpkit sweep geometries --grid seed=0,1,2,3 --scheduler tcp://10.0.0.7:8786 --gpu
      mpkit sweep geometries --grid seed=0,1,2,3 --slurm slurm.yml --dry-run
    """
    from mpbook.pages import chapters
    from mpbook.pages.running import at_home
    from mpbook.pages.sweep import Point, points_of, sweep_key
    from mpbook.pages.sweep import sweep as run
    from mpbook.pages.sweep_report import build_pages, claim, summarized, write_summary
    from mpkit.core.files import claimed
    from mpkit.core.progress import Bar
    from mpkit.core.workers import Slurm

    root = chapters.book_root()
    wanted = chapters.chapter(root, chapter)
    base = chapters.profile(root, profile)[chapter] if profile else {}
    names = [name for name, _ in grid]
    base = {name: value for name, value in base.items() if name not in names}
    twice = sorted({name for name, _ in given if [n for n, _ in given].count(name) > 1})
    if twice:
        raise chapters.ChapterError(f"-p: {', '.join(twice)} twice; give one value")
    try:
        values = [next(csv.reader([text], skipinitialspace=True), []) for _, text in grid]
    except csv.Error as error:
        raise chapters.ChapterError(f"--grid: values cannot be read ({error})") from error
    asked = [
        (name, [v.strip() for v in vs if v.strip()])
        for (name, _), vs in zip(grid, values, strict=True)
    ]
    points = points_of(wanted, {**base, **dict(given)}, asked)
    points = [Point(one.varied, at_home(one.parameters)) for one in points]
    place = workers_of(scheduler, slurm, workers, gpu)
    key = sweep_key(wanted, points)
    folder = (
        output or chapters.workspace(root) / "_build" / "sweeps" / f"{chapter}-{key}"
    ).resolve()
    if dry_run:
        click.echo("\n".join(map(str, points)) + f"\n{len(points)} points, into {folder}")
        if isinstance(place, Slurm):
            click.echo(place.script())
        return
    claim(folder, key)
    with claimed(folder / ".lock") as alone:
        if not alone:
            raise chapters.ChapterError(f"another sweep is at work in {folder}: wait for its end")
        bar = Bar(f"sweep of {chapter}", unit="point")
        outcomes = run(root, wanted, points, place, timeout, bar)
        command = shlex.join(["mpkit", *sys.argv[1:]])
        page = write_summary(wanted, command, outcomes, folder)
        if not no_pages:
            page = build_pages(root, outcomes, folder)
    click.echo(summarized(outcomes))
    click.echo(f"page:  {page}\ntable: {folder / 'table.csv'}")
    if any(one.notebook is None for one in outcomes):
        raise click.exceptions.Exit(1)
