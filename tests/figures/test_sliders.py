"""Sliders: frames as they were given, words escaped, no network, and a form for Jupyter."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from mpbook import figures
from mpbook.figures import sliders


def digits(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


FRAMES = [[digits(1, 8, 8), digits(3, 8, 8)], [digits(1, 8, 8), digits(3, 8, 8)]]


def slider(**changes: Any) -> sliders.Slider:
    given: dict[str, Any] = {
        "frames": FRAMES, "labels": ["0.1", "0.2"], "title": "radius", "alt": 'Two "images" <b>.',
        "panels": ["ℓ₁", "ℓ₂"], "name": "slide",
    }  # fmt: skip
    return figures.slider_figure(**{**given, **changes})


def test_a_slider_s_html_holds_its_frames_and_escapes_its_words() -> None:
    html = slider(labels=["</script>", "0.2"]).html()
    assert html.count("</script>") == 1
    assert 'aria-label="Two &quot;images&quot; &lt;b&gt;."' in html
    data = json.loads(html.split('json">')[1].removesuffix("</script></div>"))
    assert data["labels"] == ["</script>", "0.2"]
    assert [[trace["type"] for trace in frame] for frame in data["frames"]] == [
        ["heatmap", "image"]
    ] * 2
    levels = np.array(data["frames"][0][0]["z"])
    np.testing.assert_array_equal(levels, np.rint(255 * FRAMES[0][0][0].numpy()))


def test_a_slider_repeats_and_asks_nothing_of_the_network() -> None:
    assert slider()._repr_mimebundle_() == slider()._repr_mimebundle_()
    assert "http" not in slider().html()


def test_plotly_accepts_both_forms_of_a_slider() -> None:
    import plotly.graph_objects as go

    bundle = slider()._repr_mimebundle_()
    figure = go.Figure(bundle["application/vnd.plotly.v1+json"])
    assert len(figure.frames) == 2
    assert len(figure.layout.sliders[0].steps) == 2
    assert bundle["text/plain"] == 'Two "images" <b>.'


def chart(**changes: Any) -> sliders.Slider:
    frames = [
        [
            figures.Line([0, 1], [at, 1 / 3], "bound", mode="dashed"),
            figures.Line([0.5], [at], "found", figures.COLORS["linf"], "points"),
        ]
        for at in (0.25, 0.75)
    ]
    given: dict[str, Any] = {
        "frames": frames, "labels": ["2", "4"], "title": "dimension", "alt": "A line.",
        "x": ("one risk", (0, 1)), "y": ("the other", (-1, 1)), "name": "lines",
    }  # fmt: skip
    return figures.slider_chart(**{**given, **changes})


def test_a_chart_s_lines_move_and_its_axes_stay() -> None:
    import plotly.graph_objects as go

    figure = go.Figure(chart()._repr_mimebundle_()["application/vnd.plotly.v1+json"])
    assert [frame.data[1].y for frame in figure.frames] == [(0.25,), (0.75,)]
    assert figure.frames[0].data[0].y == (0.25, 0.3333)
    assert figure.layout.xaxis.range == (0, 1)
    assert figure.layout.yaxis.title.text == "the other"
    assert figure.frames[0].data[1].marker.color == figures.COLORS["linf"]


OTHER = [[figures.Line([0], [0], name)] for name in ("one", "another")]
BAD = {
    "other lines": (lambda: chart(frames=OTHER), "the same labels"),
    "too few labels": (lambda: chart(labels=["2"]), "slider_chart: 1 labels for 2 frames"),
    "ragged": (lambda: chart(frames=[[figures.Line([0, 1], [0], "r")]] * 2), "2 x for 1 y in 'r'"),
    "labels": (lambda: slider(labels=["one"]), "1 labels for 2 frames"),
    "panels": (lambda: slider(panels=["one"]), "for each panel"),
    "no frames": (lambda: slider(frames=[], labels=[]), "0 labels for 0 frames"),
    "slide": (lambda: slider(frames=[[digits(2, 8, 8)] * 2] * 2), "shape"),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
