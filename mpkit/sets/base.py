"""What every perturbation set can do, and how it is written in words and read back."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mpkit.core.checks import Radius

Coordinate = Any
"""A tensor (B, ...) or a tuple of such tensors, whatever the set uses."""

KNOWN: dict[str, type[PerturbationSet]] = {}
"""The sets that can be read from words, by the word that they begin with."""

NUMBER = r"\d*\.?\d+\.?(?:e[+-]?\d+)?"


class PerturbationSet(ABC):
    """What an adversary may do to an image, described by a coordinate z for each image.

    A subclass that names its form in words, ``class Linf(Ball, form="linf:R")``, and knows how to
    ``describe`` and ``parse`` it, can be asked for wherever a threat model is written in words.
    """

    form: ClassVar[str] = ""

    def __init_subclass__(cls, form: str = "", **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if form:
            cls.form = form
            KNOWN[cls.word()] = cls

    @classmethod
    def word(cls) -> str:
        """What its description begins with, such as linf; empty for a set that has none."""
        return re.split(r"[:(]", cls.form)[0]

    def describe(self) -> str:
        """Words from which ``parse_threat`` makes the same set; ``repr`` for a set without them."""
        return repr(self)

    @classmethod
    def parse(cls, text: str) -> PerturbationSet:
        """Make the set from its words.

        Raises: ValueError: with what is wrong and how to write it.
        """
        raise unreadable(text)

    def parts(self) -> tuple[PerturbationSet, ...]:
        """The sets that this one is the union of, in order; most sets are their only part."""
        return (self,)

    @abstractmethod
    def apply(self, x: Tensor, z: Coordinate) -> Tensor:
        """Perturb images x (B, C, H, W) by z: (B, C, H, W), in [0, 1] when z is contained."""

    @abstractmethod
    def contains(self, x: Tensor, z: Coordinate) -> Tensor:
        """Whether each z is allowed for its image, up to rounding: (B,) bool."""

    @abstractmethod
    def sample(self, x: Tensor, rng: torch.Generator) -> Coordinate:
        """Draw one z for each image of x (B, C, H, W)."""

    @abstractmethod
    def zero(self, x: Tensor) -> Coordinate:
        """The z that leaves each image as it is."""

    @abstractmethod
    def scaled(self, w: Radius) -> Self:
        """The same set with all budgets times w, a number > 0 or (B,) numbers ≥ 0."""

    def gauge(self, x: Tensor, z: Coordinate) -> Tensor:
        """The least w ≥ 0 for which ``scaled(w)`` contains z, found by halving: (B,) float64.

        Infinite where no w up to a million does.
        """
        low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        high = torch.full_like(low, 1e6)
        nowhere = ~self.scaled(high).contains(x, z)
        for _ in range(60):
            middle = (low + high) / 2
            within = self.scaled(middle).contains(x, z)
            low, high = torch.where(within, low, middle), torch.where(within, middle, high)
        return torch.where(nowhere, torch.inf, high)

    @abstractmethod
    def check(self, x: Tensor) -> None:
        """Refuse budgets that are not finite, or not one for each image of x (B, C, H, W).

        Raises: ValueError: with what is wrong and what to do.
        """


def read(text: str) -> PerturbationSet:
    """Make one set from its words, such as ``linf:0.3``.

    Raises: ValueError: with what is wrong and how to write it.
    """
    begin = re.match(r"\s*(\w+)\s*[:(]", text)
    if begin is None or begin[1] not in KNOWN:
        raise unreadable(text, "cannot be read")
    return KNOWN[begin[1]].parse(text.strip())


def unreadable(text: str, why: str = "does not fit the form of its set") -> ValueError:
    """The error for words that cannot be read: what they are and how to write them."""
    forms = ", ".join(kind.form for kind in KNOWN.values())
    return ValueError(
        f"threat: {text.strip()!r} {why}; write {forms} (R a number or a fraction such as 8/255), "
        "joined by +, for example 'linf:0.3 + l1:10 + l2:2 + rt:3px,30deg'"
    )


def in_words(value: Radius) -> str:
    """A budget in full, without a decimal part that is zero."""
    return "one-per-image" if isinstance(value, Tensor) else repr(float(value)).removesuffix(".0")
