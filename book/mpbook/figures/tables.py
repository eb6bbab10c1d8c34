"""Tables of results: aligned on the page and on a phone, with a twin in plain text.

A page shows the HTML form; a terminal, a text browser and the tests that execute the page again
see the text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

from mpbook.figures.style import LOOKS
from mpkit.core.statistics import Estimate

Value = Estimate | float | str | None


@dataclass(frozen=True)
class Table:
    """Rows by name, each with the same columns; what a cell shows last is what a notebook draws.

    Args:
        rows: row name to column name to value: a number, an estimate with its interval, or a text.
        form: of numbers, as ``format`` takes it, such as ``.1%``.
        within: of the two ends of an interval, which need fewer digits.
        corner: what stands above the names of the rows, for example the unit of all numbers.
        times: what numbers are multiplied with before they are written: 100 shows shares in
            per cent without a sign in every cell.
    """

    rows: Mapping[str, Mapping[str, Value]]
    form: str = ".1%"
    within: str = ".0%"
    corner: str = ""
    times: float = 1.0

    def __post_init__(self) -> None:
        heads = [tuple(row) for row in self.rows.values()]
        if not heads or len(set(heads)) > 1:
            raise ValueError(
                f"Table: rows have the columns {sorted(set(heads))}: give at least one row, and "
                "each row the same columns in the same order"
            )

    @property
    def columns(self) -> list[str]:
        """The titles of the columns."""
        return list(map(titled, next(iter(self.rows.values()))))

    def _parts(self, value: Value) -> tuple[str, str]:
        """A cell as text: what it says, and its interval."""
        if isinstance(value, Estimate):
            low, high = (format(self.times * end, self.within) for end in value[1:])
            return format(self.times * value.value, self.form), f"[{low}, {high}]"
        if value is None or isinstance(value, str):
            return value or "", ""
        return format(self.times * value, self.form), ""

    def __repr__(self) -> str:
        lines = [[self.corner, *self.columns]]
        for name, row in self.rows.items():
            lines.append([titled(name), *(" ".join(self._parts(v)).strip() for v in row.values())])
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join(
                [line[0].ljust(widths[0])]
                + [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
            ).rstrip()
            for line in lines
        )

    def _repr_html_(self) -> str:
        heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in self.columns)
        body = []
        for name, row in self.rows.items():
            cells = [f'<th scope="row">{escape(titled(name))}</th>']
            for said, interval in map(self._parts, row.values()):
                spread = f" <small>{escape(interval)}</small>" if interval else ""
                cells.append(f"<td>{escape(said)}{spread}</td>")
            body.append(f"<tr>{''.join(cells)}</tr>")
        corner = f'<th scope="col">{escape(self.corner)}</th>' if self.corner else "<td></td>"
        return (
            '<div class="mp-table"><table class="table">'
            f"<thead><tr>{corner}{heads}</tr></thead>\n<tbody>"
            + "\n".join(body)
            + "</tbody></table></div>"
        )


def titled(name: str) -> str:
    """The title of a row or column: a perturbation is called as in figures."""
    return LOOKS[name].plain if name in LOOKS else name
