"""Witnesses: for every broken example and set the perturbation that broke it, for anyone to check.

A robust accuracy is an upper bound that rests on what was found. Whoever has the network, the
images and the witnesses computes it again without an attack, in seconds.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.attacks import AttackResult, CrossEntropy
from mpkit.attacks.gradients import Model, evaluating, guard
from mpkit.core import trees
from mpkit.core.devices import full_precision
from mpkit.core.files import DataError, spread, squeezed, unpacked, write_tensors
from mpkit.core.statistics import Estimate, proportion
from mpkit.evaluation.adversarial import Found, take_folder
from mpkit.evaluation.ledger import CLEAN, Ledger
from mpkit.evaluation.resume import Unit, prints
from mpkit.evaluation.verification import OutsideSet, verified
from mpkit.sets import L0, Ball, PerturbationSet
from mpkit.sets.norms import positive

FILE, FORMAT = "witnesses.safetensors", "mpkit witnesses 1"
LEVELS = 127
PIECE = 512
CODES = ("levels", "half", "full")  # from small to large


class Verdict(NamedTuple):
    """What witnesses say of one set.

    Attributes:
        accuracy: the share of examples that are right when clean and have no witness that holds.
        held: how many witnesses hold.
        fallen: examples whose witness does not hold, with the reason.
        broken: (N,) bool, the others.
    """

    accuracy: Estimate
    held: int
    fallen: dict[int, str]
    broken: Tensor

    @classmethod
    def of(cls, broken: Tensor, clean: Tensor, fallen: dict[int, str]) -> Verdict:
        """That of one set: examples broken or wrong when clean, and those wrong when clean."""
        return cls(proportion(~broken), int((broken & ~clean).sum()), fallen, broken)


@dataclass(frozen=True)
class Witnesses:
    """Keeps the first success in every set, part by part, so that a stopped run goes on.

    Args:
        folder: made where it is missing.
    """

    folder: Path

    @property
    def parts(self) -> Path:
        """Where the coordinates lie until all are there."""
        return self.folder / ".witnesses"

    def begin(self, ledger: Ledger) -> None:
        """Take the folder for one evaluation, or find it taken by the same.

        Raises: DataError: it holds the witnesses of another one.
        """
        take_folder(self.parts, ledger, f"{self.folder}: holds the witnesses of another evaluation")

    def __call__(self, unit: Unit, rows: Tensor, images: Tensor, found: Found) -> None:
        """Keep the successes of one attack on one batch, set by set."""
        for number in sorted(set(found.within.tolist())):
            here = (found.within == number).nonzero().squeeze(1)
            z = trees.take(found.plain, here.to(images.device))
            leaves = {f"z{i}": leaf for i, leaf in enumerate(_leaves(z))}
            path = self.parts / f"{unit.batch:06d}-{unit.row:03d}-{number:03d}.safetensors"
            write_tensors(path, {**leaves, "example": rows[here.cpu()]})

    def finish(self, ledger: Ledger, threat: PerturbationSet, model: Model, x: Tensor) -> Path:
        """Write ``witnesses.safetensors``: each coordinate as small as its success survives.

        Args:
            ledger: the finished one.
            threat: the set, or union of sets, that was searched.
            model: asked again about what was rounded.
            x: (N, C, H, W), the images.

        Raises: DataError: a part of the evaluation was run without keeping its witnesses.
        """
        if self._finished(ledger):
            return self.folder / FILE
        known = {part.describe(): part for part in threat.parts()}
        tensors: dict[str, Tensor] = {"labels": ledger.labels, "prints": ledger.prints}
        shapes: dict[str, list[int]] = {}
        for number, name in enumerate(ledger.sets):
            part, (rows, leaves) = known[name], self._first(number)
            missing = ledger.broken_in(name) & ~ledger.broken[0]
            missing[rows] = False
            if int(missing.sum()):
                raise DataError(
                    f"{self.folder}: {int(missing.sum())} successes in {name} are of a run without "
                    "witnesses; begin again in another folder"
                )
            left = torch.arange(len(rows))
            for code in CODES:
                coded = [_encoded(leaf[left], code) for leaf in leaves]
                kept = torch.ones(len(left), dtype=torch.bool)
                if code != CODES[-1] and len(left):
                    z = [_decoded(parts, code) for parts in coded]
                    at = rows[left]
                    kept = _holds(part, model, x[at], ledger.labels[at].to(x.device), z)[0]
                for i, tensor in [
                    (i, t) for i, code_of in enumerate(coded) for t in enumerate(code_of)
                ]:
                    label = f"{number}.{code}.{i}.{tensor[0]}"
                    tensors[label], shapes[label] = squeezed(tensor[1][kept])
                tensors[f"{number}.{code}.rows"] = rows[left[kept]].int()
                left = left[~kept]
        facts = {"format": FORMAT, "sets": list(ledger.sets), "shapes": shapes}
        write_tensors(self.folder / FILE, tensors, facts=json.dumps(facts))
        shutil.rmtree(self.parts, ignore_errors=True)
        return self.folder / FILE

    def _finished(self, ledger: Ledger) -> bool:
        """Whether the file is there and holds a witness of every success of the ledger."""
        if not (self.folder / FILE).is_file() or any(self.parts.glob("*.safetensors")):
            return False
        tensors, names, _ = _read(self.folder / FILE)
        if names != list(ledger.sets) or not torch.equal(tensors["prints"], ledger.prints):
            return False
        for number, name in enumerate(names):
            broken = ledger.broken[0].clone()
            for code in CODES:
                broken[tensors[f"{number}.{code}.rows"].long()] = True
            if not torch.equal(broken, ledger.broken_in(name)):
                return False
        return True

    def _first(self, number: int) -> tuple[Tensor, list[Tensor]]:
        """Examples (M,) that were broken in a set, and the leaves of their first coordinates."""
        rows, leaves, seen = [], list[list[Tensor]](), set[int]()
        for path in sorted(self.parts.glob(f"*-{number:03d}.safetensors")):
            tensors, _ = unpacked(path)
            example = tensors.pop("example").tolist()
            new = [i for i, row in enumerate(example) if row not in seen]
            seen.update(example)
            rows += [example[i] for i in new]
            leaves.append([tensors[f"z{i}"][new] for i in range(len(tensors))])
        joined = [torch.cat(parts) for parts in zip(*leaves, strict=True)]
        return torch.tensor(rows, dtype=torch.int64), joined


def verify(
    file: Path, model: Model, x: Tensor, y: Tensor, threat: PerturbationSet
) -> dict[str, Verdict]:
    """Compute the accuracy in every set, and of their union, from witnesses, without an attack.

    Args:
        file: as ``Witnesses.finish`` wrote it.
        model: images (B, C, H, W) to logits (B, K).
        x: (N, C, H, W), the images that were evaluated.
        y: (N,) their labels.
        threat: the set, or union of sets, that was searched.

    Returns: verdicts by the names of the sets, of "clean", and of "union".

    Raises: DataError: the file is damaged, of another form, or of other images or sets.
    """
    tensors, names, shapes = _read(file)
    known = {part.describe(): part for part in threat.parts()}
    if set(names) != set(known):
        raise DataError(f"{file}: is of {' + '.join(names)}, not of {' + '.join(known)}")
    same = torch.equal(tensors["labels"], y.cpu())
    if not same or tensors["prints"].tolist() != prints(x, PIECE):
        raise DataError(f"{file}: is of other images or labels; give the same --data and --points")
    with evaluating(model), torch.no_grad():
        clean = _wrong(model, x, y)
        verdicts = {CLEAN: Verdict(proportion(~clean), int(clean.sum()), {}, clean)}
        union = clean.clone()
        for number, name in enumerate(names):
            broken, fallen = clean.clone(), dict[int, str]()
            for rows, z in _stored(tensors, shapes, number):
                held, why = _holds(known[name], model, x[rows], y[rows], z)
                broken[rows[held]] = True
                fallen |= {int(row): why[i] for i, row in enumerate(rows) if not held[i]}
            union |= broken
            verdicts[name] = Verdict.of(broken, clean, fallen)
    return verdicts | {"union": Verdict.of(union, clean, {})}


def sets_of(file: Path) -> list[str]:
    """The names of the sets that a file of witnesses is of.

    Raises: DataError: it is no such file.
    """
    return _read(file)[1]


def _read(file: Path) -> tuple[dict[str, Tensor], list[str], dict[str, list[int]]]:
    tensors, words = unpacked(file)
    try:
        facts = json.loads(words["facts"])
        if facts["format"] != FORMAT:
            raise KeyError("format")
        return tensors, facts["sets"], facts["shapes"]
    except (KeyError, ValueError) as error:
        raise DataError(f"{file}: holds no witnesses; give what --witnesses wrote") from error


def _stored(
    tensors: dict[str, Tensor], shapes: dict[str, list[int]], number: int
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Examples and the leaves of their coordinates in one set, some at a time."""
    for code in CODES:
        rows = tensors[f"{number}.{code}.rows"].long()
        count = len({n.split(".")[2] for n in shapes if n.startswith(f"{number}.{code}.")})
        coded = [
            [
                spread(tensors[name], shapes[name])
                for name in sorted(n for n in shapes if n.startswith(f"{number}.{code}.{i}."))
            ]
            for i in range(count)
        ]
        for start in range(0, len(rows), PIECE):
            part = slice(start, start + PIECE)
            yield rows[part], [_decoded([p[part] for p in parts], code) for parts in coded]


def _holds(
    threat: PerturbationSet, model: Model, x: Tensor, y: Tensor, leaves: list[Tensor]
) -> tuple[Tensor, list[str]]:
    """Whether each witness lies in its set and fools the network, and why it does not."""
    if not len(x):
        return torch.zeros(0, dtype=torch.bool), []
    z = _grown(threat.zero(x), iter(leaves))
    if isinstance(threat, Ball | L0):  # what was rounded may stick out of the box by a grain
        z = (x + z).clamp(0, 1) - x
    try:
        image, kept = verified(
            "the witness", threat, x, AttackResult(threat.apply(x, z), z, y.to(x.dtype))
        )
    except OutsideSet as error:
        if len(x) == 1:
            return torch.zeros(1, dtype=torch.bool), [str(error).split(": ")[1].split(";")[0]]
        rows = [slice(i, i + 1) for i in range(len(x))]
        each = [_holds(threat, model, x[r], y[r], [leaf[r] for leaf in leaves]) for r in rows]
        return torch.cat([held for held, _ in each]), [words[0] for _, words in each]
    held = kept.cpu() & _wrong(model, image, y)
    return held, ["" if one else "does not fool the network" for one in held.tolist()]


def _wrong(model: Model, x: Tensor, y: Tensor) -> Tensor:
    asked, loss = guard(model, 2, y), CrossEntropy()
    with full_precision(), evaluating(model), torch.no_grad():
        pieces = [
            loss.reached(asked(a), b)
            for a, b in zip(x.split(PIECE), y.split(PIECE), strict=True)  # type: ignore[no-untyped-call]
        ]
    return torch.cat(pieces).cpu()


def _leaves(z: Any) -> list[Tensor]:
    return [z] if isinstance(z, Tensor) else [leaf for part in z for leaf in _leaves(part)]


def _grown(like: Any, leaves: Iterator[Tensor]) -> Any:
    """The tree of the leaves, formed as another."""
    if isinstance(like, Tensor):
        return next(leaves).to(like.dtype).to(like.device)
    return tuple(_grown(part, leaves) for part in like)


def _encoded(leaf: Tensor, code: str) -> list[Tensor]:
    """A leaf (M, ...) in fewer bits; never larger in any entry, so that it leaves no ball."""
    if leaf.dim() < 4 or code == "full" or not leaf.is_floating_point():
        return [leaf]
    if code == "half":
        half = leaf.half()
        less = (half.view(torch.int16) - 1).view(torch.half)
        return [torch.where(half.double().abs() > leaf.double().abs(), less, half)]
    scale = leaf.double().flatten(1).abs().amax(1) / LEVELS
    wide = positive(scale).view(-1, *[1] * (leaf.dim() - 1))
    return [(leaf / wide).trunc().clamp(-LEVELS, LEVELS).to(torch.int8), scale]


def _decoded(parts: list[Tensor], code: str) -> Tensor:
    if code == "levels" and len(parts) == 2:
        return parts[0].double() * parts[1].view(-1, *[1] * (parts[0].dim() - 1))
    return parts[0]
