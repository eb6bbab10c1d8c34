"""One notebook in one process: run by ``mpbook.pages.execution``, never imported by the book.

Papermill changes the working folder and a kernel can die, so each run gets a process of its own.
It reads one job (a line of JSON) from standard input and writes events (lines of JSON) to standard
output. When its parent goes away, standard input ends and the process and its kernel end too.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import threading
import time
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError, strip_color

from mpbook.pages.execution import EVENT

KERNEL = (
    "from ipykernel.kernelapp import IPKernelApp as App\n"
    "App.load_config_file = lambda *_, **__: None\n"
    "App.launch_instance(ignore_cwd=True)"
)
KEPT_CELL_METADATA = ("tags", "mystnb", "jupyter", "mpkit")


def emit(**event: Any) -> None:
    """Write one event for the parent."""
    sys.stdout.write(EVENT + json.dumps(event) + "\n")
    sys.stdout.flush()


class ThisPython(AsyncKernelManager):
    """A kernel of the interpreter that runs this, whatever kernel is installed as ``python3``.

    Nobody's settings of IPython count, and no module beside the notebook hides a package.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        """What starts it."""
        argv = [sys.executable, "-P", "-c", KERNEL, "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class ReportingEngine(NBClientEngine):  # type: ignore[misc]
    """Papermill's own engine, which also tells when a cell is done."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
        """Execute as the parent class does, with an event after each cell."""
        complete = nb_man.cell_complete

        def report(*args: Any, **words: Any) -> None:
            complete(*args, **words)
            emit(event="cell")

        nb_man.cell_complete = report
        return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)


def scrub(notebook: Any) -> None:
    """Take out of a notebook, in place, what differs between two equal runs."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT_CELL_METADATA if cell.metadata.get(key)}
        )
        for output in cell.get("outputs", []):
            output.get("metadata", {}).pop("execution", None)
        if "outputs" in cell:
            cell.outputs = merged(cell.outputs)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"


def merged(outputs: list[Any]) -> list[Any]:
    """Join what was printed in one go: where a kernel cuts a stream depends on the moment."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output.output_type == "stream" and last.get("name") == output.name:
            last["text"] += output.text
        else:
            joined.append(output)
    return joined


def unfinished(notebook: Any) -> int | None:
    """The number of the first code cell that was not executed in order, or None."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    wrong = (n for n, cell in enumerate(code, start=1) if cell.execution_count != n)
    return next(wrong, None)


def run(job: dict[str, Any]) -> None:
    """Execute the job's notebook and write it, scrubbed, to the job's output file."""
    papermill_engines.register("mpkit", ReportingEngine)
    notebook = nbformat.read(job["notebook"], as_version=4)
    emit(event="start", cells=len(notebook.cells) + bool(job["parameters"]))
    start = time.monotonic()
    done = papermill.execute_notebook(
        notebook,
        None,
        parameters=job["parameters"],
        engine_name="mpkit",
        kernel_name="python3",
        progress_bar=False,
        cwd=job["folder"],
        start_timeout=120,
        kernel_manager_class=ThisPython,
    )
    ran, here = done.metadata["language_info"]["version"], platform.python_version()
    if ran != here:
        what = f"ran in Python {ran}, while its record would say {here}"
        emit(event="failed", what=what, where="", log="")
        return
    count = unfinished(done)
    if count is not None:
        emit(event="failed", what=f"code cell {count} was never executed", where="", log="")
        return
    scrub(done)
    nbformat.write(done, job["output"])
    emit(event="done", seconds=time.monotonic() - start)


def main() -> None:
    """Read the job, run it, and turn whatever goes wrong into one event."""
    job = json.loads(sys.stdin.readline())

    def end_with_parent() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        run(job)
    except PapermillExecutionError as error:
        emit(
            event="failed",
            what=f"code cell {error.exec_count} stopped with {error.ename}: {error.evalue}",
            where=error.source,
            log=strip_color("\n".join(error.traceback)),
        )
    except (DeadKernelError, CellTimeoutError) as error:
        emit(
            event="dead", what=f"the kernel died ({type(error).__name__})", where="", log=str(error)
        )
    except Exception as error:  # the parent prints it; a traceback here would be lost in a pipe
        emit(event="failed", what=f"{type(error).__name__}: {error}", where="", log=repr(error))


if __name__ == "__main__":
    main()
