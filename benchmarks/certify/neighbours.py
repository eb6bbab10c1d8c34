"""Certificates on MNIST without a network: the nearest training image, and the triangle inequality.

A classifier that gives every image the class of the training image nearest to it, in some norm,
does not change its mind within half of the difference of two distances in that norm: to the nearest
image of another class, and to the nearest one of its own. The record has this radius for every test
image, 0 where the answer is wrong, rounded down. In l_1 also for images whose pixels were made
black or white first, where behind a rank zone the radius of that norm holds those of all three.

    MPKIT_DATA=folder python -m benchmarks.certify.neighbours
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.records import begin, options, write
from mpkit.core.statistics import proportion
from mpkit.data import Images, load
from mpkit.sets import Ball, usual

CHUNK = 50


def radii(known: Images, asked: Images, order: float) -> Tensor:
    """(N,) the radius within which the nearest known image has the right class, at least 0.

    Args:
        known: whose classes are given.
        asked: N images.
        order: of the norm, 1, 2 or infinity.
    """
    x, y = known.x.flatten(1).double(), known.y
    found = []
    for start in range(0, len(asked), CHUNK):
        part = slice(start, start + CHUNK)
        apart = torch.cdist(asked.x[part].flatten(1).double(), x, p=order)
        alike = y.unsqueeze(0) == asked.y[part].unsqueeze(1)
        other, same = (apart.masked_fill(hide, math.inf).amin(1) for hide in (alike, ~alike))
        found.append(((other - same) / 2).clamp(min=0))
    return torch.cat(found)


def row(known: Images, asked: Images, ball: Ball) -> dict[str, Any]:
    """What the record says of one norm and radius."""
    begun = time.monotonic()
    exact = radii(known, asked, ball.order)
    radius = (exact * 1000).floor() / 1000
    return {
        "clean": [*proportion(exact > 0)],
        "certified": [*proportion(radius > ball.eps)],
        "radii": [round(one, 3) for one in radius.tolist()],
        "seconds": round(time.monotonic() - begun, 1),
    }


def black_and_white(images: Images) -> Images:
    """The same with every pixel black or white, whichever is nearer."""
    return replace(images, x=(images.x >= 0.5).to(images.x.dtype))


def main() -> None:
    """Measure all distances and write the record."""
    given, _ = begin(options(__doc__, "book/results/neighbours.json", 1000))
    known, asked = load("mnist", "train"), load("mnist", "test").first(given.points)
    sets = usual("mnist", known.shape)
    balls = {name: one for name, one in sets.items() if isinstance(one, Ball)}
    norms = {}
    for norm, ball in balls.items():
        norms[norm] = row(known, asked, ball)
        print(norm, norms[norm]["clean"], norms[norm]["certified"], flush=True)
    binary = row(black_and_white(known), black_and_white(asked), balls["l1"])
    print("black and white", binary["clean"], binary["certified"], flush=True)
    seconds = sum(one["seconds"] for one in (*norms.values(), binary))
    content = {"norms": norms, "radii": {norm: ball.eps for norm, ball in balls.items()}}
    content |= {"black and white": binary}
    write(given, seconds, content, {"data": "mnist", "known": len(known)})


if __name__ == "__main__":
    main()
