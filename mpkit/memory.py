"""Attacks in pieces: a bound on memory, halved by itself where it is still too much."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from mpkit import trees
from mpkit.checks import require_positive
from mpkit.engine import Attack, Found, Problem
from mpkit.losses import Loss
from mpkit.perturbation import PerturbationSet

Piece = TypeVar("Piece")


class NoMemory(torch.OutOfMemoryError):
    """The smallest piece of work does not fit into memory; the message says what to do."""


def ran_out(error: Exception) -> bool:
    """Whether an error says that memory ran out, that of the device or that of the host."""
    host = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return host or isinstance(error, torch.OutOfMemoryError | MemoryError)


def in_pieces(
    who: str,
    work: Callable[[slice], Piece],
    rows: int,
    size: int,
    rng: torch.Generator | None = None,
) -> list[Piece]:
    """Do work on some rows at a time, on half as many from then on where memory runs out.

    Args:
        who: names the work in warnings and errors.
        work: is given the rows of a piece.
        rows: how many there are.
        size: rows at a time, > 0.
        rng: set back before a piece is tried again, so that no number is drawn twice.

    Returns: what work returned for every piece, in order.

    Raises:
        NoMemory: if not even a single row fits.
    """
    parts: list[Piece] = []
    done = 0
    while done < rows:
        piece = slice(done, min(done + size, rows))
        count = piece.stop - done
        state = rng.get_state() if rng else None
        try:
            parts.append(work(piece))
            done = piece.stop
            continue
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            reason = str(error).split(".")[0]
        if count == 1:
            raise NoMemory(
                f"{who}: out of memory at a single example ({reason}); end what else uses this "
                "memory, or take a smaller network or a device with more"
            )
        if rng and state is not None:
            rng.set_state(state)
        size = count // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        warnings.warn(
            f"{who}: out of memory at {count} examples ({reason}); going on with {size}",
            stacklevel=3,
        )
    return parts


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
            NoMemory: if not even a single example fits.
        """

        def attack(piece: slice) -> Found:
            rows = torch.arange(piece.start, piece.stop, device=problem.x.device)
            return trees.take(self.attack, rows).find(problem.take(rows))

        return trees.joined(in_pieces("Batched", attack, len(problem.x), self.size, problem.rng))
