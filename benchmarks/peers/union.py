"""The union's robust accuracy: three runs of AutoAttack beside `standard` for the union only.

Needs the extra `compare` (pyautoattack) and MNIST. Each network of the zoo is evaluated piece by
piece: every piece of the images by AutoAttack in l_inf, l_2 and l_1, and by the suites of
`mpkit evaluate --goal union`, on one thread, timed by the time that the process had the core.
It can be stopped at any time and goes on where it was; what AutoAttack said is kept for as long as
AutoAttack, torch and the network are the same.

    MPKIT_DATA=folder OMP_NUM_THREADS=1 python -m benchmarks.peers.union
"""

from __future__ import annotations

import inspect
import logging
import time
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch

from benchmarks.common.records import RADII, Kept, begin, options, write
from mpkit import data
from mpkit.core import records
from mpkit.models import QueryCounter
from mpkit.studies import zoo

PIECE = 100
NORMS = {f"{name}:{eps:g}": (name.capitalize(), eps) for name, eps in RADII.items()}


def by_autoattack(name: str, images: data.Images) -> dict[str, Any]:
    """What AutoAttack's standard version leaves in each norm, 1 for each image, and its price."""
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    plain = zoo.load(name)
    model, left, seconds = QueryCounter(plain).eval(), {}, {}
    for norm, (form, eps) in NORMS.items():
        begun = time.process_time()
        how = {"norm": form, "eps": eps, "version": "standard", "device": "cpu", "seed": 0}
        attack = AutoAttack(model, **how)
        found = attack.run_standard_evaluation(images.x, images.y, batch_size=len(images))[0]
        seconds[norm] = round(time.process_time() - begun, 2)
        with torch.no_grad():
            left[norm] = (plain(found).argmax(1) == images.y).int().tolist()
    passes = {"forward": model.forwards, "backward": model.backwards}
    return {"left": left, "seconds": seconds, **passes}


def pieces(points: int) -> list[data.Images]:
    """The first test images of MNIST, in pieces."""
    images = data.load("mnist", "test").first(points)
    places = [slice(start, start + PIECE) for start in range(0, points, PIECE)]
    return [replace(images, x=images.x[one], y=images.y[one]) for one in places]


def main() -> None:
    """Evaluate every network by all, piece by piece, and write one record."""
    parser = options(__doc__, "book/results/bench/union.json", 1000)
    parser.add_argument("--models", nargs="+", default=["mnist-max", "mnist-tuned-on"])
    given, _ = begin(parser)
    code = [inspect.getsource(by_autoattack), version("pyautoattack"), torch.__version__]
    peer = Kept(given.output.with_name("union-autoattack.json"), PIECE, texts=code)
    parts = pieces(given.points)
    for number, part in enumerate(parts):
        for name in given.models:
            place = f"{records.digest(zoo.card(name).sha256)[:12]} {number}"
            row = peer.row(place, partial(by_autoattack, name, part))
            print(name, number, row["seconds"], flush=True)


if __name__ == "__main__":
    main()
