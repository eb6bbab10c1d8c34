"""The digits networks that come with the package: trained again and compared, or made anew.

    python -m benchmarks.training.digits                 # train all again and compare, bit by bit
    python -m benchmarks.training.digits random          # only these
    python -m benchmarks.training.digits --keep          # put what was trained into the package

It trains under the settings of the pages (see mpkit.core.processor), so that every x86 processor
with AVX2 ends at the same weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from mpkit.core import processor, records

ROOT = Path(__file__).parents[2]
SCHEMES = "natural linf l2 l1 rt avg max random msd balanced".split()


def main() -> int:
    """Train, compare, keep if asked; 1 if a network differs from the one in the package."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("schemes", nargs="*", default=SCHEMES, metavar="SCHEME", help="which")
    parser.add_argument("--keep", action="store_true", help="put them into the package")
    given = parser.parse_args()
    os.environ.update(wanted := processor.settings({"dataset": "digits"}))
    # Imported here: torch reads the settings when it is loaded.
    import torch

    from mpkit import data
    from mpkit.studies import zoo
    from mpkit.studies.catalog import plan
    from mpkit.studies.recipe_run import FACTS, WEIGHTS, trained

    images, differ = data.load("digits"), []
    made_by = records.provenance({"seed": 0, "dataset": "digits"}, ROOT, 0, "benchmark")
    for scheme in given.schemes:
        made, begun = plan(f"digits-{scheme}", images.shape), time.monotonic()
        home = zoo.SHIPPED / "digits" / made.name
        start = home.with_name(made.start) / WEIGHTS if made.start else None
        with tempfile.TemporaryDirectory() as scratch:
            trained(made, images, 0, Path(scratch), "cpu", start=start, dtype=torch.float64)
            facts = records.read_record(Path(scratch, FACTS))
            kept = records.read_record(home / FACTS) if (home / FACTS).is_file() else None
            same = kept is not None and kept["weights"] == facts["weights"]
            print(f"{made.name:16} {'the same' if same else 'differs'}", flush=True)
            if given.keep and not same:
                del facts["trained"]  # the tree is changed by what was kept before
                facts |= made_by | {"duration_s": round(time.monotonic() - begun, 1)}
                home.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(scratch, WEIGHTS), home)
                records.write_record(home / FACTS, {**facts, "arithmetic": wanted})
            elif not same:
                differ.append(made.name)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
