"""One oracle over the attacks of six libraries: membership, known answers, strength, traces.

Needs the extra `compare` and MNIST. For each norm, budget and network a library is represented by
that of its attacks which does best on other test images (the pilot), at equal numbers of gradients
per image, counted and not believed. What a library returns outside of the set is brought back to
the nearest allowed image before it is evaluated. What is done is kept in a folder, with the commit
that it was made at, and not done again, so a library that does not fit beside the others can be
run in an environment of its own:

    python -m benchmarks.peers.conformance
    python -m benchmarks.peers.conformance --libraries foolbox ART --keep parts

Libraries that are not named stay in the record as they are; each part names its commit.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.records import RADII, ROOT, begin, options, write
from benchmarks.peers.apart import Failed, apart
from benchmarks.peers.comparison import comparison
from benchmarks.peers.routines import projections, promises, seed_everything
from mpkit import data, sets
from mpkit.audit.conformance import brought_back, membership, traces
from mpkit.audit.known_optima import reach
from mpkit.audit.libraries import CANDIDATES, PACKAGES
from mpkit.audit.protocol import Subject
from mpkit.core import records
from mpkit.core.statistics import mean_of
from mpkit.models import QueryCounter
from mpkit.studies import zoo
from mpkit.studies.protocol import bits_as_text

BALLS = {norm: sets.usual("mnist", (1, 28, 28))[norm] for norm in RADII}
NETWORKS = {
    "linf": ("mnist-linf", "mnist-max"),
    "l2": ("mnist-linf", "mnist-l2", "mnist-max"),
    "l1": ("mnist-l2", "mnist-max"),
}
"""Networks that are partly robust in a norm, and in l_2 one that only looks so."""
PILOT = slice(5000, 6000)
"""Test images on which a library's best suited attack is chosen, with the first seed."""
SEEDS = (0, 1, 2)
"""Of the attack that is chosen: what is reported is the mean over these."""


def attempt(
    one: Subject, norm: str, budget: int, model: nn.Module, x: Tensor, y: Tensor, seed: int = 0
) -> Any:
    """Run an attack on a model: what it cost, what it returned, and which images stand."""
    counted = QueryCounter(model).eval()
    seed_everything(seed)
    begun, ball = time.monotonic(), BALLS[norm]
    image = one.make(ball, budget)(counted, x.clone(), y.clone()).detach()
    seconds = time.monotonic() - begun
    with torch.no_grad():
        claimed = model(image).argmax(1) == y
        robust = model(brought_back(ball, x, image)).argmax(1) == y
    kept = membership(ball, x, image)
    row = {
        "attack": one.name,
        "gradients": counted.calls,
        "gradients per image": round(counted.backwards / len(x), 1),
        "forwards per image": round(counted.forwards / len(x), 1),
        "outside": round(kept.outside, 4) if one.keeps else None,
        "worst excess": float(f"{kept.worst:.2g}") if one.keeps else None,
        "claimed": float(claimed.double().mean()) if one.keeps else None,
        "seconds": round(seconds, 1),
    }
    return row, robust.tolist()


def attempts(one: Subject, norm: str, budget: int, name: str, x: Tensor, y: Tensor) -> Any:
    """Run an attack on a network with every seed: the mean, and the worst that was outside."""
    runs = [apart(attempt, one, norm, budget, zoo.load(name), x, y, seed) for seed in SEEDS]
    rows, robust = [row for row, _ in runs], torch.tensor([each for _, each in runs])
    worst = {key: max(row[key] for row in rows) for key in ("outside", "worst excess") if one.keeps}
    claimed = {"claimed": sum(row["claimed"] for row in rows) / len(rows)} if one.keeps else {}
    return {
        **rows[0],
        **worst,
        **claimed,
        "accuracy": [round(number, 5) for number in mean_of(robust.double().mean(0))],
        "by seed": [round(float(each.double().mean()), 5) for each in robust],
        "standing": [bits_as_text(each) for each in robust],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
    }


def chosen(candidates: list[Subject], norm: str, budget: int, name: str) -> Any:
    """The attack of a library that leaves least standing on the pilot images, and all shares."""
    test = data.load("mnist", "test")
    x, y, model = test.x[PILOT], test.y[PILOT], zoo.load(name)
    shares: dict[str, float | str] = {}
    best, least = None, 2.0
    for one in candidates:
        if one.kind is not type(BALLS[norm]):
            continue
        try:
            _, robust = apart(attempt, one, norm, budget, model, x, y)
        except Failed as error:  # a peer may fail in any way; that is a result too
            shares[one.name] = str(error)
            continue
        share = sum(robust) / len(robust)
        shares[one.name] = round(share, 4)
        if share < least:
            best, least = one, share
    return best, shares


def strength(candidates: list[Subject], given: Any) -> Iterator[dict[str, Any]]:
    """Accuracies on the reported images, by norm, budget and network, by the attack chosen.

    With the attacks that were chosen in a norm at any time: how near they come to the optimum of
    linear models with the largest budget, and what they leave behind.
    """
    images = data.load("mnist", "test").first(given.points)
    for norm in BALLS:
        used, rows = {}, []
        for budget in given.budgets:
            for name in NETWORKS[norm]:
                best, shares = chosen(candidates, norm, budget, name)
                row = {"network": name, "budget": budget, "pilot": shares}
                if best:
                    used[best.name] = best
                    row |= attempts(best, norm, budget, name, images.x, images.y)
                    share = 100 * row["accuracy"][0]
                    print(
                        f"  {norm:4} {budget:3} {name:10} {best.name:20} {share:.1f} %", flush=True
                    )
                rows.append(row)
        most = max(given.budgets)
        yield {
            "norm": norm,
            "rows": rows,
            "reach": {
                name: round(apart(reached, one, norm, most), 4) for name, one in used.items()
            },
            "traces": {name: apart(left_behind, one, norm) for name, one in used.items()},
        }


def reached(one: Subject, norm: str, budget: int) -> float:
    """The share of the optimum of linear models that an attack reaches."""
    return reach(one.make(BALLS[norm], budget), BALLS[norm], (1, 28, 28))


def left_behind(one: Subject, norm: str) -> dict[str, Any]:
    """What an attack leaves in the model."""
    return traces(one.make(BALLS[norm], 20))._asdict()


def promised(candidates: list[Subject], given: Any) -> dict[str, Any]:
    """Whether the attacks with a radius keep it, on pilot images that the network gets right.

    Some attacks leave the others alone, and their first images could not be told apart.
    """
    test = data.load("mnist", "test")
    model, few = zoo.load("mnist-max").eval(), min(given.budgets)
    x, y = test.x[PILOT], test.y[PILOT]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    return promises(candidates, few, model, x[right], y[right])


SECTIONS: dict[str, Callable[[str, Any], Any]] = {
    "projections": lambda library, given: projections(library),
    "promises": lambda library, given: apart(promised, CANDIDATES[library](), given),
    "strength": lambda library, given: list(strength(CANDIDATES[library](), given)),
}


def section(library: str, name: str, given: Any) -> dict[str, Any]:
    """One section about a library, from the folder of what is done, or made now."""
    settings = {"points": given.points, "budgets": given.budgets, "threads": given.threads}
    settings |= {"pilot": [PILOT.start, PILOT.stop], "seeds": SEEDS}
    file = given.keep / f"{library}-{name}-{records.digest(settings)[:12]}.json"
    if file.exists():
        return records.read_record(file)
    print(library, name, flush=True)
    begun = time.monotonic()
    part = {
        name: SECTIONS[name](library, given),
        "version": metadata.version(PACKAGES[library]),
        "commit": records.Code.of(ROOT).commit,
        "seconds": round(time.monotonic() - begun, 1),
    }
    records.write_record(file, part)
    return part


def assembled(library: str, given: Any) -> dict[str, Any]:
    """All sections about a library, as one."""
    parts = {name: section(library, name, given) for name in SECTIONS}
    return {
        "version": parts["strength"]["version"],
        "commits": {name: part["commit"] for name, part in parts.items()},
        "seconds": round(sum(part["seconds"] for part in parts.values()), 1),
        **{name: part[name] for name, part in parts.items()},
    }


def main() -> None:
    """Evaluate the libraries that are not done, and write the record when all are."""
    parser = options(__doc__, "book/results/conformance.json", 1000)
    parser.add_argument("--libraries", nargs="+", default=list(CANDIDATES), choices=CANDIDATES)
    parser.add_argument("--budgets", nargs="+", type=int, default=[40, 100])
    parser.add_argument("--keep", type=Path, default=ROOT / ".benchmarks" / "conformance")
    given, _ = begin(parser, keep=False)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    done = {library: assembled(library, given) for library in given.libraries}
    if given.output.is_file():
        done = records.read_record(given.output)["libraries"] | done
    if missing := [library for library in CANDIDATES if library not in done]:
        print(f"no record: it is written when nothing is missing; missing: {', '.join(missing)}")
        return
    given.libraries = list(CANDIDATES)
    done = {library: done[library] for library in CANDIDATES}
    seconds = sum(one["seconds"] for one in done.values())
    facts = {
        "radii": RADII,
        "networks": NETWORKS,
        "pilot": [PILOT.start, PILOT.stop],
        "seeds": SEEDS,
    }
    content = {"libraries": done, "comparison": comparison(done)}
    write(given, seconds, content, facts)


if __name__ == "__main__":
    main()
