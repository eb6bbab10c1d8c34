"""The public benchmark of masks: models that hide a gradient, and models that do not, examined by
the doctor and by what others have published. The page *Gradient masking, measured* is made from
its record.

    python -m benchmarks.masks
    python -m benchmarks.masks --share 0 2    (and --share 1 2 beside it, then without)
    python -m benchmarks.masks --again NAME
    python -m benchmarks.masks --keep truth others

It takes three and a half hours of one core, can be stopped at any time and goes on where it was. A
change of the library or of the models makes it begin again. The third line examines some models
anew and keeps the others of the record; the last keeps these parts of all models on record,
as when only the doctor has changed. The record says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.records import again
from benchmarks.masks import scores
from benchmarks.masks.bases import SETS
from benchmarks.masks.examination import elsewhere, opinion, truth
from benchmarks.masks.patients import Patient, everybody
from mpkit import data, masking
from mpkit.core import records
from mpkit.sets import Ball

ROOT = Path(__file__).parents[2]
PARTS = ("truth", "doctor", "others")
Record = dict[str, Any]


def sources(names: list[str]) -> str:
    """The digest of the code that a part depends on."""
    files = [file for name in names for file in sorted(ROOT.glob(name))]
    return records.digest([file.read_text() for file in files])


COMMON = ["mpkit/**/*.py", "book/mpbook/teaching/obfuscated.py"]
MODELS = [
    f"benchmarks/masks/{name}.py"
    for name in "bases distillation examination fronts inside known later later_honest "
    "later_learned learned newest newest_honest newest_learned patients plain tricks unseen "
    "unseen_honest unseen_learned unusual".split()
]
OTHERS = [f"benchmarks/masks/{name}.py" for name in ("asking", "binarized", "indicators", "others")]


def piece(file: Path, key: str, work: Callable[[], Record]) -> Record:
    """Do a piece of work, or read what it gave when it was done before with the same key."""
    if file.is_file() and (done := records.read_record(file)).get("key") == key:
        found: Record = done["found"]
        return found
    found = work()
    records.write_record(file, {"key": key, "found": found})
    print(f"{file.stem}: {found}", flush=True)
    return found


def sets_of(patient: Patient, i: int, balls: int) -> list[str]:
    """The sets in which a model is examined: so many balls, in turn, and poses.

    Models that the doctor was written without, few as they are, are examined in all three balls.
    """
    order = ("linf", "l2", "l1")
    found = [
        order[(i + k) % 3] for k in range(3 if patient.group in ("later", "unseen") else balls)
    ]
    return [*([patient.ball] if patient.ball else found), "rt"]


def examined(
    patient: Patient,
    key: str,
    x: Tensor,
    y: Tensor,
    given: argparse.Namespace,
    digests: Record,
    before: Record,
) -> Record:
    """All parts for a model in a set; those that are kept as they were before."""
    effort = masking.Effort()
    works: dict[str, Callable[[], Record]] = {
        "truth": lambda: truth(patient, key, x, y),
        "doctor": lambda: opinion(patient, key, x, y, effort),
    }
    if isinstance(SETS[key], Ball):
        works["others"] = lambda: elsewhere(patient, key, x, y)
    stem = f"{patient.name}-{key}".replace(" ", "_").replace(":", "").replace(",", "")
    return {
        part: before[part]
        if part in before and part in given.keep
        else piece(given.work / f"{stem}-{part}.json", digests[part], works[part])
        for part in given.parts
        if part in works
    }


def main() -> None:
    """Do what is missing and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=72, help="test images")
    parser.add_argument(
        "--share", type=int, nargs=2, metavar=("I", "N"), help="only every Nth model"
    )
    parser.add_argument("--balls", type=int, default=1, choices=[1, 2, 3], help="for each model")
    parser.add_argument("--only", nargs="+", help="names of models")
    parser.add_argument("--again", nargs="+", default=[], help="names of models to examine anew")
    parser.add_argument("--keep", nargs="+", default=[], choices=PARTS, help="parts on record")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--work", type=Path, default=ROOT / "_build" / "masks")
    parser.add_argument("--output", type=Path, default=ROOT / "book" / "results" / "masks.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    few = data.load("digits", "test").subset(given.points, torch.Generator().manual_seed(3))
    code = sources(COMMON + MODELS)
    digests = {"truth": code, "doctor": code, "others": sources(COMMON + MODELS + OTHERS)}
    digests = {part: records.digest(digest, given.points) for part, digest in digests.items()}
    old = records.read_record(given.output) if given.again or given.keep else None
    known = {(row["name"], row["set"]): row for row in old["rows"]} if old else {}
    if old and old["parameters"]["points"] != given.points:
        parser.error(f"{given.output} is of {old['parameters']['points']} images: give --points")
    patients, rows, seconds = everybody(), [], 0.0
    if unknown := {*given.again, *(given.only or ())} - {one.name for one in patients}:
        parser.error(f"no model is called {sorted(unknown)}; rows of the record have the names")
    for i, patient in enumerate(patients):
        if old and given.again and patient.name not in given.again:
            rows += [row for row in old["rows"] if row["name"] == patient.name]
            continue
        if (given.only and patient.name not in given.only) or (
            given.share and i % given.share[1] != given.share[0]
        ):
            continue
        about = {name: getattr(patient, name) for name in ("name", "group", "base", "improper")}
        about |= {"hides": patient.hides, "wanted": list(patient.causes), "draws": patient.draws}
        for key in sets_of(patient, i, given.balls):
            before = known.get((patient.name, key), {})
            found = examined(patient, key, few.x, few.y, given, digests, before)
            seconds += sum(part["seconds"] for part in found.values())
            rows.append({**about, "set": key, **found})
    if given.share or given.only or set(given.parts) != set(PARTS):
        return
    rows = [{**row, "label": scores.label(row)} for row in rows]
    parameters = {"data": "digits", "points": given.points, "seed": 3, "threads": 1}
    made = records.provenance(parameters, ROOT, seconds, "benchmark")
    if old:
        parts = [part for part in PARTS if part not in given.keep]
        made |= again(old, {"models": given.again, "parts": parts if given.keep else []})
    record = {**made, "command": "python -m benchmarks.masks", "rows": rows}
    records.write_record(given.output, {**record, "scores": scores.summary(rows)})


if __name__ == "__main__":
    main()
