"""The command line: see ``mpkit --help`` and ``mpkit COMMAND --help``."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import click

from mpkit import __version__
from mpkit.commands_doctor import doctor
from mpkit.commands_evaluate import evaluate
from mpkit.commands_sweep import sweep
from mpkit.commands_train import recipes, reproduce, train

PROBLEM = 1
INTERRUPTED = 130


class Problem(click.ClickException):
    """A short message on standard error and exit code 1, never a traceback."""

    exit_code = PROBLEM


class Group(click.Group):
    """A group of commands that turns expected errors into short messages."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; say in a few words what stopped it."""
        from mpkit import heap
        from mpkit.chapters import ChapterError

        heap.keep()
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            return super().invoke(ctx)
        except (ChapterError, ValueError, OSError) as error:
            raise Problem(str(error)) from error
        except RuntimeError as error:
            if not type(error).__module__.startswith("mpkit."):
                raise
            raise Problem(str(error)) from error
        except ModuleNotFoundError as error:
            raise Problem(
                f"the package {error.name!r} is missing: install the book's tools with "
                "pip install 'mpkit[book]', or run make book"
            ) from error
        except KeyboardInterrupt:
            click.echo("Interrupted: what was not finished was not kept.", err=True)
            sys.exit(INTERRUPTED)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpkit")
def main() -> None:
    """Robustness to several kinds of perturbation at once: run the book, on your data too."""


jobs_option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Chapters executed at the same time.",
)


@main.command("chapters")
@click.option("--json", "form", flag_value="json", help="Print a list of objects instead.")
def list_chapters(form: str | None) -> None:
    """List the chapters with their parameters, types, defaults and meanings."""
    from mpkit import chapters as book

    found = book.chapters(book.book_root())
    if form == "json":
        click.echo(json.dumps([one.describe() for one in found], indent=2))
        return
    for one in found:
        click.echo(f"{click.style(one.id, bold=True)}  {one.title}")
        for p in one.parameters:
            click.echo(f"    {p.name}: {p.type} = {p.default!r}\n        {p.help}")


@main.command()
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
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the notebook and the pages. [default: _build/runs/CHAPTER-KEY]",
)
@click.option("--force", is_flag=True, help="Execute again, and replace what stands in --output.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="Seconds that the chapter may take.",
)
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
    from mpkit.chapters import book_root
    from mpkit.running import run_chapter

    repeated = {name for name, _ in given if [n for n, _ in given].count(name) > 1}
    if repeated:
        raise Problem(f"parameter given twice: {', '.join(sorted(repeated))}")
    done = run_chapter(book_root(), chapter, dict(given), output, force, timeout)
    click.echo(f"notebook: {done.notebook}\npage:     {done.page}")


@main.command()
@click.option(
    "--no-execute", is_flag=True, help="Render the outputs that are committed; execute nothing."
)
@click.option(
    "--profile",
    default="quick",
    show_default=True,
    help="Parameters for every chapter: a file of book/profiles/.",
)
@jobs_option
def book(no_execute: bool, profile: str, jobs: int) -> None:
    """Execute every chapter and render the book into _build/html.

    Chapters that did not change since their last run are not executed again.
    """
    from mpkit.chapters import book_root
    from mpkit.running import build_book

    page = build_book(book_root(), None if no_execute else profile, jobs)
    click.echo(f"The book is ready. Open {page}")


@main.command()
@click.argument("names", nargs=-1, metavar="[CHAPTER]...")
@jobs_option
def refresh(names: tuple[str, ...], jobs: int) -> None:
    """Execute the committed notebooks in place (all, or only CHAPTER...).

    What differs between two equal runs is scrubbed, and numbers that moved by no more than their
    cell allows are kept, so an execution that changes nothing leaves the files as they are.
    """
    from mpkit.chapters import book_root
    from mpkit.running import refresh_chapters

    for path, state in refresh_chapters(book_root(), names, jobs):
        click.echo(f"{path}: {state}")


@main.command()
@click.argument("name")
@click.option("--download", is_flag=True, help="Fetch what is missing (needs a network).")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the data. [default: $MPKIT_DATA, else the user's cache]",
)
def data(name: str, download: bool, root: Path | None) -> None:
    """Say where the data set NAME stands and check it: digits, mnist, cifar10 or folder:PATH."""
    from mpkit import data as library

    if download:
        library.download(name, root)
    for split in ("train", "test"):
        images = library.load(name, split, root)
        size = "x".join(str(n) for n in images.shape)
        click.echo(f"{name} {split}: {len(images)} images {size}, {len(images.classes)} classes")
    click.echo(f"from: {library.where(name, root)}")


for command in (evaluate, doctor, train, recipes, reproduce, sweep):
    main.add_command(command)

if __name__ == "__main__":
    main()
