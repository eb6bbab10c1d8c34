"""Every figure of the book, in one visual language (`mpkit.looks`).

A chapter's cell ends with the figure and describes it in the cell's metadata. The text alternative
is required; caption and name make a numbered figure that other pages can refer to::

    {"mystnb": {"image": {"alt": "A seven, and three perturbed sevens ..."},
                "figure": {"caption": "What to see, n, seeds, spread.", "name": "fig-seven"}}}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpkit.intervals import Estimate
from mpkit.looks import COLORS, INK, LABELS, LOOKS, WIDTH, Look, canvas, style
from mpkit.sliders import Slider, slider_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLORS",
    "LABELS",
    "LOOKS",
    "Look",
    "Slider",
    "accuracy_curves",
    "bars_with_intervals",
    "canvas",
    "show_images",
    "show_perturbations",
    "slider_figure",
    "style",
    "unit_balls",
]


def _numbers(values: Any) -> NDArray[Any]:
    """Give an array from a tensor on any device, an array or nested sequences."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)


def _picture(image: Any) -> NDArray[Any]:
    """Bring an image (H, W), (1, H, W) or (3, H, W) to (H, W) or (H, W, 3)."""
    pixels = _numbers(image)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):
        return pixels.transpose(1, 2, 0) if pixels.shape[0] == 3 else pixels[0]
    if pixels.ndim == 2:
        return pixels
    raise ValueError(f"figures: no image: shape {pixels.shape}; give (H, W), (1, H, W), (3, H, W)")


def _look(key: str) -> Look:
    if key not in LOOKS:
        raise ValueError(f"figures: unknown perturbation {key!r}; choose from {', '.join(LOOKS)}")
    return LOOKS[key]


def _name(key: str) -> str:
    """Give a tile's label: the symbol of a perturbation, or the words, on short lines."""
    return LABELS.get(key, key).replace(" + ", "\n+ ")


def _group(name: str) -> str:
    """Give the name of a group of bars, the key before a hyphen as its symbol."""
    key, hyphen, rest = name.partition("-")
    return LABELS.get(key, key) + hyphen + rest


def _tiles(
    grid: Sequence[Sequence[Any]],
    rows: Sequence[str],
    columns: Sequence[str],
    below: float = 0.0,
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

    Raises:
        ValueError: if rows differ in length, labels do not match, or a shape is no image.
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

    Raises:
        ValueError: if rows differ in length, labels do not match, or a shape is no image.
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


def unit_balls(ax: Axes) -> None:
    """Draw the l1, l2 and l-infinity unit balls of the plane, one inside the other."""
    turn = np.linspace(0, 2 * np.pi, 361)
    balls: dict[str, tuple[Any, Any, float]] = {
        "linf": ([1, -1, -1, 1, 1], [1, 1, -1, -1, 1], 0.86),
        "l2": (np.cos(turn), np.sin(turn), 0.6),
        "l1": ([1, 0, -1, 0, 1], [0, 1, 0, -1, 0], 0.36),
    }
    with style():
        for key, (across, up, at) in balls.items():
            look = LOOKS[key]
            ax.fill(across, up, color=look.color, alpha=0.10, linewidth=0)
            ax.plot(across, up, color=look.color, linestyle=look.linestyle)
            ax.text(at, at, look.label, color=look.color, ha="center", va="center", size=14)
        ax.set(aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        ax.grid(visible=True, axis="both")


def _ends(rates: Sequence[Any]) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """Split rates into values (n,) and, where they are Estimates, interval ends (n, 2)."""
    if rates and all(isinstance(rate, Estimate) for rate in rates):
        return _numbers([r.value for r in rates]), _numbers([(r.low, r.high) for r in rates])
    return _numbers(rates), None


def _percent(ax: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    ax.set(ylim=(0, 1), ylabel="accuracy")
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def accuracy_curves(
    ax: Axes,
    radii: ArrayLike,
    accuracies: Mapping[str, Sequence[float | Estimate]],
) -> None:
    """Draw accuracy against radius, one curve for each perturbation.

    Args:
        ax: where to draw.
        radii: (n,) radii, in pixel units or as multiples of the usual radius.
        accuracies: for each key of `LOOKS` n fractions in [0, 1], or n Estimates, whose
            intervals are shaded.

    Raises:
        ValueError: for a key that `LOOKS` does not have, or for unequal lengths.
    """
    across = _numbers(radii)
    with style():
        for key, values in accuracies.items():
            look, (heights, ends) = _look(key), _ends(list(values))
            if heights.shape != across.shape:
                raise ValueError(
                    f"accuracy_curves: {heights.shape} accuracies of {key!r} for {across.shape} "
                    "radii; give one for each radius"
                )
            line = {"color": look.color, "linestyle": look.linestyle, "marker": look.marker}
            ax.plot(across, heights, label=look.label, clip_on=False, **line)
            if ends is not None:
                ax.fill_between(across, *ends.T, color=look.color, alpha=0.2, linewidth=0)
        _percent(ax)
        ax.set_xlabel("radius")
        ax.legend()


def bars_with_intervals(
    ax: Axes,
    accuracies: Mapping[str, Mapping[str, float | Estimate]],
) -> None:
    """Draw groups of bars, one bar for each perturbation, with its value and its interval.

    Args:
        ax: where to draw.
        accuracies: for each group a fraction in [0, 1] for each key of `LOOKS`, or an Estimate,
            whose interval is drawn. A group may be called ``linf-trained``, say.

    Raises:
        ValueError: for a key that `LOOKS` does not have.
    """
    keys = list(dict.fromkeys(key for group in accuracies.values() for key in group))
    thick = 0.84 / len(keys)
    with style():
        for slot, key in enumerate(keys):
            look = _look(key)
            for place, group in enumerate(accuracies.values()):
                if key not in group:
                    continue
                at = place + (slot - (len(keys) - 1) / 2) * thick
                (value,), ends = _ends([group[key]])
                low, high = (value, value) if ends is None else ends[0]
                fill: dict[str, Any] = {"color": look.color, "hatch": look.hatch}
                ax.bar(at, value, 0.9 * thick, label=look.label if place == 0 else None, **fill)
                if ends is not None:
                    ax.errorbar(at, value, [[value - low], [high - value]], color=INK, capsize=3)
                offset: dict[str, Any] = {"xytext": (0, 3), "textcoords": "offset points"}
                ax.annotate(f"{100 * value:.0f}", (at, high), ha="center", size=10, **offset)
        ax.set_xticks(range(len(accuracies)), [_group(name) for name in accuracies])
        ax.tick_params(axis="x", length=0)
        _percent(ax)
        if len(keys) > 1:
            ax.figure.legend(loc="outside upper center", ncols=len(keys) if len(keys) <= 4 else 3)
