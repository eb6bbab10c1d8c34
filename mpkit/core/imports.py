"""Names from anybody's module: ``package.module:name``, also from the current folder."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def imported(option: str, spec: str) -> Callable[..., Any]:
    """The function or class that ``package.module:name`` names.

    Args:
        option: such as ``--model``, which begins every message.
        spec: the module, a colon, and a name in it; of a class's own with dots.

    Raises: ValueError: it cannot be imported, or is not to be called.
    """
    module, _, name = spec.partition(":")
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:
        raise ValueError(f"{option}: {spec} cannot be imported: {told(error)}") from error
    if not callable(found):
        kind = type(found).__name__
        raise ValueError(f"{option}: {spec} is a {kind}, not a function or class")
    return found


def told(error: BaseException) -> str:
    """Class, first line and place of an error, in one line."""
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg} ({error.filename}, line {error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    ours = str(Path(__file__).parents[1])
    own = [f for f in frames if not f.filename.startswith((ours, inspect.__file__, "<frozen"))]
    own = [f for f in own if "importlib" not in f.filename]
    place = f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""
    words = str(error).splitlines()[0] if str(error) else "without a word"
    return f"{type(error).__name__}: {words}{place}"
