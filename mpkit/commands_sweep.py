"""The command ``mpkit sweep``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from mpkit.commands_cluster import cluster_options, place_of


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
    help="A parameter and its values; repeated, every value meets every other.",
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
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the summary and the pages. [default: _build/sweeps/CHAPTER-KEY]",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="Seconds that each run may take.",
)
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
    from mpkit import chapters as book
    from mpkit.files import claimed
    from mpkit.progress import Bar
    from mpkit.running import at_home
    from mpkit.slurm import Slurm
    from mpkit.summaries import build_pages, claim, summarized, write_summary
    from mpkit.sweeping import Point, points_of, sweep_key
    from mpkit.sweeping import sweep as run

    root = book.book_root()
    wanted = book.chapter(root, chapter)
    base = book.profile(root, profile)[chapter] if profile else {}
    names = [name for name, _ in grid]
    base = {name: value for name, value in base.items() if name not in names}
    twice = sorted({name for name, _ in given if [n for n, _ in given].count(name) > 1})
    if twice:
        raise book.ChapterError(f"-p: {', '.join(twice)} twice; give one value")
    asked = [(name, [v.strip() for v in text.split(",") if v.strip()]) for name, text in grid]
    points = points_of(wanted, {**base, **dict(given)}, asked)
    points = [Point(one.varied, at_home(one.parameters)) for one in points]
    place = place_of(scheduler, slurm, workers, gpu)
    key = sweep_key(wanted, points)
    folder = (output or root / "_build" / "sweeps" / f"{chapter}-{key}").resolve()
    if dry_run:
        click.echo("\n".join(map(str, points)) + f"\n{len(points)} points, into {folder}")
        if isinstance(place, Slurm):
            click.echo(place.script())
        return
    claim(folder, key)
    with claimed(folder / ".lock") as alone:
        if not alone:
            raise book.ChapterError(f"another sweep is at work in {folder}: wait for its end")
        bar = Bar(f"sweep of {chapter}", unit="point")
        outcomes = run(root, wanted, points, place, timeout, bar)
        if not no_pages:
            build_pages(root, wanted, outcomes, folder, workers or 2)
        command = shlex.join(["mpkit", *sys.argv[1:]])
        page = write_summary(wanted, command, outcomes, folder)
    click.echo(summarized(outcomes))
    click.echo(f"page:  {page}\ntable: {folder / 'table.csv'}")
    if any(one.notebook is None for one in outcomes):
        raise click.exceptions.Exit(1)
