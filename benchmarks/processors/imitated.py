"""How far the printed numbers of the pages move between processors, and what they may move by.

    python -m benchmarks.processors.imitated  # run what is missing, write the record
    python -m benchmarks.processors.imitated --declare  # and write into the pages what may move
    python -m benchmarks.processors.imitated --add --settings "wider vectors"  # one more

One machine imitates others: the libraries choose their code by environment variables instead of by
the processor. Every page is executed under each of the settings below and compared, number by
number, with what is stored in it, which was made under the settings of mpkit.core.processor. Of the
pages on which something moved, a run with another seed tells which cells depend on a search or a
training at all. Pages from elsewhere, in a folder that ``--sample`` names, are one more sample.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mpbook.pages import chapters
from mpbook.pages.chapters import Chapter, Value
from mpbook.pages.execution import to_text
from mpbook.pages.running import execute_all
from mpbook.pages.tolerance import MANY, Move, Tolerance, moves_of_cell
from mpkit.core import processor, records

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "book" / "results" / "processors.json"
NATIVE = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AUTO", "ONEDNN_MAX_CPU_ISA": "DEFAULT"}
WIDE = {**NATIVE, "ATEN_CPU_CAPABILITY": "avx512", "NPY_DISABLE_CPU_FEATURES": ""}
OLD = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
SETTINGS: dict[str, dict[str, str]] = {
    "as the processor likes": {**NATIVE, "OPENBLAS_CORETYPE": "Zen"},
    "an old processor": {**OLD, "OPENBLAS_CORETYPE": "Nehalem"},
    "wider vectors": {**WIDE, "OPENBLAS_CORETYPE": "SkylakeX"},
}
HERE = [name for name in SETTINGS if name != "wider vectors" or "avx512f" in processor.flags()]
SEED = "another seed"
KINDS = ("points", "counts", "decimals", "share")


def run(name: str, pages: Sequence[Chapter], jobs: int) -> dict[str, Path]:
    """The notebooks of pages under a setting or with another seed, executed unless they were."""
    given: Mapping[str, Value] = {"seed": 1} if name == SEED else {}
    store = ROOT / "_build" / "processors" / name.replace(" ", "-")
    with patch.dict(os.environ, SETTINGS.get(name, {})):
        return execute_all([(page, given) for page in pages], store, name, jobs)


def trains(chapter: Chapter) -> bool:
    """Whether a page computes on the digits; the others only read records."""
    return any(p.name == "dataset" and p.default == "digits" for p in chapter.parameters)


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The code cells of a notebook; the cell of injected parameters is left out."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    return [c for c in code if "injected-parameters" not in c["metadata"].get("tags", [])]


def furthest(moves: list[Move]) -> dict[str, float]:
    """The greatest distance of each kind that moved, in units of its tolerance."""
    found: dict[str, float] = {}
    for kind, stored, new in moves:
        name, far = kind, abs(new - stored)
        if kind == "shares":
            name, far = "points", 100 * far
        elif kind == "counts" and abs(stored) >= MANY:
            name, far = "share", far / abs(stored)
        if far > 1e-12:
            found[name] = max(found.get(name, 0.0), float(f"{far:.3g}"))
    return found


def seen(
    page: str, ours: Mapping[str, Path], samples: Mapping[str, Mapping[str, Path]]
) -> dict[str, dict[str, Any]]:
    """By number of the page's code cell: how far it moved in each sample."""
    found: dict[str, dict[str, Any]] = {}
    for name, notebooks in samples.items():
        if page not in notebooks:
            continue
        pairs = zip(code_cells(ours[page]), code_cells(notebooks[page]), strict=True)
        for number, (a, b) in enumerate(pairs):
            moves = moves_of_cell(a["outputs"], b["outputs"])
            far = {"words": 1.0} if moves is None else furthest(moves)
            if far:
                found.setdefault(str(number), {})[name] = far
    return found


def allowed(cells: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What each cell of a page may move by.

    Percentages by twice what was seen on the page, but by more than two points only if so much was
    seen, and not at all where another seed changes nothing; others by twice what was seen there.
    """
    processors = {
        number: {name: far for name, far in by.items() if name != SEED}
        for number, by in cells.items()
    }
    page = max(
        (far.get("points", 0.0) for by in processors.values() for far in by.values()), default=0
    )
    found: dict[str, dict[str, float]] = {}
    for number, by in processors.items():
        own = {k: max((far.get(k, 0.0) for far in by.values()), default=0.0) for k in KINDS}
        depends = "points" in cells[number].get(SEED, {}) or own["points"]
        widths = {kind: 2 * width for kind, width in own.items()}
        widths["points"] = min(2 * page, max(page, 2.0)) if depends else 0.0
        given = {kind: rounded(width) for kind, width in widths.items() if width}
        if given:
            found[number] = given
    return found


def rounded(width: float) -> float:
    """A width with two digits, never a wider one."""
    digits = 1 - math.floor(math.log10(width))
    return math.floor(width * 10**digits + 1e-6) / 10**digits


def declare(chapter: Chapter, widths: Mapping[str, Mapping[str, float]]) -> None:
    """Write into a page what its cells may move by."""
    notebook = json.loads(chapter.path.read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, cell in enumerate(code):
        cell["metadata"].pop("mpkit", None)
        if str(number) in widths:
            cell["metadata"]["mpkit"] = {"may_move": dict(widths[str(number)])}
            Tolerance.of(cell)
    records.write_text(chapter.path, to_text(notebook))


def main() -> None:
    """Run, compare, record and, if asked, declare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="pages at a time")
    parser.add_argument("--settings", nargs="*", choices=HERE, default=HERE, help="to imitate")
    parser.add_argument(
        "--sample", nargs=2, action="append", default=[], metavar=("NAME", "FOLDER")
    )
    parser.add_argument("--add", action="store_true", help="keep the record's other samples")
    parser.add_argument(
        "--declare", action="store_true", help="write the tolerances into the pages"
    )
    given = parser.parse_args()
    begun = time.monotonic()
    every = [page for page in chapters.chapters(ROOT) if trains(page)]
    ours = {page.id: page.path for page in every}
    samples = {name: run(name, every, given.jobs) for name in given.settings}
    for name, folder in given.sample:
        there = {page.id: Path(folder, page.path.name) for page in every}
        samples[name] = {page: path for page, path in there.items() if path.is_file()}
    known = records.read_record(OUTPUT) if given.add else {"pages": {}, "parameters": {}}
    moved = [one for one in every if allowed(seen(one.id, ours, samples))]
    if not given.add:
        samples[SEED] = run(SEED, moved, given.jobs)
    pages = {}
    for page in every:
        cells = seen(page.id, ours, samples)
        for number, by in known["pages"].get(page.id, {}).get("seen", {}).items():
            others = {name: far for name, far in by.items() if name not in samples}
            if found := others | cells.get(number, {}):
                cells[number] = found
        pages[page.id] = {"seen": cells, "allowed": allowed(cells)}
        if given.declare:
            declare(page, pages[page.id]["allowed"])
        print(f"{page.id:14}", ", ".join(pages[page.id]["allowed"]) or "nothing", "may move")
    imitated = known["parameters"].get("samples", {}) | {
        name: SETTINGS.get(name, "pages that were made before") for name in samples
    }
    parameters = {"stored": processor.ONE_ARITHMETIC, "samples": imitated, "seed": 0}
    record = records.provenance(parameters, ROOT, time.monotonic() - begun, "benchmark")
    records.write_record(OUTPUT, {**record, "pages": pages})
    print(f"written: {OUTPUT}")


if __name__ == "__main__":
    main()
