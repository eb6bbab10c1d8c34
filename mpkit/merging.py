"""One ledger from several: shards of a data set, or further attacks on the same examples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mpkit.ledger import CLEAN, Ledger


def merged(ledgers: Sequence[Ledger]) -> Ledger:
    """One ledger from several: of other examples (shards), or of other attacks (restarts).

    Shards must have the same rows; their examples are put in order. Ledgers of the same examples
    give their attack rows one after the other, the clean row once.

    Raises:
        ValueError: if the ledgers are of neither kind, or shards hold the same example twice.
    """
    if not ledgers:
        raise ValueError("merged: needs at least one ledger, got none")
    first = ledgers[0]
    if len(ledgers) == 1:
        return first
    if all(torch.equal(one.prints, first.prints) for one in ledgers[1:]):
        return _stacked(ledgers)
    if any(
        (one.names, one.sets, one.facts) != (first.names, first.sets, first.facts)
        for one in ledgers
    ):
        raise ValueError(
            "merged: ledgers of other examples must come from the same attacks, model and seed; "
            "evaluate every shard with the same settings"
        )
    examples, order = torch.cat([one.examples for one in ledgers]).sort()
    if bool((examples[1:] == examples[:-1]).any()):
        raise ValueError("merged: an example is in two ledgers; give every shard once")
    wide: dict[str, Any] = {
        name: torch.cat([one.tensors()[name] for one in ledgers], -1)[..., order]
        for name in first.tensors()
        if name != "images"
    }
    return replace(first, **wide, images=torch.stack([one.images for one in ledgers]).sum(0))


def _stacked(ledgers: Sequence[Ledger]) -> Ledger:
    first, sets = ledgers[0], list(dict.fromkeys(name for one in ledgers for name in one.sets))
    for one in ledgers[1:]:
        same = torch.equal(one.labels, first.labels) and torch.equal(one.broken[0], first.broken[0])
        if not same:
            raise ValueError(
                "merged: the ledgers disagree on labels or on clean images; they must come from "
                "the same model and data"
            )
    rows: dict[str, list[Tensor]] = {name: [] for name in ("broken", "tried", "margin", "steps")}
    within, images = [first.within[:1]], [first.images[:1]]
    for name, part in rows.items():
        part.append(first.tensors()[name][:1])
    for one in ledgers:
        for name, part in rows.items():
            part.append(one.tensors()[name][1:])
        places = torch.tensor([*(sets.index(name) for name in one.sets), -1], dtype=torch.int8)
        within.append(places[one.within[1:].long()])
        images.append(one.images[1:])
    joined: dict[str, Any] = {name: torch.cat(part) for name, part in rows.items()}
    names = (CLEAN, *distinct(name for one in ledgers for name in one.names[1:]))
    return replace(
        first,
        names=names,
        sets=tuple(sets),
        facts={"merged": [one.facts for one in ledgers]},
        **joined,
        within=torch.cat(within),
        images=torch.cat(images),
        unfit=torch.stack([one.unfit for one in ledgers]).any(0),
    )


def distinct(names: Iterable[str]) -> list[str]:
    """Names with a number after those that were there before: pgd, pgd (2)."""
    seen: dict[str, int] = {}
    given = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        given.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return given
