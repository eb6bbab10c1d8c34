"""Work in a child process, so that the memory that a library does not give back ends with it."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class Failed(RuntimeError):
    """What was raised in the child, by its name and message."""


def apart(work: Callable[..., Any], *given: Any) -> Any:
    """Call a function in a forked process; for programs that run on a CPU and on Unix.

    The gradients of torch cannot be taken in a child once the parent has taken one, so a program
    should do all such work apart, or none.

    Args:
        work: what to call; it and its arguments need not be picklable.
        given: its arguments.

    Returns: what it returned, which must be picklable.

    Raises:
        Failed: with the name and message of what was raised, or the signal that ended the child.
    """
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(there, work, given))
    child.start()
    there.close()
    try:
        fine, answer = here.recv()
    except EOFError:
        child.join()
        fine, answer = False, f"ended with exit code {child.exitcode}"
    child.join()
    if not fine:
        raise Failed(answer)
    return answer


def _answer(there: Connection, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    try:
        there.send((True, work(*given)))
    except Exception as error:  # whatever a library raises is its answer
        traceback.print_exc()
        there.send((False, f"{type(error).__name__}: {error}"))
