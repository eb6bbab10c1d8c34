"""Paired contests: does another kind of attack achieve more than the same kind once again?"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

from mpkit.masking.tame import Judged

LEVEL = 0.002
"""Chance of a false alarm that a single comparison may have; there are some ten for each set."""

LAST_LEVEL = 0.01
"""The same for the one comparison in which all challengers take part together."""

MATERIAL = 0.1
"""A margin counts as raised further if it was raised by this share more."""


def at_least(k: int, n: int) -> float:
    """The chance of k or more heads in n throws of a fair coin: the one-sided sign test."""
    return float(sum(comb(n, i) for i in range(k, n + 1)) / 2**n)


@dataclass(frozen=True)
class Contest:
    """A challenger against a control attack of a comparable cost, on the same examples.

    Args:
        challenger: what the challenger is, in words.
        control: what the control is, in words.
        total: examples that the model gets right without an attack.
        entered: examples that took part.
        gained: broken by the challenger and not by the control.
        lost: broken by the control and not by the challenger.
        higher: the challenger raised the margin further, by a material amount.
        lower: the control did.
    """

    challenger: str
    control: str
    total: int
    entered: int
    gained: int
    lost: int
    higher: int
    lower: int

    @classmethod
    def between(
        cls, names: tuple[str, str], total: int, clean: Judged, first: Judged, second: Judged
    ) -> Contest:
        """Compare what a control (first) and a challenger (second) reached from the clean images.

        Args:
            names: of the challenger and of the control.
            total: examples that the model gets right without an attack.
            clean: the examples without an attack; all arguments have (B,) rows.
            first: what the control reached.
            second: what the challenger reached.
        """
        way, further = first.margin - clean.margin, second.margin - clean.margin
        more = MATERIAL * (way.abs() + further.abs()) / 2 + 1e-6 * clean.margin.abs()
        counts = (
            second.wrong & ~first.wrong,
            first.wrong & ~second.wrong,
            further > way + more,
            way > further + more,
        )
        return cls(*names, total, len(way), *(int(count.sum()) for count in counts))

    @property
    def breaks(self) -> bool:
        """Whether the challenger breaks more: sign test, and at least one example in 25."""
        return self.leads(LEVEL)

    def leads(self, level: float) -> bool:
        """Whether the challenger breaks more, at a level of its own."""
        enough = self.gained - self.lost >= max(3, 0.04 * self.total)
        return enough and at_least(self.gained, self.gained + self.lost) < level

    @property
    def climbs(self) -> bool:
        """Whether it raises more margins: sign test, and a lead of a third of the examples."""
        enough = self.higher - self.lower >= self.entered / 3
        return enough and at_least(self.higher, self.higher + self.lower) < LEVEL

    @property
    def won(self) -> bool:
        """Whether the challenger is better in one of the two ways."""
        return self.breaks or self.climbs

    def words(self) -> str:
        """The counts in one sentence."""
        return (
            f"{self.challenger} breaks {self.gained} of {self.entered} that {self.control} does "
            f"not (the other way {self.lost}), and raises the margin further on {self.higher} "
            f"(less far on {self.lower})"
        )
