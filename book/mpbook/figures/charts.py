"""Charts of the book: balls, curves and bars, with intervals wherever there are estimates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mpbook.figures.sliders import Line
from mpbook.figures.style import INK, LABELS, LOOKS, Look, canvas, numbers, style
from mpkit.core.statistics import Estimate
from mpkit.evaluation import accuracies
from mpkit.sets.threat_model import kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mpkit.evaluation import Gauge, Ledger


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


def _percent(ax: Axes, side: str = "y") -> None:
    from matplotlib.ticker import PercentFormatter

    ax.set(**{f"{side}lim": (0, 1), f"{side}label": "accuracy"})
    getattr(ax, f"{side}axis").set_major_formatter(PercentFormatter(1, decimals=0))


def accuracy_curves(
    ax: Axes, radii: ArrayLike, accuracies: Mapping[str, Sequence[float | Estimate]]
) -> None:
    """Draw accuracy against radius, one curve for each perturbation.

    Args:
        ax: where to draw.
        radii: (n,) radii, in pixel units or as multiples of the usual radius.
        accuracies: for each key of `LOOKS` n fractions in [0, 1], or n Estimates, whose
            intervals are shaded.

    Raises: ValueError: for a key that `LOOKS` does not have, or for unequal lengths.
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


def bars_with_intervals(ax: Axes, accuracies: Mapping[str, Mapping[str, float | Estimate]]) -> None:
    """Draw groups of bars, one bar for each perturbation, with its value and its interval.

    More than five groups, or 24 bars, lie below one another: names and numbers keep apart.

    Args:
        ax: where to draw.
        accuracies: for each group a fraction in [0, 1] for each key of `LOOKS`, or an Estimate,
            whose interval is drawn. A group may be called ``linf-trained``, say.

    Raises: ValueError: for a key that `LOOKS` does not have.
    """
    keys = list(dict.fromkeys(key for group in accuracies.values() for key in group))
    lying = len(accuracies) > 5 or len(accuracies) * len(keys) > 24
    thick = 0.84 / len(keys)
    names = [_group(name) for name in accuracies]
    with style():
        for slot, key in enumerate(keys):
            look = _look(key)
            for place, group in enumerate(accuracies.values()):
                if key not in group:
                    continue
                at = place + (slot - (len(keys) - 1) / 2) * thick
                estimate = group[key]
                fill: dict[str, Any] = {"color": look.color, "hatch": look.hatch}
                fill["label"] = look.label if place == 0 else None
                height = float(_ends([estimate])[0][0])
                (ax.barh if lying else ax.bar)(at, height, 0.9 * thick, **fill)
                _tip(ax, at, estimate, lying)
        side, other = ("y", "x") if lying else ("x", "y")
        ax.set(**{f"{side}ticks": range(len(names)), f"{side}ticklabels": names})
        ax.tick_params(axis="y" if lying else "x", length=0)
        if lying:
            ax.invert_yaxis()
        _percent(ax, other)
        if len(keys) > 1:
            ax.figure.legend(loc="outside upper center", ncols=len(keys) if len(keys) <= 4 else 3)


def dots_with_intervals(
    ax: Axes,
    rows: Sequence[str],
    groups: Mapping[str, Sequence[Estimate]],
    forms: Mapping[str, Mapping[str, Any]] | None = None,
    gap: float = 0.14,
) -> None:
    """Draw rows of dots with their intervals, from the top down, groups a little apart.

    Args:
        ax: axes of the book, see :func:`canvas`.
        rows: names of the rows; one of a perturbation becomes its symbol.
        groups: for each, an estimate for every row; keys of perturbations have their own look.
        forms: the look of other groups, as matplotlib's errorbar takes it.
        gap: between groups, in rows.
    """
    for place, (key, rates) in enumerate(groups.items()):
        value, low, high = numbers(list(rates)).T
        look: Mapping[str, Any] = (forms or {}).get(key, {})
        if not look:
            known = _look(key)
            look = {"color": known.color, "fmt": known.marker, "label": known.label}
        at = np.arange(len(rows)) + gap * (place - (len(groups) - 1) / 2)
        form = {"lw": 1.4, "markersize": 6, "label": key, **look}
        ax.errorbar(value, at, xerr=np.stack([value - low, high - value]), **form)
    ax.set_yticks(range(len(rows)), [LABELS.get(row, row) for row in rows])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.grid(visible=True, axis="x")


def _tip(ax: Axes, at: float, estimate: float | Estimate, lying: bool) -> None:
    """The interval at the end of a bar, and its value beyond."""
    (value,), ends = _ends([estimate])
    low, high = (value, value) if ends is None else ends[0]
    error = [[value - low], [high - value]]
    end: dict[str, Any] = {"textcoords": "offset points", "size": 10}
    if ends is not None and lying:
        ax.errorbar(value, at, xerr=error, color=INK, capsize=3)
    elif ends is not None:
        ax.errorbar(at, value, error, color=INK, capsize=3)
    if lying:
        end |= {"xytext": (4, 0), "va": "center_baseline"}
        ax.annotate(f"{100 * value:.0f}", (high, at), **end)
    else:
        ax.annotate(f"{100 * value:.0f}", (at, high), ha="center", xytext=(0, 3), **end)


def changes_with_intervals(ax: Axes, changes: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Draw what each of several changes does, one row for each, with its interval around a point.

    Args:
        ax: where to draw.
        changes: for each key of `LOOKS` the same rows, in order from the top: a difference of
            accuracies as a fraction in [-1, 1], with its interval.

    Raises: ValueError: for a key that `LOOKS` does not have.
    """
    from matplotlib.ticker import FuncFormatter

    rows = list(next(iter(changes.values())))
    with style():
        ax.axvline(0, color=INK, linewidth=1)
        for lift, (key, estimates) in zip(_slots(len(changes)), changes.items(), strict=True):
            look = _look(key)
            values, ends = _ends([estimates[row] for row in rows])
            spread = None if ends is None else np.abs(ends.T - values)
            at = lift - np.arange(len(rows))
            named: dict[str, Any] = {"color": look.color, "label": look.label}
            ax.errorbar(values, at, xerr=spread, fmt=look.marker, capsize=3, **named)
        ax.set_yticks([-place for place in range(len(rows))], rows)
        ax.set(ylim=(0.5 - len(rows), 0.5), xlabel="change in accuracy (points)")
        ax.grid(visible=True, axis="x")
        ax.xaxis.set_major_formatter(FuncFormatter(_points))
        if len(changes) > 1:
            ax.figure.legend(loc="outside upper center", ncols=len(changes))


def _points(value: float, _: Any) -> str:
    """Give a difference in points, with a sign that is one."""
    sign = {-1: "\N{MINUS SIGN}", 0: "", 1: "+"}[int(np.sign(round(1000 * value)))]
    return f"{sign}{abs(100 * value):.3g}"


def _slots(n: int) -> NDArray[Any]:
    """Give n places around zero, from the top."""
    return (np.arange(n)[::-1] - (n - 1) / 2) * 0.6 / max(n, 2)


def draw_lines(ax: Axes, lines: Sequence[Line]) -> None:
    """Draw the lines of a `slider_chart` in a figure that stands still.

    A line of at most a dozen points shows them; the legend keeps the order.
    """
    forms: dict[str, dict[str, Any]] = {
        "line": {"linestyle": "-", "markersize": 4},
        "dashed": {"linestyle": "--"},
        "points": {"linestyle": "none", "marker": "o"},
    }
    with style():
        for line in lines:
            form = {"color": line.color, "label": line.label, **forms[line.mode]}
            if line.mode == "line" and len(line.x) <= 12:
                form["marker"] = "o"
            ax.plot(line.x, line.y, **form)
        if len(lines) > 1:
            ax.legend()


def ledger_bars(ledger: Ledger) -> Figure:
    """Accuracies as bars with their intervals, in the colours of the book."""
    picture, ax = canvas()
    shown = accuracies(ledger)
    shown.pop("average", None)
    keys = {name: kind(name) if kind(name) in LOOKS else "neutral" for name in shown}
    single = len(set(keys.values())) == len(keys) and "neutral" not in keys.values()
    groups = (
        {"": {keys[name]: estimate for name, estimate in shown.items()}}
        if single
        else {name: {keys[name]: estimate} for name, estimate in shown.items()}
    )
    bars_with_intervals(ax, groups)
    return picture


def gauge_curves(gauge: Gauge) -> Figure:
    """Accuracy against the scale of all budgets, in each set and, with its interval, the union."""
    picture, ax = canvas()
    across = np.linspace(0, gauge.most, 201)
    names: dict[str | None, str] = {name: kind(name) for name in gauge.scales}
    with style():
        for name, key in {**names, None: "union"}.items():
            look = LOOKS.get(key, LOOKS["neutral"])
            estimates = [gauge.accuracy(scale, name) for scale in across]
            label = look.label or str(name)
            line = {"color": look.color, "linestyle": look.linestyle, "label": label}
            ax.plot(across, [e.value for e in estimates], **line)
            if name is None:
                low, high = numbers([(e.low, e.high) for e in estimates]).T
                ax.fill_between(across, low, high, color=look.color, alpha=0.2, linewidth=0)
        ax.axvline(1, color=INK, linewidth=1)
        _percent(ax)
        ax.set(xlim=(0, gauge.most), xlabel="scale of all budgets")
        ax.legend()
    return picture
