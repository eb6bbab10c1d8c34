"""Every figure of the book, in one visual language (`mpbook.figures.style`).

A chapter's cell ends with the figure and describes it in the cell's metadata. The text alternative
is required; caption and name make a numbered figure that other pages can refer to::

    {"mystnb": {"image": {"alt": "A seven, and three perturbed sevens ..."},
                "figure": {"caption": "What to see, n, seeds, spread.", "name": "fig-seven"}}}
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mpbook.figures.style import COLORS, INK, LABELS, WIDTH, canvas, numbers, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _picture(image: Any) -> NDArray[Any]:
    """Bring an image (H, W), (1, H, W) or (3, H, W) to (H, W) or (H, W, 3)."""
    pixels = numbers(image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        return pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else pixels[0]
    if pixels.ndim == 2:
        return pixels
    raise ValueError(f"figures: no image: shape {pixels.shape}; give (H, W), (1, H, W), (3, H, W)")


def _name(key: str) -> str:
    """Give a tile's label: the symbol of a perturbation, or the words, on short lines."""
    return LABELS.get(key, key).replace(" + ", "\n+ ")


def _tiles(
    grid: Sequence[Sequence[Any]], rows: Sequence[str], columns: Sequence[str], below: float = 0.0
) -> tuple[Figure, NDArray[Any]]:
    """Lay out one framed tile for every image, with inches below it, and label rows and columns."""
    lengths = {len(row) for row in grid}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"figures: rows of lengths {sorted(lengths)}; give rows of one length")
    for name, labels, n in (("rows", rows, len(grid)), ("columns", columns, len(grid[0]))):
        if labels and len(labels) != n:
            raise ValueError(f"figures: {len(labels)} labels for {n} {name}; give one for each")
    margin = 1.0 if rows else 0.0
    side = min((WIDTH - margin) / len(grid[0]), 1.8)
    above = 0.1 + 0.25 * max((1 + _name(key).count("\n") for key in columns), default=0)
    size = {"width": margin + side * len(grid[0]), "height": above + (side + below) * len(grid)}
    figure, axes = canvas(len(grid), len(grid[0]), squeeze=False, **size)
    figure.set_layout_engine("compressed")
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(visible=True, linewidth=0.8)
    for ax, key in zip(axes[0], columns, strict=False):
        ax.set_title(_name(key), color=COLORS.get(key, INK), fontsize=14)
    for ax, key in zip(axes[:, 0], rows, strict=False):
        place = {"rotation": 0, "ha": "right", "va": "center", "labelpad": 8, "fontsize": 14}
        ax.set_ylabel(_name(key), color=COLORS.get(key, INK), **place)
    return figure, axes


def show_images(
    grid: Sequence[Sequence[Any]],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
) -> Figure:
    """Show images as small multiples.

    Args:
        grid: rows of images in [0, 1], each (H, W), (1, H, W) or (3, H, W), as tensors or arrays;
            for example one tensor (rows, columns, C, H, W).
        rows: a label for each row; a key of `LOOKS` appears as its symbol, in its colour.
        columns: a label for each column, likewise.
        notes: a few words under each image, for example the predicted class.

    Raises: ValueError: if rows differ in length, labels do not match, or a shape is no image.
    """
    figure, axes = _tiles(grid, rows, columns, below=0.25 if notes else 0.0)
    for i, row in enumerate(grid):
        for j, image in enumerate(row):
            axes[i, j].imshow(_picture(image), cmap="gray", vmin=0, vmax=1)
            if notes:
                axes[i, j].set_xlabel(notes[i][j], fontsize=11)
    return figure


def show_perturbations(
    grid: Sequence[Sequence[Any]],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    limit: float | None = None,
) -> Figure:
    """Show perturbations on one symmetric scale: blue darkens, red brightens, white leaves alone.

    Args:
        grid: rows of perturbations in pixel units, shaped like the images of `show_images`; the
            mean over three channels is shown.
        rows: a label for each row, as in `show_images`.
        columns: a label for each column, as in `show_images`.
        limit: the value at the ends of the scale; by default the largest absolute value.

    Raises: ValueError: if rows differ in length, labels do not match, or a shape is no image.
    """
    figure, axes = _tiles(grid, rows, columns)
    maps = [[p.mean(2) if p.ndim == 3 else p for p in map(_picture, row)] for row in grid]
    reach = limit or max(float(np.abs(delta).max()) for row in maps for delta in row) or 1.0
    for ax, delta in zip(axes.flat, (delta for row in maps for delta in row), strict=True):
        shown = ax.imshow(delta, cmap="RdBu_r", vmin=-reach, vmax=reach)
    with style():
        bar = figure.colorbar(shown, ax=axes, shrink=0.9, aspect=25, ticks=[-reach, 0, reach])
        bar.ax.set_yticklabels([f"\N{MINUS SIGN}{reach:.2g}", "0", f"+{reach:.2g}"])
        bar.ax.spines[:].set(visible=False)
    return figure
