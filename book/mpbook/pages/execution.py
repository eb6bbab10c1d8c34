"""Executing one chapter: in a process of its own, reused when nothing changed, whole or not at all.

An executed chapter is one file, ``<id>-<key>.ipynb``. It is written beside its place and renamed
only when every code cell has run, so a file of that name is always a finished run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mpbook.pages.chapters import Chapter, ChapterError, Value
from mpkit.core import processor
from mpkit.core.files import scratch
from mpkit.core.records import device_name, digest, provenance, source_texts, versions, write_text
from mpkit.data.own import is_own

DRAWING = "mpbook/figures/"  # what turns numbers into pictures
SOURCES = ("mpkit", "mpbook")  # what a chapter may call
EVENT = "mpkit-event "  # begins each line that a worker writes to its parent
WORKERS: set[subprocess.Popen[str]] = set()  # those alive now, so that an interrupt can end them
Report = Callable[[int, int], None]  # cells done since the last call, cells in all


class Lost(ChapterError):
    """The process of a run died under it; nothing says that it would die again."""


def run_key(chapter: Chapter, parameters: Mapping[str, Value], machine: str | None = None) -> str:
    """What decides the outputs of a run: the notebook's cells, the parameters, mpkit's source, the
    versions, the device, the settings and, for one's own images, the files in their folder.

    Args:
        parameters: checked values that differ from the defaults.
        machine: name of the device where another machine runs it (see results.device_name).
    Returns: 16 hexadecimal digits; equal keys mean that an earlier run can be reused.
    """
    notebook = json.loads(chapter.path.read_text(encoding="utf-8"))
    cells = [(cell["cell_type"], cell["source"], cell["metadata"]) for cell in notebook["cells"]]
    values = effective(chapter, parameters)
    machine = machine or device_name(str(values.get("device", "cpu")))
    files = _folder_state(str(values.get("dataset", "")))
    setting = processor.settings(values)
    return digest(
        chapter.id, cells, source_texts(*SOURCES), values, versions(), machine, files, setting
    )[:16]


def effective(chapter: Chapter, parameters: Mapping[str, Value]) -> dict[str, Value]:
    """All parameters of a run: the defaults, with the given ones over them."""
    return {p.name: p.default for p in chapter.parameters} | dict(parameters)


def stored(chapter: Chapter, parameters: Mapping[str, Value], store: Path) -> Path:
    """Where the executed notebook of such a run stands: the file exists if the run finished."""
    return store / f"{chapter.id}-{run_key(chapter, parameters)}.ipynb"


def execute(
    chapter: Chapter,
    parameters: Mapping[str, Value],
    store: Path,
    *,
    profile: str = "quick",
    timeout: float = 3600.0,
    report: Report = lambda done, total: None,
    threads: int | None = None,
) -> Path:
    """Execute a chapter and put it in the store, in place of an equal earlier run.

    Args:
        parameters: checked values (see Chapter.check) that differ from the defaults.
        store: the folder of executed notebooks.
        profile: the name that the page's record gives to this set of parameters.
        timeout: seconds that the whole chapter may take.
        threads: see processor.settings.
    Returns: the path of the executed notebook.
    Raises: ChapterError: a cell stopped, the kernel died, time ran out; the store is as it was.
    """
    target = stored(chapter, parameters, store)
    with scratch(store) as place:
        output = place / "done.ipynb"
        (place / "ipython").mkdir()
        names = [p.name for p in chapter.parameters if p.name in parameters]
        job = {
            "notebook": str(chapter.path),
            "parameters": {name: parameters[name] for name in names},  # in one order, for one key
            "folder": str(chapter.path.parent),
            "output": str(output),
        }
        setting = processor.settings(effective(chapter, parameters), threads)
        apart = {"IPYTHONDIR": str(place / "ipython")}  # nobody's settings
        events = _work(job, timeout, report, {**setting, **apart})
        end = events[-1] if events else {}
        if end.get("event") != "done":
            raise _failure(chapter, end, store, timeout)
        notebook = json.loads(output.read_text(encoding="utf-8"))
        return keep(notebook, chapter, parameters, target, end["seconds"], profile, setting)


def keep(
    notebook: dict[str, Any],
    chapter: Chapter,
    parameters: Mapping[str, Value],
    target: Path,
    seconds: float,
    profile: str,
    setting: Mapping[str, str],
) -> Path:
    """Put a notebook that was executed, and scrubbed, into its place (see stored), with its record.

    It is changed in place; ``seconds`` is the wall time of the run, ``setting`` the environment
    variables it was run with (see processor.settings). For the others see ``execute``.
    """
    root = chapter.path.parents[1]
    made = provenance(effective(chapter, parameters), root, seconds, profile)
    sources = [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    notebook["metadata"]["mpkit"] = {
        **made,
        "settings": dict(setting),
        "sources": digest(sources, source_texts(*SOURCES))[:16],
        "drawing": digest(
            sources, [one for one in source_texts(*SOURCES) if one[0].startswith(DRAWING)]
        )[:16],
        "asked": asked_python(root),
    }
    write_text(target, to_text(notebook))
    return target


def asked_python(root: Path) -> dict[str, str]:
    """The Python that the checkout's lists of packages are made for, by the list's name."""
    patterns = {"environment.yml": r"- python(\S+)", "requirements.lock": r"# for Python (\S+)"}
    found = {}
    for name, pattern in patterns.items():
        path = root / name
        match = re.search(pattern, path.read_text(encoding="utf-8")) if path.is_file() else None
        if match:
            found[name] = match.group(1)
    return found


def to_text(notebook: Mapping[str, Any]) -> str:
    """A notebook as text, in the one form that is committed."""
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _work(
    job: Mapping[str, Any], timeout: float, report: Report, setting: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Run the job in a worker process; return its events, the last of which says how it ended."""
    events: list[dict[str, Any]] = []
    known = {name: value for name, value in os.environ.items() if name != "PYTHONSTARTUP"}
    if "PYTHONPATH" in known:  # the kernel works in another folder
        parts = known["PYTHONPATH"].split(os.pathsep)
        known["PYTHONPATH"] = os.pathsep.join(str(Path(part).absolute()) for part in parts)
    expired = threading.Event()
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "mpbook.pages.kernel"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        encoding="utf-8",
        start_new_session=True,
        env={**known, **setting, "PYDEVD_DISABLE_FILE_VALIDATION": "1", "PYTHONUTF8": "1"},
    )
    WORKERS.add(worker)
    assert worker.stdin and worker.stdout

    def expire() -> None:
        expired.set()
        _end(worker)

    timer = threading.Timer(timeout, expire)
    timer.start()
    try:
        worker.stdin.write(json.dumps(job) + "\n")
        worker.stdin.flush()
        cells = 0
        for line in worker.stdout:
            if not line.startswith(EVENT):
                continue
            event = json.loads(line.removeprefix(EVENT))
            if event["event"] == "start":
                cells = event["cells"]
                report(0, cells)
            elif event["event"] == "cell":
                report(1, cells)
            else:
                events.append(event)
        code = worker.wait()
        if expired.is_set():
            events.append({"event": "timeout"})
        elif not events:
            events.append({"event": "dead", "what": f"the process ended with code {code}"})
        return events
    finally:
        timer.cancel()
        _end(worker)
        WORKERS.discard(worker)


def end_all() -> None:
    """End every worker of this process, whichever thread waits for it."""
    for worker in list(WORKERS):
        _end(worker)


def _end(worker: subprocess.Popen[str]) -> None:
    """End a worker and, through it, its kernel: gently first, then for certain."""
    if worker.poll() is None:
        worker.terminate()
        try:
            worker.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


def _failure(chapter: Chapter, end: Mapping[str, Any], store: Path, timeout: float) -> ChapterError:
    if end.get("event") == "timeout":
        return ChapterError(
            f"chapter {chapter.id!r} was stopped after {timeout:g} s, nothing was kept\n"
            "  remedy: allow more with --timeout SECONDS, or ask for less work (-p steps 10)"
        )
    lines = [f"chapter {chapter.id!r}: {end.get('what', 'it did not finish')}"]
    where = str(end.get("where") or "").strip().splitlines()
    if where:
        lines.append(f"  where: the cell that begins with  {where[0]}")
    if end.get("log"):
        log = store / f"{chapter.id}.log"
        write_text(log, str(end["log"]) + "\n")
        lines.append(f"  the whole traceback: {log}")
    if end.get("event") == "dead":
        lines.append(
            "  remedy: most often memory ran out; ask for fewer examples or a smaller batch"
        )
        return Lost("\n".join(lines))
    lines.append("  remedy: mend the cell, or the value that it names, and run again")
    return ChapterError("\n".join(lines))


def _folder_state(dataset: str) -> list[tuple[str, int, int]]:
    """Name, size and time of every file of one's own data set; nothing for the others."""
    kind, _, path = dataset.partition(":")
    if kind != "folder":
        files = [Path(dataset)] if is_own(dataset) else []
    else:
        tree = os.walk(path, followlinks=True) if Path(path).is_dir() else ()
        files, seen = [], set()
        for place, folders, names in tree:
            real = os.path.realpath(place)
            folders[:] = [n for n in folders if real not in seen and not n.startswith((".", "_"))]
            files += [Path(place, name) for name in names] * (real not in seen)
            seen.add(real)
    there = sorted(file for file in files if file.is_file())
    return [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in there]
