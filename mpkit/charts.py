"""Charts of the book: balls, curves and bars, with intervals wherever there are estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpkit.intervals import Estimate
from mpkit.looks import INK, LABELS, LOOKS, Look, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def numbers(values: Any) -> NDArray[Any]:
    """Give an array from a tensor on any device, an array or nested sequences."""
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)


def _look(key: str) -> Look:
    if key not in LOOKS:
        raise ValueError(f"figures: unknown perturbation {key!r}; choose from {', '.join(LOOKS)}")
    return LOOKS[key]


def _group(name: str) -> str:
    """Give the name of a group of bars, the key before a hyphen as its symbol."""
    key, hyphen, rest = name.partition("-")
    return LABELS.get(key, key) + hyphen + rest


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
        return numbers([r.value for r in rates]), numbers([(r.low, r.high) for r in rates])
    return numbers(rates), None


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
    across = numbers(radii)
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
