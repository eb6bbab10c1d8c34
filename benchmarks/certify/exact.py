"""What is true on small digits networks, and what each suite of attacks misses of it.

Five networks 64-32-32-10 are trained, and every test image is decided completely in l_inf, l_1 and
l_2 (branch and bound) and for rotations and shifts (cells of poses). The suites, 40 steps of PGD
and, where it can be imported, AutoAttack are run beside it. The book's *Evaluating honestly* shows
the record. It can be stopped at any time and goes on where it was; a change of the code or of an
option makes it begin again.

    OMP_NUM_THREADS=1 python -m benchmarks.certify.exact
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.records import Kept, begin, options, write
from mpkit import data, evaluation, models, sets, training
from mpkit.attacks import PGD, SpatialPGD
from mpkit.certify import Decisions, Exact, PoseCells, Status
from mpkit.core.statistics import proportion
from mpkit.evaluation.verification import excess
from mpkit.studies.catalog import plan
from mpkit.studies.protocol import bits_as_text, pixels_as_text

SCHEMES = ("max", "linf", "avg", "l1", "natural")
EPOCHS = 40
KINDS = ("linf", "l1", "l2", "rt")
SUITES = ("standard", "quick", "pgd-40", "autoattack", "thorough")
QUICK = ("standard", "quick", "pgd-40")
CHUNK = 20
SHARES = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
Record = dict[str, Any]


def weights_of(scheme: str, seed: int) -> Record:
    """Train one network in float64 by its scheme's recipe, with more epochs: weights as lists."""
    begun = time.process_time()
    images, rng = data.load("digits", "train").to("cpu", torch.float64), _generator(seed)
    model = models.small_mlp(images.shape, 10, rng).double()
    made = plan(f"digits-{scheme}", images.shape)
    training.fit(model, images, made.scheme, replace(made.recipe, epochs=EPOCHS), rng)
    weights = {name: tensor.tolist() for name, tensor in model.state_dict().items()}
    return {"weights": weights, "cpu seconds": round(time.process_time() - begun, 1)}


def restored(weights: dict[str, Any]) -> nn.Module:
    """The network that has these weights."""
    model = models.small_mlp((1, 8, 8), 10, _generator(0)).double()
    tensors = {k: torch.as_tensor(v, dtype=torch.float64) for k, v in weights.items()}
    model.load_state_dict(tensors)
    return model.eval().requires_grad_(False)


def decide_all(
    kept: Kept,
    scheme: str,
    model: nn.Module,
    images: data.Images,
    threats: dict[str, sets.PerturbationSet],
) -> tuple[dict[str, list[Any]], Record]:
    """The truth in every set, chunk by chunk, and what it took."""
    truth, seconds, cases = {}, {}, {}
    for kind, threat in threats.items():
        parts = []
        for start in range(0, len(images), CHUNK):
            x, y = (t[start : start + CHUNK] for t in (images.x, images.y))
            work = partial(decided, model, x, y, threat)
            parts.append(kept.row(f"{scheme} {kind} {start}", work))
        truth[kind] = [s for part in parts for s in part["status"]]
        truth[f"{kind} z"] = [z for part in parts for z in part["z"]]
        seconds[kind] = round(sum(part["cpu seconds"] for part in parts), 1)
        cases[kind] = [w for part in parts for w in part["work"]]
        counts = [truth[kind].count(s) for s in (0, 1, 2)]
        print(scheme, kind, counts, seconds[kind], "s", flush=True)
    most = {kind: max(work) for kind, work in cases.items()}
    mean = {kind: round(sum(work) / len(work), 1) for kind, work in cases.items()}
    return truth, {"cpu seconds": seconds, "most cases": most, "mean cases": mean}


def decided(model: nn.Module, x: Tensor, y: Tensor, threat: sets.PerturbationSet) -> Record:
    """The truth about some images in one set, as plain data."""
    begun, search = time.process_time(), decider(threat)
    found = search(model, x, y, threat)
    return {
        "status": found.status.tolist(),
        "work": found.work.tolist(),
        "z": found.z.tolist(),
        "cpu seconds": round(time.process_time() - begun, 2),
    }


def decider(threat: sets.PerturbationSet) -> Callable[..., Decisions]:
    """The complete search for a kind of set."""
    return Exact() if isinstance(threat, sets.Ball) else PoseCells()


def by_suite(
    model: nn.Module, images: data.Images, threats: dict[str, sets.PerturbationSet], name: str
) -> Record:
    """Who survives a suite in each set, (N,) bools as numbers, and its processor time."""
    begun = time.process_time()
    if name == "autoattack":
        standing = _by_autoattack(model, images, threats)
    elif name == "pgd-40":
        plain = {
            kind: PGD(one, 40) if isinstance(one, sets.Ball) else SpatialPGD(one, 40)
            for kind, one in threats.items()
        }
        ledger = evaluation.evaluate(model, images.x, images.y, plain, _generator(0))
        standing = {k: ~ledger.broken_in(one.describe()) for k, one in threats.items()}
    else:
        suite = evaluation.standard(sets.Union(*threats.values()), name)
        ledger = evaluation.evaluate(model, images.x, images.y, suite, _generator(0))
        standing = {k: ~ledger.broken_in(one.describe()) for k, one in threats.items()}
    seconds = round(time.process_time() - begun, 1)
    return {"standing": {k: v.int().tolist() for k, v in standing.items()}, "cpu seconds": seconds}


def _by_autoattack(
    model: nn.Module, images: data.Images, threats: dict[str, sets.PerturbationSet]
) -> dict[str, Tensor]:
    from pyautoattack import AutoAttack

    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    standing = {}
    for kind, ball in threats.items():
        if not isinstance(ball, sets.Ball):
            continue
        how = {"norm": kind.capitalize(), "eps": float(ball.eps), "version": "standard"}
        attack = AutoAttack(Single(model), **how, device="cpu", seed=0)
        found = attack.run_standard_evaluation(images.x.float(), images.y, batch_size=500)[0]
        z = ball.project(images.x, found.double() - images.x)
        right = model(images.x + z).argmax(1) == images.y
        right |= excess(ball, images.x, z) > 1e-6
        standing[kind] = right & (model(images.x).argmax(1) == images.y)
    return standing


class Single(nn.Module):
    """A network in float64 for callers that work in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Logits in float32."""
        return self.model(x.double()).float()


def slack(model: nn.Module, x: Tensor, y: Tensor, threat: sets.PerturbationSet) -> float:
    """The largest share of the budget, of some, at which an image is proved to be safe."""
    safe = 0.0
    for share in SHARES:
        smaller = threat.scaled(share)
        if int(decider(smaller)(model, x, y, smaller).status) != Status.CERTIFIED:
            break
        safe = share
    return safe


def missed(
    model: nn.Module,
    images: data.Images,
    threats: dict[str, sets.PerturbationSet],
    truth: dict[str, list[Any]],
    suites: dict[str, Record],
) -> Iterator[Record]:
    """Every image and set that is broken in truth and stands in a suite, with its witness."""
    for kind, threat in threats.items():
        for i, (status, z) in enumerate(zip(truth[kind], truth[f"{kind} z"], strict=True)):
            names = [n for n, s in suites.items() if s["standing"].get(kind, [0] * 9999)[i]]
            if status != Status.BROKEN or not names:
                continue
            if names == ["pgd-40"]:
                yield {"image": i, "set": kind, "by": names}
                continue
            x, y = images.x[i : i + 1], images.y[i : i + 1]
            change = torch.tensor(z, dtype=torch.float64).unsqueeze(0)
            image = threat.apply(x, change)
            with torch.no_grad():
                logits = model(image)[0]
            lead = logits.clone()
            lead[y] = -torch.inf
            yield {
                "image": i,
                "set": kind,
                "by": names,
                "label": int(y),
                "found": int(logits.argmax()),
                "lead": round(float(lead.max() - logits[y]), 6),
                "safe up to": slack(model, x, y, threat),
                "moved": int((change != 0).sum()),
                "pixels": pixels_as_text(torch.cat([x, image])),
                "z": as_text(change.flatten()),
            }


def table(
    truth: dict[str, list[Any]], suites: dict[str, Record], kinds: tuple[str, ...]
) -> dict[str, Any]:
    """Robust accuracies in truth and by each suite, with intervals, and how many points it misses.

    An image that is unknown in a set and broken in none stands as unknown: it counts as robust in
    the upper of two truths.
    """
    status = {kind: torch.tensor(truth[kind]) for kind in kinds}
    true = {kind: one != Status.BROKEN for kind, one in status.items()}
    true["union"] = torch.stack(list(true.values())).all(0)
    unknown = torch.stack([one == Status.UNKNOWN for one in status.values()]).any(0) & true["union"]
    rows: dict[str, Any] = {
        "truth": {kind: list(proportion(one)) for kind, one in true.items()},
        "unknown": {kind: int((one == Status.UNKNOWN).sum()) for kind, one in status.items()},
        "misses": {},
    }
    rows["unknown"]["union"] = int(unknown.sum())
    for name, suite in suites.items():
        stands = {k: torch.tensor(v).bool() for k, v in suite["standing"].items()}
        mine = [kind for kind in kinds if kind in stands]
        stands["union"] = torch.stack([stands[kind] for kind in mine]).all(0)
        held = true | {"union": torch.stack([true[kind] for kind in mine]).all(0)}
        contradicted = {k: int((~stands[k] & (status[k] == Status.CERTIFIED)).sum()) for k in mine}
        rows[name] = {kind: list(proportion(one)) for kind, one in stands.items()}
        rows["misses"][name] = {
            kind: list(proportion(stands[kind] & ~held[kind])) for kind in (*mine, "union")
        }
        rows["misses"][name]["certified but broken"] = sum(contradicted.values())
    return rows


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def row_of(
    kept: Kept,
    scheme: str,
    seed: int,
    images: data.Images,
    threats: dict[str, sets.PerturbationSet],
    names: list[str],
) -> Record:
    """All that the record says of one network."""
    trained = kept.row(f"{scheme} network", partial(weights_of, scheme, seed))
    model = restored(trained["weights"])
    truth, used = decide_all(kept, scheme, model, images, threats)
    suites = {}
    for name in names:
        work = partial(by_suite, model, images, threats, name)
        suites[name] = kept.row(f"{scheme} {name}", work)
        print(scheme, name, suites[name]["cpu seconds"], "s", flush=True)
    work = partial(lambda *a: list(missed(*a)), model, images, threats, truth, suites)
    row = {
        "weights": as_text(torch.cat([t.flatten() for t in model.state_dict().values()])),
        "training cpu seconds": trained["cpu seconds"],
        "clean": list(proportion(model(images.x).argmax(1) == images.y)),
        **used,
        **table(truth, suites, KINDS),
        "suite cpu seconds": {name: suite["cpu seconds"] for name, suite in suites.items()},
        "broken": {k: bits_as_text(torch.tensor(truth[k]) == Status.BROKEN) for k in KINDS},
        "missed": kept.row(f"{scheme} missed {' '.join(suites)}", work),
    }
    print(scheme, row["misses"], flush=True)
    return row


def as_text(numbers: Tensor) -> str:
    """Float64 numbers as base64, exactly."""
    return base64.b64encode(numbers.contiguous().numpy().tobytes()).decode()


def from_text(text: str) -> Tensor:
    """The numbers of ``as_text``, (n,)."""
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.float64)


def read_network(text: str) -> nn.Module:
    """The network whose weights a record holds."""
    like = models.small_mlp((1, 8, 8), 10, _generator(0)).double().state_dict()
    parts = from_text(text).split([t.numel() for t in like.values()])
    named = zip(like.items(), parts, strict=True)
    return restored({name: part.view_as(tensor) for (name, tensor), part in named})


def main() -> None:
    """Train, decide, attack, compare, and write one record."""
    parser = options(__doc__, "book/results/exact.json", 200)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--suites", nargs="+", default=SUITES)
    parser.add_argument("--seed", type=int, default=0)
    given, _ = begin(parser)
    if "autoattack" in given.suites and not find_spec("pyautoattack"):
        print("pyautoattack cannot be imported: its row is left out", flush=True)
        given.suites = [one for one in given.suites if one != "autoattack"]
    images = data.load("digits", "test").to("cpu", torch.float64).first(given.points)
    threats = {kind: sets.usual("digits", images.shape)[kind] for kind in KINDS}
    kept = Kept(given.output, given.points, given.seed, EPOCHS)
    for last, names in ((False, [n for n in given.suites if n in QUICK]), (True, given.suites)):
        rows = {
            scheme: row_of(kept, scheme, given.seed, images, threats, names)
            for scheme in given.schemes
        }
        content = {
            "networks": rows,
            "command": "python -m benchmarks.certify.exact",
            "threat": {kind: threat.describe() for kind, threat in threats.items()},
        }
        write(given, kept.seconds, content, {"dataset": "digits", "network": "64-32-32-10"})
        print("the record is", "whole" if last else "there without the long suites", flush=True)
    kept.done()


if __name__ == "__main__":
    main()
