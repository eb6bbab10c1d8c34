"""How much sooner a sweep ends with more worker processes on this machine, and that it ends alike.

    python -m benchmarks.cluster.sweep  # by 1 and 2 workers
    python -m benchmarks.cluster.sweep --workers 1,2,3,4

Every sweep begins with an empty store and includes the start of its workers. The record says how
busy the machine was before: on a machine that others use, more processes get a larger share of it,
and the factor says more about them than about the sweep.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common.records import ROOT, begin, options, write
from mpbook.pages import chapters
from mpbook.pages.sweep import Outcome, points_of, sweep
from mpkit.core.progress import Quiet
from mpkit.core.records import digest
from mpkit.core.workers import Local

CHAPTER = "linf-rt"
SMALL = {"samples": 1000, "steps": 20, "device": "cpu"}


def alike(outcomes: Sequence[Outcome]) -> str:
    """A hash of all cells of all notebooks, outputs included."""
    paths = [one.notebook for one in outcomes if one.notebook]
    return digest([json.loads(path.read_text(encoding="utf-8"))["cells"] for path in paths])


def seconds_inside(outcomes: Sequence[Outcome]) -> float:
    """What the notebooks themselves took, one after the other."""
    texts = [one.notebook.read_text(encoding="utf-8") for one in outcomes if one.notebook]
    return float(sum(json.loads(text)["metadata"]["mpkit"]["duration_s"] for text in texts))


def measure(seeds: int, workers: int) -> tuple[dict[str, Any], str]:
    """One sweep into an empty store: its times, and the hash of its notebooks."""
    chapter = chapters.chapter(ROOT, CHAPTER)
    points = points_of(chapter, SMALL, [("seed", [str(seed) for seed in range(seeds)])])
    busy, begun = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = sweep(Path(folder), chapter, points, Local(workers), 3600, Quiet())
        row = {
            "workers": workers,
            "seconds": round(time.monotonic() - begun, 1),
            "done": sum(one.notebook is not None for one in outcomes),
            "seconds in notebooks": round(seconds_inside(outcomes), 1),
            "load before": round(busy, 1),
        }
        return row, alike(outcomes)


def main() -> None:
    """Measure, print a line for each number of workers, and write the record."""
    parser = options(__doc__, "book/results/bench/sweep.json", 6)
    parser.add_argument("--workers", default="1,2", help="processes, from few to many")
    given, begun = begin(parser)
    rows, hashes = [], set()
    for workers in map(int, given.workers.split(",")):
        row, same = measure(given.points, workers)
        rows.append(row)
        hashes.add(same)
        print(json.dumps(row), flush=True)
    content = {"rows": rows, "same notebooks": len(hashes) == 1, "cores": os.cpu_count()}
    facts = {"chapter": CHAPTER, **SMALL}
    write(given, time.monotonic() - begun, content, facts)


if __name__ == "__main__":
    main()
