"""Targeted evaluation: can an adversary bring images to a class of its choice?

A network and a target make a network of two classes: not the target, and the target. Every attack,
suite and ledger then serves as it is; broken means that the network says the target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from mpkit.attacks.gradients import evaluating, guard
from mpkit.core.checks import ordinary
from mpkit.core.progress import Quiet
from mpkit.evaluation.evaluate import evaluate
from mpkit.evaluation.goals import Goal
from mpkit.evaluation.ledger import Ledger
from mpkit.evaluation.reports import accuracies, columns
from mpkit.evaluation.suites import Budget, standard
from mpkit.sets import PerturbationSet


class TargetView(nn.Module):
    """A network seen as one of two classes: its greatest other logit, and that of the target.

    Args:
        model: images (B, C, H, W) to logits (B, K).
        target: a class, in 0..K - 1.
    """

    def __init__(self, model: Callable[[Tensor], Tensor], target: int) -> None:
        super().__init__()
        self.model, self.target = model, target

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 2) of images (B, C, H, W)."""
        logits = self.model(x)
        others = torch.cat([logits[:, : self.target], logits[:, self.target + 1 :]], 1)
        return torch.stack([others.amax(1), logits[:, self.target]], 1)


@torch.inference_mode(False)
def targets_of(
    word: str, model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, classes: Sequence[str]
) -> dict[int, Tensor]:
    """Which examples are to be brought to which class: class to places (n,), none to its own.

    Args:
        word: a class by number or name, ``least`` for the class that the model finds least likely
            on the clean image, or ``all`` for every class.
        model: images to logits (B, K).
        x: (N, C, H, W).
        y: (N,).
        classes: their names.

    Raises: ValueError: the word is none of these, the model has no such class, or no image is of
        another one.
    """
    classes = list(classes)
    x, y, count = ordinary(x), ordinary(y), len(classes)
    with evaluating(model), torch.no_grad():
        ask = guard(model, count, y)
        if word == "least":
            least = torch.cat([ask(part).argmin(1) for part in torch.split(x, 256)])
            each = {k: (least == k) & (y != k) for k in range(count)}
        elif word == "all":
            ask(x[:1])
            each = {k: y != k for k in range(count)}
        else:
            ask(x[:1])
            number = word.isascii() and word.isdigit() and int(word) < count
            if not number and word not in classes:
                raise ValueError(
                    f"targeted: {word!r} is no target; give a class from 0 to {count - 1} or its "
                    "name, least or all"
                )
            k = classes.index(word) if word in classes else int(word)
            each = {k: y != k}
    found = {k: places.nonzero().squeeze(1) for k, places in each.items() if bool(places.any())}
    if not found:
        raise ValueError(f"targeted: every image is of class {word} already; give more, or another")
    return found


def evaluate_toward(
    targets: Mapping[int, Tensor],
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    threat: PerturbationSet,
    seed: int,
    *,
    budget: Budget | str = "standard",
    goal: Goal | None = None,
    batch: int = 256,
    folder: Path | None = None,
    progress: Callable[[str], Quiet] = lambda label: Quiet(),
) -> dict[int, Ledger]:
    """A ledger for every target: which images were brought to it, by which attack.

    Args:
        targets: of ``targets_of``.
        model: images (B, C, H, W) to logits (B, K).
        x: (N, C, H, W).
        threat: what the adversary may do.
        seed: of all draws.
        budget: see ``standard``.
        goal: which examples go on.
        batch: examples at a time.
        folder: for a file of each target, with which an interrupted run goes on.
        progress: makes the bar of one target, from its label.
    """
    found = {}
    for target, places in targets.items():
        view = TargetView(model, target).eval()
        rng = torch.Generator(x.device).manual_seed(seed)
        file = None if folder is None else folder / f"target-{target}.safetensors"
        suite, zeros = standard(threat, budget, 2), torch.zeros_like(places)
        told = progress(f"toward {target}")
        found[target] = evaluate(
            view, x[places], zeros, suite, rng, goal=goal, batch=batch, file=file, progress=told
        )
    return found


def table_toward(ledgers: Mapping[int, Ledger], classes: Sequence[str]) -> str:
    """For every target the images and the share that reached it: clean, in each set, in any."""
    rows = []
    for target, ledger in ledgers.items():
        shares = {name: 1 - estimate.value for name, estimate in accuracies(ledger).items()}
        shares.pop("average", None)
        told = [f"{100 * share:.1f} %" for share in shares.values()]
        rows.append([f"{target} ({classes[target]})", f"{len(ledger):,}", *told])
        names = list(shares)
    return columns(["target reached", "images", *names], rows)
