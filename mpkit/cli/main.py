"""The command line: see ``mpkit --help`` and ``mpkit COMMAND --help``."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TextIO

import click

from mpkit import __version__
from mpkit.cli.audit import audit
from mpkit.cli.doctor import doctor
from mpkit.cli.evaluate import evaluate
from mpkit.cli.gauge import gauge
from mpkit.cli.options import root
from mpkit.cli.train import recipes, reproduce, train
from mpkit.cli.verify import verify
from mpkit.core.files import refused

PROBLEM, INTERRUPTED, UNHEARD, TERMINATED = 1, 130, 141, 143


class Problem(click.ClickException):
    """A short message on standard error and exit code 1, never a traceback."""

    exit_code = PROBLEM


class Group(click.Group):
    """A group of commands that turns expected errors into short messages."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **words: Any) -> Any:
        """Run what the command line says, in UTF-8, whatever the locale."""
        if args is None and sys.getfilesystemencoding() != "utf-8":
            os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:replace")
            os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
        return super().main(args, *rest, **words)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; say in a few words what stopped it."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
        if sys.stderr is None or sys.stdout is None:  # closed, so that nobody listens
            sys.stderr, sys.stdout = (s or _nobody() for s in (sys.stderr, sys.stdout))
        try:
            from mpkit.core import memory

            memory.keep()
            for stream in (sys.stdout, sys.stderr):  # a terminal without Greek letters shows ?
                if isinstance(stream, io.TextIOWrapper):
                    stream.reconfigure(errors="replace")
            return super().invoke(ctx)
        except BrokenPipeError:  # of a reader that has seen enough, such as head
            for number in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            sys.exit(UNHEARD)
        except OSError as error:
            raise Problem(refused(error)) from error
        except ValueError as error:
            raise Problem(str(error)) from error
        except RuntimeError as error:
            if not type(error).__module__.startswith("mpkit."):
                raise
            raise Problem(str(error)) from error
        except SystemExit as error:
            if error.code == TERMINATED:
                raise
            raise Problem(
                f"the model, or the data, ended the process (exit code {error.code}): look for "
                "exit in their code"
            ) from error
        except ModuleNotFoundError as error:
            raise Problem(
                f"the package {error.name!r} is missing: install the book's tools with "
                "pip install 'mpkit[book]', or run make book"
            ) from error
        except KeyboardInterrupt as error:
            kept = str(error) or "what was not finished was not kept."
            click.echo(f"Interrupted: {kept}", err=True)
            sys.exit(INTERRUPTED)


def _nobody() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpkit")
def main() -> None:
    """Robustness to several kinds of perturbation at once: run the book, on your data too."""


@main.command()
@click.argument("name")
@click.option("--download", is_flag=True, help="Fetch what is missing (needs a network).")
@root
def data(name: str, download: bool, root: Path | None) -> None:
    """Say where the data set NAME stands and check it: digits, mnist, cifar10 or folder:PATH."""
    from mpkit.data import download as fetch
    from mpkit.data import load, where

    if download:
        fetch(name, root)
    for split in ("train", "test"):
        images = load(name, split, root)
        size = "x".join(str(n) for n in images.shape)
        click.echo(f"{name} {split}: {len(images)} images {size}, {len(images.classes)} classes")
    click.echo(f"from: {where(name, root)}")


for command in (evaluate, verify, gauge, doctor, audit, train, recipes, reproduce):
    main.add_command(command)
for further in entry_points(group="mpkit.commands"):  # those of the book
    main.add_command(further.load(), further.name)

if __name__ == "__main__":
    main()
