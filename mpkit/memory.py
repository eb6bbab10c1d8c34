"""Attacks in pieces: a bound on memory, halved by itself where it is still too much."""

import warnings
from dataclasses import dataclass, field

import torch

from mpkit import trees
from mpkit.checks import require_positive
from mpkit.engine import Attack, Found, Problem
from mpkit.losses import Loss
from mpkit.perturbation import PerturbationSet


@dataclass(frozen=True)
class Batched(Attack):
    """An attack run on a few examples at a time, so that memory does not grow with their number.

    When the device runs out of memory the batch size is halved, with a warning, and the piece is
    run again with the same random numbers. Sets, losses and attacks with one value for each
    example are cut along.

    Args:
        attack: any attack.
        size: examples at a time, > 0; about 128 is quickest on a CPU.

    Raises:
        ValueError: if size is not positive.
    """

    attack: Attack
    size: int = 128
    set: PerturbationSet = field(init=False, repr=False)
    loss: Loss = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_positive("Batched", size=self.size)
        object.__setattr__(self, "set", self.attack.set)
        object.__setattr__(self, "loss", self.attack.loss)

    @property
    def classes(self) -> int:
        """Fewest classes the attack needs."""
        return self.attack.classes

    def find(self, problem: Problem) -> Found:
        """Attack one piece after the other.

        Raises:
            torch.OutOfMemoryError: if not even a single example fits.
        """
        parts: list[Found] = []
        done, size = 0, self.size
        while done < len(problem.x):
            rows = torch.arange(done, min(done + size, len(problem.x)), device=problem.x.device)
            state = problem.rng.get_state()
            try:
                parts.append(trees.take(self.attack, rows).find(problem.take(rows)))
                done += len(rows)
                continue
            except (torch.OutOfMemoryError, MemoryError) as error:
                if len(rows) == 1:
                    raise
                reason = str(error).split(".")[0]
            problem.rng.set_state(state)
            size = len(rows) // 2
            if problem.x.is_cuda:
                torch.cuda.empty_cache()
            warnings.warn(
                f"Batched: out of memory at {len(rows)} examples ({reason}); going on with {size}",
                stacklevel=2,
            )
        return trees.joined(parts)
