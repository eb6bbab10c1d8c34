"""The visual language of the book: a look for each perturbation, and a canvas to draw on.

A colour, a line style, a marker and a hatch belong to each perturbation, so that colour is never
the only cue. Backgrounds are transparent and text is mid-grey: one picture serves the light and
the dark page. A chart says in its file that it is one, and the dark page lights it up; pictures of
pixels stay as they are. An inch is 96 CSS pixels, and PNG bytes repeat exactly from run to run.

matplotlib is imported where something is drawn: importing this module does not need it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Look(NamedTuple):
    """How one perturbation is drawn in every figure; `label` is mathtext, `plain` is not."""

    color: str
    label: str
    plain: str
    linestyle: Any
    marker: str
    hatch: str


LOOKS = {
    "clean": Look("#686b70", "clean", "clean", (0, (1, 1.2)), "X", ""),
    "linf": Look("#1760d0", r"$\ell_\infty$", "ℓ∞", "-", "s", "//"),
    "l2": Look("#0fa3a0", r"$\ell_2$", "ℓ₂", "--", "o", ".."),
    "l1": Look("#b04e10", r"$\ell_1$", "ℓ₁", "-.", "D", "xx"),
    "rt": Look("#c765cf", "rotate + shift", "rotate + shift", (0, (6, 1.5)), "^", "--"),
    "union": Look("#f2545b", "union", "union", "-", "*", "**"),
    "affine": Look("#b58a10", "affine", "affine", (0, (3, 1, 1, 1, 1, 1)), "P", "++"),
    "neutral": Look("#757575", "", "", ":", ".", ""),
}
"""Colours keep 3:1 against the white and the dark page, and differ for every colour vision."""

COLORS = {key: look.color for key, look in LOOKS.items()}
LABELS = {key: look.label for key, look in LOOKS.items()}
INK = COLORS["neutral"]
WIDTH = 5.8
"""Inches across a figure, 557 CSS pixels; on a phone its text is still ten pixels tall."""

RC: dict[str, Any] = {
    "figure.facecolor": "none",
    "figure.constrained_layout.use": True,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": "medium",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.25,
    "font.size": 12.5,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.handlelength": 2.8,
    "lines.linewidth": 2.2,
    "lines.markersize": 7,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
"""What `style` sets on top of matplotlib's defaults."""


def numbers(values: Any) -> NDArray[Any]:
    """Give an array from a tensor on any device, an array or nested sequences."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)


@contextmanager
def style() -> Iterator[None]:
    """Draw in the book's language inside this context, whatever the user's matplotlibrc says."""
    import matplotlib.style

    with matplotlib.style.context(["default", RC]):
        yield


@cache
def _book_figure() -> type[Figure]:
    """Derive, once matplotlib is here, a figure that shows itself as a repeatable PNG."""
    from matplotlib.figure import Figure

    class BookFigure(Figure):
        def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, str], dict[str, Any]]:
            buffer = io.BytesIO()
            shown = any(ax.images for ax in self.axes)
            notes = {"Software": None, "Kind": "pixels" if shown else "chart"}
            with style():  # two device pixels for a CSS pixel; no version of matplotlib inside
                self.savefig(buffer, format="png", dpi=192, metadata=notes)
            self.set_layout_engine("none")  # laid out again, a figure would move by a hair
            width, height = (round(96 * float(side)) for side in self.get_size_inches())
            image = base64.b64encode(buffer.getvalue()).decode("ascii")
            size = {"width": width, "height": height}
            return {"image/png": image, "text/plain": repr(self)}, {"image/png": size}

    return BookFigure


def canvas(
    rows: int = 1, columns: int = 1, *, height: float = 3.3, width: float = WIDTH, **options: Any
) -> tuple[Figure, Any]:
    """Make an empty figure of the book and its axes; a cell that ends with it shows it once.

    Args:
        rows: panels from top to bottom.
        columns: panels from left to right.
        height: of the whole figure, in inches.
        width: of the whole figure, in inches.
        **options: for ``Figure.subplots``, such as ``sharey=True``.

    Returns: The figure, and one Axes or an array of them, as ``Figure.subplots`` gives it.
    """
    with style():
        figure = _book_figure()(figsize=(width, height))
        return figure, figure.subplots(rows, columns, **options)
