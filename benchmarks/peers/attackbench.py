"""Our attacks in AttackBench's measures, beside the best of adversarial-library, in one reference.

Every attack has the same number of propagations for each image, forward and backward together;
what counts is the smallest perturbation that it asked the network about on its way. The reference
is, for each image, the least norm that any of them found at any budget. Local optimality compares
an attack with it on one network; global optimality is the mean over networks (Cinà et al. 2025).

adversarial-library comes with the extra `compare`. Where attackbenchlib is installed as well, some
attacks are run once more by its own code, and how far its distances differ is in the record. What
is done is kept beside the record, run by run, so this can be stopped and goes on where it was.

    python -m benchmarks.peers.attackbench
    python -m benchmarks.peers.attackbench --share 0 2    (and --share 1 2 beside it, then without)
    python -m benchmarks.peers.attackbench --points 16 --networks digits-max mnist-max
    python -m benchmarks.peers.attackbench --points 50 --again "mpkit LeastNorm"

The last line is for an attack that was changed: it measures that one alone, keeps the other runs of
the record, and the record says so.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import math
import time
import warnings
from importlib import metadata
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.records import Kept, again, begin, options, write
from benchmarks.peers.minimizers import Search, minimizers, order
from mpkit import data, sets
from mpkit.audit.optimality import followed, local_optimality
from mpkit.audit.protocol import NORMS
from mpkit.core import records
from mpkit.studies import zoo

NETWORKS = [
    *(f"digits-{one}" for one in "natural linf l2 l1 avg max msd random".split()),
    *(f"mnist-{one}" for one in "natural linf l2 l1 avg max msd random".split()),
]
CHECKED = {"linf": "mpkit APGD", "l2": "mpkit LeastNorm", "l1": "mpkit FMN"}
"""Attacks that attackbenchlib runs too, on the first network."""


def problem(name: str, points: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network in evaluation mode and single precision, with the first test images."""
    dataset, _, scheme = name.partition("-")
    images = data.load(dataset, "test").first(points)
    model = zoo.digits(scheme) if dataset == "digits" else zoo.load(name)
    return model.float().eval().requires_grad_(False), images.x.float(), images.y


def radius(name: str, norm: str) -> float:
    """The usual radius on the network's data, with which attacks that need one begin."""
    shape = (1, 28, 28) if name.startswith("mnist") else (1, 8, 8)
    return float(sets.usual(name.partition("-")[0], shape)[norm].eps)


def one_run(search: Search, name: str, norm: str, budget: int, points: int) -> dict[str, Any]:
    """What one attack finds on one network."""
    model, x, y = problem(name, points)
    torch.manual_seed(0)
    begun = time.process_time()
    found = followed(lambda m, x, y: search(m, x, y, budget), model, x, y, order(norm), budget)
    return {
        "least": [float(f"{value:.7g}") for value in found.least.tolist()],
        "propagations": round(found.spent, 1),
        "cpu seconds": round(time.process_time() - begun, 2),
    }


def norms_of(run: dict[str, Any]) -> Tensor:
    """Least norms (N,) of a run; a record has null where nothing was found."""
    return torch.tensor([torch.inf if one is None else one for one in run["least"]])


def over_networks(values: list[float]) -> list[float | None]:
    """Mean and 95 % interval by Student's t, since networks are few; no interval where one is."""
    from scipy.stats import t

    each = torch.tensor(sorted(values), dtype=torch.float64)  # the same sum in any order
    mean, n = float(each.mean()), len(each)
    if n == 1:
        return [round(mean, 5), None, None]
    half = float(each.std()) / n**0.5 * float(t.ppf(0.975, n - 1))
    return [round(one, 5) for one in (mean, mean - half, mean + half)]


def compared(runs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Optimality of every attack in one norm, from its runs.

    Args:
        runs: by ``network|budget|attack``; at one budget all attacks on the same networks.

    Returns: by budget, the attacks from the best on with local and global optimality; who is best
        of ours and of the others; and their difference, paired by network.
    """
    least = {tuple(key.split("|")): norms_of(run) for key, run in runs.items()}
    reference = {
        name: torch.stack([one for key, one in least.items() if key[0] == name]).amin(0)
        for name in dict.fromkeys(key[0] for key in least)
    }
    found: dict[str, Any] = {}
    for budget in dict.fromkeys(key[1] for key in least):
        rows, networks = [], list(dict.fromkeys(key[0] for key in least if key[1] == budget))
        for attack in dict.fromkeys(key[2] for key in least):
            local = {
                name: round(local_optimality(least[name, budget, attack], reference[name]), 5)
                for name in networks
            }
            of = [runs[f"{name}|{budget}|{attack}"] for name in networks]
            row = {"attack": attack, "global": over_networks(list(local.values())), "local": local}
            spent = math.fsum(run["propagations"] for run in of) / len(of)
            row |= {"propagations": round(spent, 1)}
            rows.append(
                row | {"cpu seconds": round(math.fsum(run["cpu seconds"] for run in of), 1)}
            )
        rows.sort(key=lambda row: -(row["global"][0] or 0))
        best = [
            next((row for row in rows if row["attack"].startswith(library)), None)
            for library in ("mpkit", "adv-lib")
        ]
        found[budget] = {"attacks": rows}
        if best[0] and best[1]:
            apart = [best[0]["local"][name] - best[1]["local"][name] for name in networks]
            found[budget]["best of ours"] = best[0]["attack"]
            found[budget]["best of the others"] = best[1]["attack"]
            found[budget]["ours minus theirs"] = over_networks(apart)
    return found


def by_attackbench(
    search: Search, model: nn.Module, x: Tensor, y: Tensor, norm: str, budget: int, box: bool
) -> Tensor:
    """Least norms (N,) as attackbenchlib's own code finds them, which must be installed.

    With its ``box``, the default, it clamps what it is asked to [0, 1], inside the graph; torch
    2.15 gives a clamp no slope at its ends, so black and white pixels have no gradient then.
    """
    import attackbench
    from torch.utils.data import DataLoader, TensorDataset

    def attack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        model.enforce_box = box
        search(model, inputs, labels, budget)
        return inputs

    torch.manual_seed(0)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        found = attackbench.run_attack(
            model,
            DataLoader(TensorDataset(x, y), batch_size=len(x)),
            attack,
            norm,
            torch.device("cpu"),
            query_budget=budget,
            seed=0,
        )
    return torch.tensor(found["distances"][norm], dtype=torch.float64)


def checked(name: str, points: int, budget: int) -> dict[str, Any]:
    """How far our distances and optimality are from attackbenchlib's, on one network."""
    import attackbench

    rows = {}
    for norm, attack in CHECKED.items():
        model, x, y = problem(name, points)
        search = minimizers(norm, radius(name, norm))[attack]
        ours = torch.tensor(one_run(search, name, norm, budget, points)["least"]).double()
        theirs, boxed = (
            by_attackbench(search, model, x, y, norm, budget, box) for box in (False, True)
        )
        reference = torch.minimum(torch.minimum(ours, theirs), boxed) * 0.9
        there, inside = (
            float(attackbench.eval_optimality(one.numpy(), reference.numpy(), None))
            for one in (theirs, boxed)
        )
        apart = (ours - theirs).abs() / ours.clamp(min=1e-9)
        rows[norm] = {
            "attack": attack,
            "largest relative difference": float(f"{apart.nan_to_num(0).max():.2g}"),
            "optimality here": round(local_optimality(ours, reference), 5),
            "optimality there": round(there, 5),
            "optimality there, with its box": round(inside, 5),
        }
    return {"network": name, "points": points, "budget": budget, "norms": rows}


def before(given: argparse.Namespace) -> dict[str, Any]:
    """The record whose other runs are kept.

    Raises: ValueError: it is of other images, networks or budgets, or has no such attack.
    """
    old = records.read_record(given.output)
    for key in ("points", "networks", "budgets", "deep"):
        if (wanted := vars(given)[key]) != (has := old["parameters"][key]):
            raise ValueError(f"{given.output} has --{key} {has}, not {wanted}: give the same")
    known = {where.split("|")[2] for norm in NORMS for where in old["norms"][norm]["runs"]}
    if unknown := {*given.again} - known:
        raise ValueError(f"--again: no attack is called {sorted(unknown)}; there are {known}")
    return old


def main() -> None:
    """Run what is not done, compare, and write the record."""
    parser = options(__doc__, "book/results/attackbench.json", 100)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--budgets", nargs="+", type=int, default=[500, 2000])
    parser.add_argument(
        "--deep", type=int, default=len(NETWORKS), help="of the networks, with the later budgets"
    )
    parser.add_argument(
        "--share", type=int, nargs=2, metavar=("I", "N"), help="only every Nth network"
    )
    parser.add_argument("--again", nargs="+", default=[], metavar="ATTACK", help="only these anew")
    given, _ = begin(parser)
    warnings.filterwarnings("ignore")
    old = before(given) if given.again else None
    part, of = given.share or (None, 1)
    kept = Kept(given.output, given.points, share=part)
    runs: dict[str, dict[str, Any]] = {norm: {} for norm in NORMS}
    plan = [
        (budget, name, norm)
        for i, budget in enumerate(given.budgets)
        for name in given.networks[: given.deep if i else None][part::of]
        for norm in NORMS
    ]
    for budget, name, norm in plan:
        for attack, search in minimizers(norm, radius(name, norm)).items():
            where = f"{name}|{budget}|{attack}"
            if old and attack not in given.again:
                runs[norm][where] = old["norms"][norm]["runs"][where]
                continue
            runs[norm][where] = kept.row(
                f"{norm}|{where}",
                lambda s=search, w=(name, norm, budget): one_run(s, *w, given.points),
            )
        print(f"{budget} {name} {norm}: {kept.seconds:.0f} s so far", flush=True)
    if given.share:
        return
    for run in (run for of in runs.values() for run in of.values()):
        run["least"] = [
            one if one is not None and one < torch.inf else None for one in run["least"]
        ]
    norms = {norm: {**compared(of), "runs": of} for norm, of in runs.items()}
    for norm, budget in ((norm, str(budget)) for norm in NORMS for budget in given.budgets):
        for row in norms[norm][budget]["attacks"][:4]:
            print(f"{norm:5} {budget:5} {row['attack']:28} {row['global']}", flush=True)
    packages = {"adv_lib": "adv-lib", "attackbench": "attackbenchlib"}
    there = {p: metadata.version(p) for m, p in packages.items() if importlib.util.find_spec(m)}
    content: dict[str, Any] = {"norms": norms, "versions of the others": there}
    if old:
        content |= again(old, {"attacks": given.again})
    if "attackbenchlib" in there:
        few = min(given.points, 16)
        content["beside attackbenchlib"] = kept.row(
            "beside attackbenchlib", lambda: checked(given.networks[0], few, min(given.budgets))
        )
    write(given, kept.seconds, content, {})
    kept.done()


if __name__ == "__main__":
    main()
