"""What a number may be on another processor: a comparison of outputs that knows what a number is.

Processors round differently, a training carries the last bits on, and in the end one image of four
hundred falls on the other side. A cell whose numbers come from a search or a training says in its
metadata how far they may move::

    {"mpkit": {"may_move": {"points": 0.5, "counts": 2}}}

Words, the order of rows, sizes and numbers of other kinds stay exact, and so does a cell without
the declaration. How far numbers were seen to move is in ``book/results/processors.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

from mpkit.core.records import DECLARED

FIELD = "mpkit"  # of a cell's metadata
PICTURES = ("image/png", "image/jpeg")  # never compared: a cell beside them prints their numbers
NUMBER = re.compile(
    r"(?<![\w.])[-+]?"  # not the 2 of l2, nor the end of another number
    r"(?:(?<![\d,\[])\d{1,3}(?:,\d{3})+(?![\d,\]])|\d+)"  # 131,774, but not three of a list
    r"(?:\.\d+)?(?:e[-+]?\d+)?"
)
MANY = 1000  # whole numbers from here on move by a share of themselves
BEFORE_A_SIZE = re.compile(r"(?:\bof|\b[Nn] =)\s*$")
Output = Mapping[str, Any]


class Move(NamedTuple):
    """One number of a cell, as it is stored and as it came out.

    The kind is "points" (percentages), "counts" (whole numbers), "decimals" (others), "sizes"
    (whole numbers after "of", "N =" or "n =") or "shares" (declared results).
    """

    kind: str
    stored: float
    new: float


@dataclass(frozen=True)
class Tolerance:
    """How far the numbers of one cell may move; 0 for those that may not.

    Args:
        points: percentages; a declared result may move by a hundredth of it.
        counts: smaller whole numbers but sizes.
        decimals: all others, declared results included, each in its own unit.
        share: of the stored value, for whole numbers of at least 1,000 (see MANY).
    Raises: ValueError: a value is negative or not a number.
    """

    points: float = 0.0
    counts: float = 0.0
    decimals: float = 0.0
    share: float = 0.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"may_move: {name} is {value!r}, expected a number of at least 0")

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> Tolerance:
        """What a cell declares: nothing may move where it declares nothing.

        Raises:
            ValueError: the declaration has another form; the message says which names there are.
        """
        given = cell["metadata"].get(FIELD, {}).get("may_move", {})
        known = [field.name for field in fields(cls)]
        unknown = set(given) - set(known)
        if unknown:
            raise ValueError(f"may_move: unknown {sorted(unknown)}, expected some of {known}")
        return cls(**given)

    def allows(self, move: Move) -> bool:
        """Whether a number may have moved so."""
        many = abs(move.stored) >= MANY
        width = {
            "points": self.points,
            "counts": self.share * abs(move.stored) if many else self.counts,
            "decimals": self.decimals,
            "sizes": 0.0,
            "shares": max(self.points / 100, self.decimals),
        }[move.kind]
        return abs(move.new - move.stored) <= width * (1 + 1e-9) + 1e-12


def moves(stored: Any, new: Any, kind: str = "") -> list[Move] | None:
    """Every number of two values that are alike but for their numbers; None if they are not.

    Args:
        stored: a text, or plain data (numbers, lists, dictionaries) as outputs hold it.
        new: the same on this processor.
        kind: of the bare numbers, where it does not depend on their form (see Move).
    """
    if isinstance(stored, str) and isinstance(new, str):
        return _moves_of_texts(stored, new)
    if isinstance(stored, Mapping) and isinstance(new, Mapping):
        if set(stored) != set(new):  # a file sorts them
            return None
        return _all(moves(stored[key], new[key], kind) for key in stored)
    if isinstance(stored, list) and isinstance(new, list):
        if len(stored) != len(new):
            return None
        return _all(moves(a, b, kind) for a, b in zip(stored, new, strict=True))
    if _is_number(stored) and _is_number(new):
        whole = isinstance(stored, int) and isinstance(new, int)
        return [Move(kind or ("counts" if whole else "decimals"), stored, new)]
    return [] if (type(stored), stored) == (type(new), new) else None


def moves_of_cell(stored: Sequence[Output], new: Sequence[Output]) -> list[Move] | None:
    """Every number that two runs of one cell show; None if they differ in anything else."""
    if len(stored) != len(new):
        return None
    return _all(_moves_of_output(a, b) for a, b in zip(stored, new, strict=True))


def settled(
    new: Sequence[Output], stored: Sequence[Output], tolerance: Tolerance, pictures: bool
) -> list[Output]:
    """The stored outputs of a cell if the new ones differ by no more than is allowed, else the new.

    ``pictures`` says whether pictures, which are never compared, are the stored ones as well.
    """
    if not _allowed(stored, new, tolerance):
        return list(new)
    if pictures:
        return list(stored)
    return [_with_pictures_of(a, b) for a, b in zip(stored, new, strict=True)]


def _allowed(stored: Sequence[Output], new: Sequence[Output], tolerance: Tolerance) -> bool:
    """Whether a cell moved by no more than it may: not by a blank where it declares nothing."""
    if tolerance == Tolerance():
        return [*map(_told, stored)] == [*map(_told, new)]
    found = moves_of_cell(stored, new)
    return found is not None and all(map(tolerance.allows, found))


def _told(output: Output) -> list[Any]:
    """What is compared of an output, as it is."""
    data = {key: _text(value) for key, value in output.get("data", {}).items()}
    words = {key: value for key, value in data.items() if key not in PICTURES}
    return [output["output_type"], output.get("name"), _text(output.get("text")), words]


def _with_pictures_of(stored: Output, new: Output) -> Output:
    drawn = {key: new["data"][key] for key in PICTURES if key in new.get("data", {})}
    return {**stored, "data": {**stored["data"], **drawn}} if drawn else stored


def _moves_of_output(stored: Output, new: Output) -> list[Move] | None:
    if stored["output_type"] != new["output_type"]:
        return None
    if stored["output_type"] == "stream":
        if stored["name"] != new["name"]:
            return None
        return moves(_text(stored["text"]), _text(new["text"]))
    a, b = stored.get("data", {}), new.get("data", {})
    if sorted(a) != sorted(b):
        return None
    return _all(
        moves(_text(a[key]), _text(b[key]), "shares" if key == DECLARED else "")
        for key in sorted(a)
        if key not in PICTURES
    )


def _text(value: Any) -> Any:
    """A text that a notebook file holds as a list of lines, whole."""
    lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
    return "".join(value) if lines else value


def _moves_of_texts(stored: str, new: str) -> list[Move] | None:
    if [*_words(stored)] != [*_words(new)]:
        return None
    return list(_pairs(stored, new))


def _words(text: str) -> Iterator[str]:
    """What stands between the numbers, without the blanks that only align them."""
    for words in NUMBER.split(text):
        yield re.sub(r"[ \t]+", " ", words).strip(" \t")


def _pairs(stored: str, new: str) -> Iterator[Move]:
    for a, b in zip(NUMBER.finditer(stored), NUMBER.finditer(new), strict=True):
        kinds = (_kind(stored, a), _kind(new, b))
        values = (float(a.group().replace(",", "")), float(b.group().replace(",", "")))
        yield Move("decimals" if set(kinds) == {"counts", "decimals"} else kinds[0], *values)


def _kind(text: str, number: re.Match[str]) -> str:
    if re.match(r"\s?%", text[number.end() : number.end() + 2]):
        return "points"
    if not re.fullmatch(r"[-+]?[\d,]+", number.group()):
        return "decimals"
    return "sizes" if BEFORE_A_SIZE.search(text[: number.start()]) else "counts"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _all(parts: Iterator[list[Move] | None]) -> list[Move] | None:
    """The parts as one list, or None if there is none of one of them."""
    found: list[Move] = []
    for part in parts:
        if part is None:
            return None
        found += part
    return found
