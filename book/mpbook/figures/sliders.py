"""Interactive figures that need no kernel and no network: precomputed frames behind a slider.

In the book a native range control drives a drawing (``book/_static/mp-slider.js``): the control
works by keyboard and by touch, and says its value to a screen reader. In Jupyter the same frames
appear as a plotly figure with plotly's own slider, so they are kept in plotly's words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal

import numpy as np

from mpbook.figures.style import INK, numbers

GREY = [[0, "black"], [1, "white"]]
CLEAR: dict[str, Any] = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"color": INK, "size": 13},
}
GRID = "rgba(117,117,117,0.25)"


@dataclass(frozen=True)
class Slider:
    """Frames, their names and their place; made by `slider_figure` and `slider_chart`."""

    frames: tuple[tuple[dict[str, Any], ...], ...]
    labels: tuple[str, ...]
    layout: dict[str, Any]
    title: str
    alt: str
    name: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        steps = [
            {"label": label, "method": "animate", "args": [[label], {"mode": "immediate"}]}
            for label in self.labels
        ]
        slider = {"steps": steps, "currentvalue": {"prefix": f"{self.title}: "}}
        named = zip(self.labels, self.frames, strict=True)
        jupyter = {
            "data": self.frames[0],
            "layout": {**self.layout, "sliders": [slider]},
            "frames": [{"name": label, "data": frame} for label, frame in named],
        }
        return {
            "text/html": self.html(),
            "application/vnd.plotly.v1+json": jupyter,
            "text/plain": self.alt,
        }

    def html(self) -> str:
        """Give the book's form: an empty drawing, a range control, and the frames as JSON."""
        data = {"frames": self.frames, "labels": self.labels, "layout": self.layout}
        frozen = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
        first, title, alt, name = map(escape, (self.labels[0], self.title, self.alt, self.name))
        return (
            f'<div class="mp-slider" id="{name}">'
            f'<div class="mp-slider-plot" role="img" aria-label="{alt}"></div>'
            f'<div class="mp-slider-control"><label for="{name}-at">{title}</label>'
            f'<input id="{name}-at" type="range" min="0" max="{len(self.labels) - 1}" value="0"'
            f' aria-valuetext="{first}"><output for="{name}-at">{first}</output></div>'
            f'<script type="application/json">{frozen}</script></div>'
        )


def _trace(image: Any, axis: str) -> dict[str, Any]:
    """Draw one image (H, W), (1, H, W) or (3, H, W) in [0, 1] with 256 levels."""
    pixels = numbers(image)
    if pixels.ndim == 3 and pixels.shape[0] == 1:
        pixels = pixels[0]
    levels = np.rint(255 * np.clip(pixels, 0, 1)).astype(int)
    place = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    if levels.ndim == 3 and levels.shape[0] == 3:
        return {"type": "image", "z": levels.transpose(1, 2, 0).tolist(), **place}
    if levels.ndim != 2:
        raise ValueError(
            f"slider_figure: no image: shape {levels.shape}; give (H, W), (1, H, W) or (3, H, W)"
        )
    look = {"zmin": 0, "zmax": 255, "colorscale": GREY, "showscale": False}
    return {"type": "heatmap", "z": levels.tolist(), **look, **place}


def _layout(panels: Sequence[str]) -> dict[str, Any]:
    """Place the panels side by side, square pixels, without axes; the page sets the ink."""
    layout: dict[str, Any] = {
        **CLEAR,
        "grid": {"rows": 1, "columns": len(panels), "pattern": "independent", "xgap": 0.06},
        "height": 260,
        "margin": {"l": 4, "r": 4, "t": 8, "b": 44},
        "meta": {"square": len(panels)},
    }
    hidden = {"ticks": "", "showticklabels": False, "showgrid": False, "zeroline": False}
    bare = {**hidden, "fixedrange": True}
    for number, panel in enumerate(panels, start=1):
        axis = str(number) if number > 1 else ""
        title = {"text": panel.replace(" + ", "<br>+ ")}
        square = {"autorange": "reversed", "scaleanchor": f"x{axis}"}
        layout[f"xaxis{axis}"] = {**bare, "title": title, "constrain": "domain"}
        layout[f"yaxis{axis}"] = {**bare, **square, "constrain": "domain"}
    return layout


def _matched(function: str, frames: Sequence[Any], labels: Sequence[str]) -> None:
    if len(labels) != len(frames) or not frames:
        raise ValueError(
            f"{function}: {len(labels)} labels for {len(frames)} frames; give one each"
        )


Rows = Sequence[Sequence[Any]]


def slider_figure(
    frames: Rows, labels: Sequence[str], title: str, alt: str, *, panels: Sequence[str], name: str
) -> Slider:
    """Put precomputed rows of images behind a slider.

    Args:
        frames: for each position of the slider a row of images in [0, 1], each (H, W), (1, H, W)
            or (3, H, W).
        labels: what each position is called, for example the radius with its unit.
        title: what the slider changes.
        alt: what the drawing shows, in words.
        panels: a plain-text label under each image of a row, for example ``LOOKS["l1"].plain``.
        name: an identifier, unique on its page, that stays the same from run to run.

    Raises: ValueError: if labels or panels do not match the frames, or a shape is no image.
    """
    _matched("slider_figure", frames, labels)
    lengths = {len(frame) for frame in frames}
    if lengths != {len(panels)}:
        raise ValueError(
            f"slider_figure: frames of {sorted(lengths)} images for {len(panels)} panels; "
            "give every frame one image for each panel"
        )
    axes = ["", *map(str, range(2, len(panels) + 1))]
    drawn = tuple(tuple(map(_trace, frame, axes)) for frame in frames)
    return Slider(drawn, tuple(labels), _layout(panels), title, alt, name)


@dataclass(frozen=True)
class Line:
    """Points of a chart, joined or not: x and y of equal length, in the units of the axes."""

    x: Sequence[float]
    y: Sequence[float]
    label: str
    color: str = INK
    mode: Literal["line", "dashed", "points"] = "line"

    def _trace(self) -> dict[str, Any]:
        rounded = [[float(f"{float(v):.4g}") for v in values] for values in (self.x, self.y)]
        if len(rounded[0]) != len(rounded[1]):
            raise ValueError(
                f"Line: {len(rounded[0])} x for {len(rounded[1])} y in {self.label!r}; "
                "give as many of each"
            )
        trace = {"type": "scatter", "x": rounded[0], "y": rounded[1], "name": self.label}
        if self.mode == "points":
            return {**trace, "mode": "markers", "marker": {"color": self.color, "size": 8}}
        dash = {"line": "solid", "dashed": "dash"}[self.mode]
        return {**trace, "mode": "lines", "line": {"color": self.color, "width": 2.2, "dash": dash}}


Axis = tuple[str, tuple[float, float]]


def slider_chart(
    frames: Sequence[Sequence[Line]],
    labels: Sequence[str],
    title: str,
    alt: str,
    *,
    x: Axis,
    y: Axis,
    name: str,
) -> Slider:
    """Put precomputed charts behind a slider; the axes stay, so that only the lines move.

    Args:
        frames: for each position of the slider its lines, of the same labels in the same order.
            Numbers are kept to four significant digits.
        labels: what each position is called, for example the dimension.
        title: what the slider changes.
        alt: what the drawing shows, in words.
        x: the horizontal axis: its title and its (lowest, highest) value.
        y: the vertical axis, likewise.
        name: an identifier, unique on its page, that stays the same from run to run.

    Raises:
        ValueError: if labels do not match the frames, frames differ in their lines, or a line has
            more x than y.
    """
    _matched("slider_chart", frames, labels)
    if len({tuple(line.label for line in frame) for frame in frames}) > 1:
        raise ValueError(
            "slider_chart: the frames have different lines; give every frame the same labels "
            "in the same order"
        )
    look = {"gridcolor": GRID, "zeroline": False, "fixedrange": True}
    layout: dict[str, Any] = {
        **CLEAR,
        "height": 380,
        "margin": {"l": 56, "r": 8, "t": 8, "b": 48},
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        "xaxis": {**look, "title": {"text": x[0]}, "range": list(x[1])},
        "yaxis": {**look, "title": {"text": y[0]}, "range": list(y[1])},
    }
    drawn = tuple(tuple(line._trace() for line in frame) for frame in frames)
    return Slider(drawn, tuple(labels), layout, title, alt, name)
