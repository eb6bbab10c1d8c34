"""Our attacks beside the best of the others: paired differences, image by image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mpkit.core.statistics import mean_of
from mpkit.studies.analysis import bits

BAR = 0.005
"""By how much more may stand under our attacks than under the best of the others."""


def comparison(libraries: dict[str, Any]) -> list[dict[str, Any]]:
    """For each norm and budget, on each network and on their mean: our distance to the best peer.

    Args:
        libraries: by name, as evaluated; all with the same norms, budgets and networks.

    Returns: rows with the accuracies by library, the best peer, ours minus the best with its 95 %
        interval (paired by image), and whether it is within half a point.
    """
    rows = []
    for place, ours in enumerate(libraries["mpkit"]["strength"]):
        for budget in dict.fromkeys(row["budget"] for row in ours["rows"]):
            names = [row["network"] for row in ours["rows"] if row["budget"] == budget]
            for networks in [[name] for name in names] + [names]:
                standing = {
                    library: _standing(one["strength"][place]["rows"], budget, networks)
                    for library, one in libraries.items()
                }
                rows.append({"norm": ours["norm"], "budget": budget, "networks": networks})
                rows[-1] |= _beside_the_best(standing)
    return rows


def _beside_the_best(standing: dict[str, Tensor | None]) -> dict[str, Any]:
    there = {name: each for name, each in standing.items() if each is not None}
    shares = {name: round(float(each.mean()), 5) for name, each in there.items()}
    best = min((name for name in shares if name != "mpkit"), key=lambda name: shares[name])
    apart = mean_of(there["mpkit"] - there[best])
    return {
        "accuracy": shares,
        "best peer": best,
        "ours minus best": [round(number, 5) for number in apart],
        "within": apart.value <= BAR + 1e-9,
    }


def _standing(rows: list[dict[str, Any]], budget: int, networks: list[str]) -> Tensor | None:
    """For each image, the share of networks and seeds with which it stands: (N,) float64."""
    each = [
        torch.stack([bits(each) for each in row["standing"]]).double().mean(0)
        for row in rows
        if row["budget"] == budget and row["network"] in networks and "standing" in row
    ]
    return torch.stack(each).mean(0) if len(each) == len(networks) else None
