"""An evaluation shared among workers: the same ledger, bit for bit, as from one process.

The random numbers of an evaluation belong to its batches, so a shard is a run of whole batches.
Images and weights are sent along: workers need mpkit and the network's factory, no data.
"""

from __future__ import annotations

import tempfile
import uuid
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mpkit.core.cluster import answers, opened
from mpkit.core.files import packed
from mpkit.core.progress import Quiet
from mpkit.core.records import device_name
from mpkit.core.workers import ClusterError, Workers
from mpkit.data import Images
from mpkit.data.lazy import Rows, Stored
from mpkit.evaluation.adversarial import AdversarialImages, Exported
from mpkit.evaluation.evaluate import Keep, evaluate, facts_of
from mpkit.evaluation.goals import Entry, Goal
from mpkit.evaluation.ledger import Ledger, merged
from mpkit.evaluation.resume import opened as opened_ledger
from mpkit.evaluation.witnesses import Witnesses
from mpkit.models import load_model
from mpkit.sets import Union


@dataclass(frozen=True)
class Request:
    """What is evaluated and how; the same for all shards.

    Args:
        spec: the network, as ``mpkit.models.load_model`` takes it.
        shape: (C, H, W) of the images.
        classes: number of classes.
        entries: a suite, such as ``mpkit.evaluation.standard`` gives.
        goal: which examples go on.
        batch: examples at a time, the unit of randomness.
        seed: of the generator on each worker's device.
        device: as a worker resolves it.
    """

    spec: str
    shape: tuple[int, int, int]
    classes: int
    entries: tuple[Entry, ...]
    goal: Goal
    batch: int
    seed: int
    device: str


class Sharded(NamedTuple):
    """A merged ledger, the name of the device that it was made on, and what was exported."""

    ledger: Ledger
    device: str
    exported: Exported | None = None
    witnesses: Path | None = None


def cut(examples: int, batch: int, shards: int | None) -> list[slice]:
    """Places of each shard: runs of whole batches, as even as can be.

    Args:
        examples: number of examples, > 0.
        batch: examples of a batch, > 0.
        shards: how many; None for one per batch.
    Raises: ValueError: there are fewer batches than shards.
    """
    batches = -(-examples // batch)
    shards = batches if shards is None else shards
    if not 1 <= shards <= batches:
        raise ValueError(
            f"--shards: {examples} examples in batches of {batch} give 1 to {batches} shards, "
            f"got {shards}; a smaller --batch allows more, with other random numbers"
        )
    ends = [min(examples, batches * i // shards * batch) for i in range(shards + 1)]
    return [slice(a, b) for a, b in pairwise(ends)]


def evaluate_in_shards(
    request: Request,
    weights: Path | None,
    images: Images | Stored,
    place: Workers,
    shards: int | None,
    folder: Path,
    progress: Quiet,
) -> Sharded:
    """Evaluate on workers and merge; what is finished is kept in ``folder`` and not done again.

    Args:
        request: what to do.
        weights: the network's weights, read here and sent to the workers.
        images: on the CPU, or on disk.
        place: where the workers are.
        shards: how many; None for one per batch.
        folder: for ``ledger.safetensors`` and, one file per shard, ``shards``.
        progress: told of every shard.
    Raises:
        ValueError: an argument is unfit, or the folder holds another evaluation.
        ClusterError: the workers are not fit, were lost, or shards failed; the others are kept.
    """
    pieces = cut(len(images), request.batch, shards)
    network = load_model(request.spec, weights, request.shape, request.classes, "cpu")
    entries = request.entries
    with opened(place, len(pieces), request.device, request.seed) as (client, ground):
        image = images.x[:1]
        facts = facts_of(network, entries, request.goal, request.batch, ground.drawn, image)

        def kept(file: Path, piece: slice) -> Ledger | None:
            if not file.exists():
                return None
            x, y = images.x[piece], images.y[piece]
            state = opened_ledger(file, entries, facts, x, y, piece.start)
            return state.ledger if state.done == state.units else None

        whole = kept(folder / "ledger.safetensors", slice(0, len(images)))
        if whole is not None:
            return Sharded(whole, ground.device)
        files = [folder / "shards" / f"{p.start:06d}-{p.stop:06d}.safetensors" for p in pieces]
        found = {file: kept(file, p) for file, p in zip(files, pieces, strict=True)}
        left = {f: p for f, p in zip(files, pieces, strict=True) if found[f] is None}
        progress.start(len(files), len(files) - len(left))
        try:
            held = _send_weights(client, network.state_dict())
            run = uuid.uuid4().hex
            jobs = {f"{f.stem}-{run}": (request, held, *_part(images, p)) for f, p in left.items()}
            by_key = dict(zip(jobs, left, strict=True))
            problems = []
            for key, result in answers(client, ground, evaluate_shard, jobs):
                file = by_key[key]
                if isinstance(result, BaseException):
                    problems.append(f"examples {file.stem}: {type(result).__name__}: {result}")
                    continue
                result.save(file)
                found[file] = result
                progress.advance(1, f"union {result.union_accuracy().value:.1%} in {file.stem}")
        finally:
            progress.close()
    if problems:
        few = "\n".join(problems[:5])
        raise ClusterError(
            f"{few}\n{len(problems)} of {len(files)} shards failed; the others are kept: run the "
            "same command again to go on"
        )
    ledger = merged([one for one in found.values() if one is not None])
    ledger.save(folder / "ledger.safetensors")
    return Sharded(ledger, ground.device)


def evaluate_here(
    request: Request,
    weights: Path | None,
    images: Images | Stored,
    folder: Path,
    progress: Quiet,
    keep: AdversarialImages | None = None,
    witnesses: bool = False,
) -> Sharded:
    """Evaluate in this process; arguments as of ``evaluate_in_shards``, images on any device.

    ``ledger.safetensors`` is kept after every attack on a batch, of which ``progress`` is told; so
    are the adversarial images where ``keep`` is given, which are exported in the end, and the
    witnesses where they are asked for, beside the ledger.

    Raises: ValueError: an argument is unfit, or the folder holds another evaluation.
    """
    network = load_model(request.spec, weights, request.shape, request.classes, request.device)
    file = folder / "ledger.safetensors"
    found = Witnesses(folder) if witnesses else None
    keepers = [one for one in (keep, found) if one is not None]
    ledger = _evaluate(request, network, images.x, images.y, 0, file, progress, keepers)
    exported = keep.export(ledger, network) if keep is not None else None
    if found is None:
        return Sharded(ledger, device_name(request.device), exported)
    known = {t.describe(): t for entry in request.entries for t in entry.attack.set.parts()}
    kept = found.finish(ledger, Union(*known.values()), network, images.x[:])
    return Sharded(ledger, device_name(request.device), exported, kept)


def evaluate_shard(request: Request, weights: bytes, x: Tensor, y: Tensor, first: int) -> Ledger:
    """Evaluate one shard; runs on a worker."""
    with tempfile.TemporaryDirectory(prefix="mpkit-") as folder:
        file = Path(folder) / "weights.safetensors"
        file.write_bytes(weights)
        network = load_model(request.spec, file, request.shape, request.classes, request.device)
    return _evaluate(request, network, x, y, first)


def _evaluate(
    request: Request,
    network: nn.Module,
    x: Tensor | Rows,
    y: Tensor,
    first: int,
    file: Path | None = None,
    progress: Quiet | None = None,
    keep: Sequence[Keep] = (),
) -> Ledger:
    where = next((p.device for p in network.parameters()), torch.device("cpu"))
    return evaluate(
        network,
        x.to(where),
        y.to(where),
        request.entries,
        torch.Generator(where).manual_seed(request.seed),
        goal=request.goal,
        batch=request.batch,
        first=first,
        file=file,
        progress=progress,
        keep=keep,
    )


def hold(content: bytes) -> bytes:
    """The content itself, as a task: a worker that dies with it is replaced by another."""
    return content


def _send_weights(client: Any, state: dict[str, Tensor]) -> Any:
    content = packed({name: tensor.clone() for name, tensor in state.items()})
    with warnings.catch_warnings(action="ignore"):  # of a large message, which is sent once
        return client.submit(hold, content, pure=False)


def _part(images: Images | Stored, piece: slice) -> tuple[Tensor, Tensor, int]:
    return images.x[piece].clone(), images.y[piece].clone(), int(piece.start)
