"""What was printed once and is not believed any more: earlier records, beside what came after.

Reads the records of the MNIST study as three commits hold them, keeps the networks whose weights
have stayed the same to the bit, and writes their accuracies side by side; likewise those of one
network on the images by which it was chosen and on test images. Trains and attacks nothing; needs
the repository's history.

    python -m benchmarks.training.history
"""

from __future__ import annotations

import json
import subprocess
import time
from typing import Any, cast

from benchmarks.common.records import ROOT, begin, options, write

FOLDER = "book/results/mnist"
SUITES = {
    "66d3973": "Auto-PGD on three losses, PGD, squares, the grid of poses",
    "39740db": "and searches that set out from the border to other classes",
    "1b3cdc0": "and whole pixels, one after another",
}
"""The commits, and what the suite of each had."""

CHOSEN = "3da82e5"
"""The commit whose networks behind a dead zone were chosen on the last images of the split."""

KEYS = {"clean": "clean", "linf": "linf", "l2": "l2", "l1": "l1", "union": "union norms"}


def shown(*words: str) -> str:
    """What git prints."""
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def record_at(commit: str, file: str) -> dict[str, Any]:
    """A record as a commit holds it."""
    return cast(dict[str, Any], json.loads(shown("show", f"{commit}:{file}")))


def records_at(commit: str) -> dict[str, dict[str, Any]]:
    """The records of seed 0 that a commit holds, by scheme."""
    files = shown("ls-tree", "--name-only", commit, f"{FOLDER}/").split()
    made = [record_at(commit, file) for file in files if file.endswith("seed0.json")]
    return {one["recipe"].partition("-")[2]: one for one in made}


def compared() -> list[dict[str, Any]]:
    """A row for each network of today's table that an earlier suite has met, weights unchanged."""
    tables = {commit: records_at(commit) for commit in SUITES}
    rows = []
    for name, last in sorted(tables[next(reversed(SUITES))].items()):
        sha256 = last["weights"]["sha256"]
        found = {
            commit: table[name]["evaluation"]["accuracy"]
            for commit, table in tables.items()
            if name in table and table[name]["weights"]["sha256"] == sha256
        }
        if len(found) > 1:
            accuracy = {
                commit: {key: one[kept] for key, kept in KEYS.items()}
                for commit, one in found.items()
            }
            rows.append({"name": name, "weights": sha256, "accuracy": accuracy})
    return rows


def chosen() -> dict[str, Any]:
    """One network on the images by which it was chosen, and on test images."""
    tried = record_at(CHOSEN, "book/results/dead-zone.json")
    tested = record_at(CHOSEN, "book/results/threshold/mnist-random@0.3-seed0.json")
    sha256 = tested["weights"]["sha256"]
    rows = [row for part in tried["attempts"].values() for row in part]
    (row,) = (one for one in rows if one["weights"]["sha256"] == sha256)
    test = tested["evaluation"]["accuracy"]
    return {
        "commit": CHOSEN,
        "name": row["name"],
        "weights": sha256,
        "points": [tried["parameters"]["points"], tested["evaluation"]["points"]],
        "held out": {key: row["accuracy"][key] for key in KEYS},
        "test": {key: test[kept] for key, kept in KEYS.items()},
    }


def main() -> None:
    """Write the record."""
    given, begun = begin(options(__doc__, "book/results/history.json", 1000), keep=False)
    rows = compared()
    suites = [
        {"commit": commit, "date": shown("show", "-s", "--format=%cs", commit).strip(), "has": has}
        for commit, has in SUITES.items()
    ]
    content = {"suites": suites, "networks": rows, "chosen": chosen()}
    write(given, time.monotonic() - begun, content, {"data": "mnist", "folder": FOLDER})
    for row in rows:
        unions = [f"{100 * one['union'][0]:.1f}" for one in row["accuracy"].values()]
        print(f"{row['name']:9} {' -> '.join(unions)}")


if __name__ == "__main__":
    main()
