"""Figures of the book: one colour, line and hatch for each perturbation."""

from mpbook.figures.charts import (
    accuracy_curves,
    bars_with_intervals,
    changes_with_intervals,
    dots_with_intervals,
    draw_lines,
    gauge_curves,
    ledger_bars,
    unit_balls,
)
from mpbook.figures.images import show_images, show_perturbations
from mpbook.figures.sliders import Line, slider_chart, slider_figure
from mpbook.figures.style import COLORS, INK, LABELS, LOOKS, canvas, style
from mpbook.figures.tables import Table

__all__ = [
    "COLORS",
    "INK",
    "LABELS",
    "LOOKS",
    "Line",
    "Table",
    "accuracy_curves",
    "bars_with_intervals",
    "canvas",
    "changes_with_intervals",
    "dots_with_intervals",
    "draw_lines",
    "gauge_curves",
    "ledger_bars",
    "show_images",
    "show_perturbations",
    "slider_chart",
    "slider_figure",
    "style",
    "unit_balls",
]
