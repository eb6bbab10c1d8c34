"""Interactive figures that need no kernel and no network: precomputed frames behind a slider.

In the book a native range control drives a plotly drawing (``book/_static/mp-slider.js``): the
control works by keyboard and by touch, and says its value to a screen reader. In Jupyter the same
frames appear with plotly's own slider. Nothing here imports plotly; the book's build copies its
script from the installed package, and only pages with a slider load it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

GREY = [[0, "black"], [1, "white"]]


@dataclass(frozen=True)
class Slider:
    """Frames, what to call them, and where they are drawn; made by `slider_figure`."""

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
        texts = (self.labels[0], self.title, self.alt, self.name)
        first, title, alt, name = map(escape, texts)
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
    pixels = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image, dtype=float)
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
    clear = "rgba(0,0,0,0)"
    layout: dict[str, Any] = {
        "grid": {"rows": 1, "columns": len(panels), "pattern": "independent", "xgap": 0.06},
        "height": 260,
        "margin": {"l": 4, "r": 4, "t": 8, "b": 44},
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "font": {"color": "#757575", "size": 13},
    }
    bare = {
        "ticks": "",
        "showticklabels": False,
        "showgrid": False,
        "zeroline": False,
        "fixedrange": True,
    }
    for number, panel in enumerate(panels, start=1):
        axis = str(number) if number > 1 else ""
        layout[f"xaxis{axis}"] = {
            **bare,
            "title": {"text": panel.replace(" + ", "<br>+ ")},
            "constrain": "domain",
        }
        layout[f"yaxis{axis}"] = {
            **bare,
            "autorange": "reversed",
            "scaleanchor": f"x{axis}",
            "constrain": "domain",
        }
    return layout


def slider_figure(
    frames: Sequence[Sequence[Any]],
    labels: Sequence[str],
    title: str,
    alt: str,
    *,
    panels: Sequence[str],
    name: str,
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

    Raises:
        ValueError: if labels or panels do not match the frames, or a shape is no image.
    """
    if len(labels) != len(frames) or not frames:
        raise ValueError(
            f"slider_figure: {len(labels)} labels for {len(frames)} frames; give one each"
        )
    lengths = {len(frame) for frame in frames}
    if lengths != {len(panels)}:
        raise ValueError(
            f"slider_figure: frames of {sorted(lengths)} images for {len(panels)} panels; "
            "give every frame one image for each panel"
        )
    axes = ["", *map(str, range(2, len(panels) + 1))]
    drawn = tuple(
        tuple(_trace(image, axis) for image, axis in zip(frame, axes, strict=True))
        for frame in frames
    )
    return Slider(drawn, tuple(labels), _layout(panels), title, alt, name)
