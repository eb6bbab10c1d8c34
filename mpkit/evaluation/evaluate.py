"""Evaluation: every attack on every example that is still right, each success checked again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mpkit.attacks import Attack, AttackResult, Batched, CrossEntropy, GraphedSteps, Margin
from mpkit.attacks.base import OnceReached, Problem
from mpkit.attacks.gradients import Guarded, Model, attacking, evaluating, guard
from mpkit.core import trees
from mpkit.core.checks import (
    ordinary,
    require_device,
    require_fitting,
    require_images,
    require_labels,
    require_positive,
)
from mpkit.core.devices import full_precision
from mpkit.core.files import DataError
from mpkit.core.memory import in_pieces
from mpkit.core.progress import Quiet
from mpkit.data.lazy import Rows
from mpkit.evaluation.adversarial import Found
from mpkit.evaluation.goals import AfterPilot, Attacks, EachSet, Entry, Goal, named
from mpkit.evaluation.ledger import Ledger
from mpkit.evaluation.resume import ResumableLedger, Unit, opened
from mpkit.evaluation.verification import located, verified
from mpkit.models import QueryCounter
from mpkit.models.identity import close, identity


class Keep(Protocol):
    """Is told which evaluation begins, then handed the images of every success, and their rows."""

    def begin(self, ledger: Ledger) -> None:
        """An evaluation begins, or goes on."""

    def __call__(self, unit: Unit, rows: Tensor, images: Tensor, found: Found) -> None:
        """One attack succeeded on a batch: (n,) rows, images (n, C, H, W), and coordinates."""


class FiniteGradients(QueryCounter):
    """A network that counts the images it is asked about, and keeps NaN out of gradients."""

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits."""
        if torch.is_grad_enabled() and x.requires_grad:
            x.register_hook(torch.nan_to_num)  # type: ignore[no-untyped-call]
        return super().forward(x)


class Part(NamedTuple):
    """A batch at hand: its number, images and labels."""

    batch: int
    x: Tensor
    y: Tensor


@torch.inference_mode(False)
@full_precision()
def evaluate(
    model: Model,
    x: Tensor | Rows,
    y: Tensor,
    attacks: Attacks,
    rng: torch.Generator,
    *,
    goal: Goal | None = None,
    batch: int = 256,
    first: int = 0,
    file: Path | None = None,
    progress: Quiet | None = None,
    keep: Keep | Sequence[Keep] = (),
) -> Ledger:
    """Attack every example with every attack that can still add something, and keep the books.

    Examples go through all attacks batch by batch. A success is counted only when the network is
    wrong on the image again, the image follows from its coordinate in float64, and the coordinate
    lies in its set to 1e-6 of the budget. NaN logits count as broken and are marked. A GPU
    multiplies in float32, not in tf32.

    Args:
        model: images (B, C, H, W) to logits (B, K); run in eval mode and left as it was.
        x: (N, C, H, W) in [0, 1], float32 or float64; on disk where they shall not be held, see
            ``mpkit.data.stored``.
        y: (N,) int64.
        attacks: attacks in the order in which they are run, by name if wanted, cheap ones first;
            what ``standard`` gives.
        rng: on the device of x; only one number is drawn, so that batches do not depend on each
            other and a shard gives the same as the whole.
        goal: which examples go on; EachSet() where not given.
        batch: examples at a time, > 0; halved by itself where memory does not suffice.
        first: place of the first example in its data set, a multiple of batch, for shards.
        file: where the ledger is kept after every attack on every batch; if it is there from an
            interrupted run it is gone on with, and the end is the same bit for bit.
        progress: told of every attack on every batch.
        keep: one or more that are handed every success: ``AdversarialImages``, ``Witnesses``.

    Returns: the ledger.

    Raises:
        OutsideSet: if an attack returns an example outside its set.
        ValueError: if an argument is unfit, or the file belongs to another evaluation.
    """
    x, y = x if isinstance(x, Rows) else ordinary(x), ordinary(y)
    outline = x.like() if isinstance(x, Rows) else x
    require_images(x[:1] if isinstance(x, Rows) else x)
    require_labels(y, outline)
    require_device("rng", rng.device, x.device)
    require_fitting(model, outline)
    require_positive("evaluate", batch=batch)
    pilot = goal.images if isinstance(goal, AfterPilot) else 0
    if first % batch:
        raise ValueError(f"evaluate: first must be a multiple of batch ({batch}), got {first}")
    if first and pilot:
        raise ValueError(f"evaluate: the pilot's images are the first, not of a shard from {first}")
    entries = named(attacks)
    for entry in entries:
        entry.attack.set.check(outline)
        trees.mapped(partial(_require_rows, entry.name, len(outline)), entry.attack)
    seed = int(torch.randint(2**62, (), generator=rng, device=x.device))
    goal = goal or EachSet()
    facts = facts_of(model, entries, goal, batch, seed, x[:1])
    state = opened(file, entries, facts, x, y, first, pilot)
    if state.done:
        _recognise(state, model, x[:batch], y[:batch], file)
    keepers = keep if isinstance(keep, Sequence) else (keep,)
    for one in keepers:
        one.begin(state.ledger)
    watched, told = FiniteGradients(model), progress or Quiet()
    stepping = GraphedSteps.usual(x.device)
    told.start(state.units, state.done)
    try:
        with attacking(watched), torch.no_grad():
            part: Part | None = None
            for unit in state.units_left():
                watched.forwards = watched.backwards = 0
                if part is None or part.batch != unit.batch:
                    part = Part(unit.batch, x[unit.columns], y[unit.columns])
                if unit.row == 0:
                    _look_at_clean(state, unit, watched, part)
                else:
                    entry = entries[unit.row - 1]
                    rows = _open_rows(state, unit, entry, goal)
                    if len(rows):
                        number = first // batch + unit.batch
                        rng_of_unit = generator_of(x.device, seed, entry.name, number)
                        given = part, entry, rows, rng_of_unit, stepping
                        _attack(state, unit, watched, *given, keepers)
                passes = torch.tensor([watched.forwards, watched.backwards])
                state.ledger.images[unit.row] += passes
                state.close_unit(file)
                told.advance(1, state.note())
    finally:
        told.close()
    return state.ledger


def _require_rows(name: str, count: int, tensor: Tensor) -> Tensor:
    if len(tensor) != count:
        raise ValueError(
            f"evaluate: {name} holds {len(tensor)} values of one for each image, but there are "
            f"{count} images; give one for each"
        )
    return tensor


def facts_of(
    model: Model, entries: Sequence[Entry], goal: Goal, batch: int, seed: int, image: Tensor
) -> dict[str, Any]:
    """What a ledger tells of its making; equal facts and equal images give equal ledgers.

    An image (1, C, H, W) gives shape and type of those that the model is asked about.
    """
    with evaluating(model):
        who = identity(model, image, Guarded(model, 2))
    return {
        "attacks": [f"{entry.name}: {entry.attack!r}" for entry in entries],
        "batch": batch,
        "goal": repr(goal),
        "seed": seed,
        **who,
    }


def _recognise(
    state: ResumableLedger, model: Model, x: Tensor, y: Tensor, file: Path | None
) -> None:
    """Refuse a file whose network answered otherwise on the first batch.

    Raises: DataError: it did.
    """
    if state.ledger.facts["answers"] is None:
        return
    with evaluating(model):
        _, margin, _ = answer(FiniteGradients(model), x, y)
    if not close(margin, state.ledger.margin[0, : len(margin)]):
        raise DataError(
            f"{file}: holds the evaluation of another network, which answers otherwise on these "
            "images; give the same one to go on, or another file"
        )


def _look_at_clean(state: ResumableLedger, unit: Unit, model: FiniteGradients, part: Part) -> None:
    """Fill the clean row for a batch."""
    ledger, columns = state.ledger, unit.columns
    wrong, margin, unfit = answer(model, part.x, part.y)
    ledger.broken[0, columns], ledger.margin[0, columns] = wrong, margin
    ledger.unfit[columns] = unfit
    ledger.tried[0, columns] = True


def _open_rows(state: ResumableLedger, unit: Unit, entry: Entry, goal: Goal) -> Tensor:
    """Places in a batch of the examples that the attack is run on: (n,) int64."""
    ledger, columns = state.ledger, unit.columns
    if state.pilot and state.idle(unit):
        return torch.empty(0, dtype=torch.int64)
    if entry.after is not None:
        earlier = ledger.names.index(entry.after)
        if not bool(ledger.broken[earlier, columns].any()):
            return torch.empty(0, dtype=torch.int64)
    broken = state.broken_by_set(columns)
    mine = [ledger.sets.index(part.describe()) for part in entry.attack.set.parts()]
    standing = goal.open(broken, broken[mine]) & ~ledger.broken[0, columns]
    return standing.nonzero().squeeze(1)


def _attack(
    state: ResumableLedger,
    unit: Unit,
    model: FiniteGradients,
    part: Part,
    entry: Entry,
    places: Tensor,
    rng: torch.Generator,
    stepping: GraphedSteps,
    keepers: Sequence[Keep],
) -> None:
    """Run one attack on some examples of a batch, check what it claims, and enter it."""
    ledger, row, device = state.ledger, unit.row, part.x.device
    rows, places = places + unit.columns.start, places.to(device)
    images, labels = part.x[places], part.y[places]
    attack: Attack = trees.take(trees.moved(entry.attack, device), rows.to(device))
    tally = torch.zeros(len(rows), dtype=torch.int64, device=device)
    guarded = guard(model, attack.classes, labels)
    every = torch.arange(len(rows), device=device)
    stop = OnceReached()
    problem = Problem(guarded, images, labels, rng, stop, tally, every, part.x, stepping)
    found = Batched(attack, state.batch).find(problem)
    wrong, margin, unfit = answer(model, found.image, labels)
    if bool(wrong.any()):
        claimed = wrong.nonzero().squeeze(1).to(device)
        claim = AttackResult(*trees.take(tuple(found), claimed))
        threat = trees.take(attack.set, claimed)
        image, kept = verified(entry.name, threat, images[claimed], claim)
        again, margin[wrong], unfit[wrong] = answer(model, image, labels[claimed])
        place = located(threat, claim.z, len(claimed))
        numbers = [ledger.sets.index(one.describe()) for one in entry.attack.set.parts()]
        within = torch.tensor(numbers, dtype=torch.int8)[place]
        counted = again & kept.cpu()
        ledger.within[row, rows[wrong]] = torch.where(counted, within, -1)
        wrong[wrong.clone()] = counted
        if keepers and bool(counted.any()):
            mine = counted.nonzero().squeeze(1)
            there = trees.take((threat, claim.z), mine.to(device))
            told = rows[wrong], image[counted.to(device)], Found(*there, within[mine])
            for one in keepers:
                one(unit, *told)
    ledger.broken[row, rows], ledger.margin[row, rows] = wrong, margin
    ledger.steps[row, rows] = tally.cpu().int()
    ledger.tried[row, rows] = True
    ledger.unfit[rows] |= unfit & wrong


def answer(model: FiniteGradients, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the model is wrong, by which margin, and whether it gave NaN: (B,) each, on CPU."""
    guarded = guard(model, 2, y)
    pieces = in_pieces("evaluate", lambda rows: guarded(images[rows]), len(y), len(y))
    logits = torch.cat(pieces)
    margin = Margin()(logits, y)
    answers = (CrossEntropy().reached(logits, y), margin.float(), logits.isnan().any(1))
    wrong, margin, unfit = (answer.cpu() for answer in answers)
    return wrong, margin, unfit


def generator_of(device: torch.device, seed: int, name: str, batch: int) -> torch.Generator:
    """Randomness of one attack on one batch, whatever ran before."""
    content = hashlib.sha256(f"{seed}/{name}/{batch}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(content[:7], "big"))
