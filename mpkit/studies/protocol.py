"""How the networks of a study are evaluated, and what their records say of it."""

from __future__ import annotations

import base64
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from mpkit.attacks import APGD, Margin, WorstOfK
from mpkit.core.files import file_hash
from mpkit.core.progress import Quiet
from mpkit.core.statistics import proportion
from mpkit.data import Images
from mpkit.evaluation import Ledger, Verdict, Witnesses, evaluate, standard, verify
from mpkit.evaluation.goals import Entry
from mpkit.evaluation.ledger import CLEAN
from mpkit.evaluation.suites import EDITION
from mpkit.evaluation.witnesses import sets_of
from mpkit.models import front_of
from mpkit.models.rank_zone import Front
from mpkit.sets import Affine, Ball, PerturbationSet, Union, usual
from mpkit.sets.threat_model import RADII
from mpkit.training.recipes import LATER, fingerprint

BLIND = ("square", "pixels")  # names of attacks that try images out begin so
UNIONS = {"norms": ("linf", "l2", "l1"), "linf+rt": ("linf", "rt")}
AFFINE = {"norms": ("linf", "l1"), "linf+rt": ("linf", "rt")}


@dataclass(frozen=True)
class Protocol:
    """The same for every network of a study.

    Args:
        points: test images, from the first on.
        budget: of the recommended suites, see ``mpkit.evaluation.suites.BUDGETS``.
        batch: images at a time; part of what makes results repeat.
        affine: also try the affine adversaries of the two pairs.
        seed: of the attacks.
        radii: "common" or "paper", see :func:`mpkit.sets.usual`.
    """

    recorded_as: ClassVar[str] = "Examination"
    points: int = 1000
    budget: str = "standard"
    batch: int = 250
    affine: bool = True
    seed: int = 0
    radii: str = field(default="common", metadata=LATER)

    @property
    def key(self) -> str:
        """The sha256 that changes when anything that matters changes."""
        return fingerprint(self, EDITION)


def suite(
    protocol: Protocol, data: str, shape: tuple[int, int, int], front: Front | None = None
) -> tuple[Entry, ...]:
    """The attacks, each set's own and those of the affine sets; a dead zone in front is known."""
    return standard(threat(protocol, data, shape), protocol.budget, front=front)


def threat(protocol: Protocol, data: str, shape: tuple[int, int, int]) -> Union:
    """All sets that a network of a study is attacked in."""
    sets = usual(data, shape, protocol.radii)
    threats: list[PerturbationSet] = list(sets.values())
    if protocol.affine:
        threats += [_between(sets, pair) for pair in AFFINE.values()]
    return Union(*threats)


def _between(sets: dict[str, PerturbationSet], pair: tuple[str, str]) -> PerturbationSet:
    """The affine set of a pair; a warp comes first."""
    warp_first = sorted((sets[key] for key in pair), key=lambda one: isinstance(one, Ball))
    return Affine(*warp_first)  # type: ignore[arg-type]


def examine(
    model: nn.Module, test: Images, protocol: Protocol, folder: Path, progress: Quiet | None = None
) -> dict[str, Any]:
    """Evaluate a network; returns what its record says of it, as plain data.

    Args:
        model: on its device.
        test: the test split.
        protocol: how.
        folder: for the ledger, from which an interrupted evaluation goes on, and the witnesses.
        progress: is told how far the evaluation is.
    """
    where = next(model.parameters()).device
    images, kept = test.first(protocol.points).to(where), Witnesses(folder)
    ledger = evaluate(
        model,
        images.x,
        images.y,
        suite(protocol, test.name, test.shape, front_of(model)),
        torch.Generator(where).manual_seed(protocol.seed),
        batch=protocol.batch,
        file=folder / "ledger.safetensors",
        progress=progress,
        keep=kept,
    )
    file = kept.finish(ledger, threat(protocol, test.name, test.shape), model, images.x)
    found = summary(ledger, usual(test.name, test.shape, protocol.radii), protocol)
    return {"evaluation": found, "witnesses": file_hash(file)}


def confirmed(record: dict[str, Any], file: Path, model: nn.Module, test: Images) -> dict[str, Any]:
    """Compute the accuracies of a record again from its witnesses, without an attack.

    Args:
        record: of a network of a study.
        file: of its witnesses.
        model: with the weights that the record tells of.
        test: the test split.

    Returns: verdicts under the short names of the record, with the unions of the norms and of
        rotations with l_inf.

    Raises: DataError: the file is damaged, or of other images or sets.
    """
    names = set(sets_of(file))
    for radii in RADII:
        with suppress(ValueError):
            protocol = Protocol(radii=radii, affine=any(n.startswith("affine") for n in names))
            asked = threat(protocol, test.name, test.shape)
            if {part.describe() for part in asked.parts()} == names:
                break
    where = next(model.parameters()).device
    images = test.first(record["evaluation"]["points"]).to(where)
    found = verify(file, model, images.x, images.y, asked)
    sets = usual(test.name, test.shape, protocol.radii)
    short = {"clean": CLEAN} | {key: one.describe() for key, one in sets.items()}
    if protocol.affine:
        short |= {f"affine {k}": _between(sets, pair).describe() for k, pair in AFFINE.items()}
    verdicts = {key: found[name] for key, name in short.items()}
    for key, parts in UNIONS.items():
        broken = torch.stack([verdicts[k].broken for k in parts if k in verdicts]).any(0)
        verdicts[f"union {key}"] = Verdict.of(broken, verdicts["clean"].broken, {})
    return verdicts


def summary(ledger: Ledger, sets: dict[str, PerturbationSet], protocol: Protocol) -> dict[str, Any]:
    """Accuracies as [value, low, high] under short names, with every attack's part in them.

    ``first_order`` has those of the balls without the attacks that try images out, ``standing``
    which examples survived each set, one bit for each, for comparisons of paired examples.
    """
    names = {key: sets[key].describe() for key in sets}
    broken = {"clean": ledger.broken_in(CLEAN)} | {k: ledger.broken_in(names[k]) for k in names}
    affine = {f"affine {k}": _between(sets, pair).describe() for k, pair in AFFINE.items()}
    broken |= {k: ledger.broken_in(name) for k, name in affine.items() if name in ledger.sets}
    for key, parts in UNIONS.items():
        broken[f"union {key}"] = torch.stack([broken[k] for k in parts if k in broken]).any(0)
    balls = [key for key in names if isinstance(sets[key], Ball)]
    seeing = {k: _seen_by_gradient(ledger, names[k]) for k in balls}
    seeing["union norms"] = torch.stack([seeing[k] for k in balls]).any(0)
    return {
        "points": len(ledger),
        "budget": protocol.budget,
        "level": 0.95,
        "accuracy": {key: [*proportion(~value)] for key, value in broken.items()},
        "first_order": {key: [*proportion(~value)] for key, value in seeing.items()},
        "standing": {key: bits_as_text(~value) for key, value in broken.items()},
        "attacks": [gain._asdict() for gain in ledger.gains()],
        "nan": int(ledger.unfit.sum()),
    }


def _seen_by_gradient(ledger: Ledger, name: str) -> Tensor:
    """Examples that are wrong when clean or broken in a set by following gradients: (N,)."""
    rows = torch.tensor([not row.startswith(BLIND) for row in ledger.names])
    inside = ledger.broken & (ledger.within == ledger.sets.index(name))
    return inside[rows].any(0) | ledger.broken[0]


def bits_as_text(bits: Tensor) -> dict[str, Any]:
    """A row of bools as text, eight to a byte, the first in the highest bit."""
    content = np.packbits(bits.cpu().numpy()).tobytes()
    return {"count": len(bits), "bits": base64.b64encode(content).decode()}


def pictures(
    model: nn.Module, test: Images, count: int = 3, seed: int = 0, radii: str = "common"
) -> dict[str, Any]:
    """The first images of the test split beside what each set's attack makes of them.

    Returns: labels, what the network says of each picture, and the pixels as 8-bit text.
    """
    where = next(model.parameters()).device
    images, rng = test.first(count).to(where), torch.Generator(where).manual_seed(seed)
    shown = {"clean": images.x}
    for key, threat in usual(test.name, test.shape, radii).items():
        attack = APGD(threat, 50, Margin()) if isinstance(threat, Ball) else WorstOfK(threat, 50)
        shown[key] = attack(model, images.x, images.y, rng).image
    with torch.no_grad():
        said = {key: model(x).argmax(1).tolist() for key, x in shown.items()}
    pixels = {key: pixels_as_text(x) for key, x in shown.items()}
    return {"labels": images.y.tolist(), "said": said, "pixels": pixels}


def pixels_as_text(x: Tensor) -> dict[str, Any]:
    """Images in [0, 1] as base64 of unsigned 8-bit numbers, with their shape."""
    numbers = (x.detach().cpu() * 255).round().to(torch.uint8).numpy()
    return {"shape": list(numbers.shape), "uint8": base64.b64encode(numbers.tobytes()).decode()}
