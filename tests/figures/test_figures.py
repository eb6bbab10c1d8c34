"""The visual language: contrast, colour vision, repeatable pictures, honest axes."""

from __future__ import annotations

import base64
import itertools
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from helpers import ROOT
from mpbook import figures
from mpbook.figures.style import INK, RC, WIDTH
from mpkit.core.statistics import Estimate

SHEET = ROOT / "book" / "_static" / "mpbook.css"
LIGHT, DARK = re.findall(r"--pst-color-background: (#\w+)", SHEET.read_text())
PAGES = {"light": LIGHT, "dark": DARK}
SETS = [key for key in figures.LOOKS if key != "neutral"]
VISION = {  # Machado, Oliveira, Fernandes 2009: what is left of linear RGB without one cone
    "full": np.eye(3),
    "no red cones": np.array(
        [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]]
    ),
    "no green cones": np.array(
        [[0.3673, 0.8606, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]]
    ),
    "no blue cones": np.array(
        [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]]
    ),
}


def linear(color: str) -> Any:
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of luminances, 1 to 21."""
    low, high = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Any) -> Any:
    """CIE L*a*b* of linear RGB, where distance is roughly what the eye tells apart."""
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    x = np.array(to_xyz) @ np.clip(rgb, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def png(figure: Any) -> bytes:
    return base64.b64decode(figure._repr_mimebundle_()[0]["image/png"])


def digits(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("key", figures.COLORS)
def test_a_colour_stands_out_on_both_pages(key: str, page: str) -> None:
    assert contrast(figures.COLORS[key], page) >= 3


def test_text_is_readable_on_both_pages() -> None:
    assert contrast(INK, LIGHT) >= 4.5
    assert contrast(INK, DARK) >= 4  # no grey reaches 4.5 on both


@pytest.mark.parametrize("vision", VISION.values(), ids=VISION)
def test_two_colours_differ_for_every_colour_vision(vision: Any) -> None:
    seen = {key: lab(vision @ linear(figures.COLORS[key])) for key in SETS}
    for one, other in itertools.combinations(SETS, 2):
        assert np.linalg.norm(seen[one] - seen[other]) >= 14, (one, other)


def test_colour_is_never_the_only_cue() -> None:
    looks = [figures.LOOKS[key] for key in SETS]
    for name in ("color", "label", "plain", "marker"):
        assert len({getattr(look, name) for look in looks}) == len(SETS), name
    assert len({str((look.linestyle, look.marker)) for look in looks}) == len(SETS)
    assert len({look.hatch for look in looks}) == len(SETS)


def test_a_picture_repeats_byte_by_byte() -> None:
    def drawn() -> bytes:
        figure, ax = figures.canvas()
        rates = [Estimate(1, 0.9, 1), Estimate(0.5, 0.4, 0.6)]
        figures.accuracy_curves(ax, [0, 1], {"linf": rates, "l1": [1, 0.2]})
        return png(figure)

    first = drawn()
    assert drawn() == first
    assert b"Software" not in first
    assert b"tIME" not in first


def test_showing_a_figure_twice_shows_the_same() -> None:
    figure = figures.show_images(digits(2, 3, 1, 8, 8), rows=["clean", "linf"])
    assert png(figure) == png(figure)


def test_the_reader_s_own_settings_do_not_matter() -> None:
    import matplotlib as mpl

    def drawn() -> bytes:
        figure, ax = figures.canvas(width=2, height=2)
        figures.unit_balls(ax)
        return png(figure)

    plain = drawn()
    with mpl.rc_context({"lines.linewidth": 9, "font.size": 30, "figure.facecolor": "red"}):
        assert drawn() == plain
        assert mpl.rcParams["font.size"] == 30


def test_a_figure_says_its_size_and_is_transparent() -> None:
    from io import BytesIO

    from matplotlib.image import imread

    figure, _ = figures.canvas(width=3, height=2)
    data, size = figure._repr_mimebundle_()
    assert size["image/png"] == {"width": 288, "height": 192}
    pixels = imread(BytesIO(base64.b64decode(data["image/png"])))
    assert pixels.shape == (384, 576, 4)
    assert pixels[0, 0, 3] == 0
    assert WIDTH * 96 <= 600


def test_style_changes_nothing_outside() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    with figures.style():
        assert mpl.rcParams["font.size"] == RC["font.size"]
    assert dict(mpl.rcParams) == before


def test_importing_figures_imports_no_plotting() -> None:
    code = "import sys, mpbook.figures.images; print({'matplotlib', 'plotly'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_are_shown_as_they_are(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    image = digits(*shape).to(dtype).requires_grad_()
    figure = figures.show_images([[image]])
    shown = figure.axes[0].images[0]
    expected = image.detach().squeeze(0) if shape[0] == 1 else image.detach()
    expected = expected.movedim(0, -1) if shape[0] == 3 else expected
    np.testing.assert_allclose(np.asarray(shown.get_array()), expected.numpy(), atol=1e-7)
    if shape[0] != 3:
        assert shown.get_clim() == (0, 1)


def test_tiles_carry_their_labels_in_their_colours() -> None:
    names, notes = ["linf", "mine"], [["7 → 7", "7 → 1"]]
    figure = figures.show_images([[digits(8, 8)] * 2], ["clean"], names, notes)
    first, second = figure.axes
    assert first.get_title() == figures.LABELS["linf"]
    assert first.title.get_color() == figures.COLORS["linf"]
    assert (second.get_title(), second.title.get_color()) == ("mine", INK)
    assert first.get_ylabel() == "clean"
    assert [ax.get_xlabel() for ax in figure.axes] == notes[0]


def test_labels_and_notes_make_room_for_themselves() -> None:
    grid = [[digits(8, 8)] * 5] * 2
    plain = figures.show_images(grid).get_size_inches()
    told = figures.show_images(grid, columns=["rt"] * 5, notes=[["a"] * 5] * 2).get_size_inches()
    assert told[0] == plain[0]
    assert told[1] > plain[1] + 0.5


def test_perturbations_share_one_symmetric_scale() -> None:
    small, large = torch.full((1, 8, 8), 0.1), torch.full((3, 8, 8), -0.4)
    figure = figures.show_perturbations([[small, large]])
    scales = [image.get_clim() for ax in figure.axes for image in ax.images]
    np.testing.assert_allclose(scales, [(-0.4, 0.4)] * 2, rtol=1e-6)


def test_no_perturbation_at_all_can_be_shown() -> None:
    figure = figures.show_perturbations([[torch.zeros(1, 8, 8)]])
    assert figure.axes[0].images[0].get_clim() == (-1, 1)


def test_unit_balls_touch_where_they_should() -> None:
    _, ax = figures.canvas()
    figures.unit_balls(ax)
    lines = {line.get_color(): line.get_xydata() for line in ax.lines}
    for key, order in (("linf", np.inf), ("l2", 2), ("l1", 1)):
        lengths = np.linalg.norm(lines[figures.COLORS[key]], ord=order, axis=1)
        np.testing.assert_allclose(lengths, 1)


def test_curves_keep_their_values_and_the_whole_axis() -> None:
    _, ax = figures.canvas()
    values = {"l1": [1.0, 0.4], "rt": [0.9, 0.8]}
    figures.accuracy_curves(ax, torch.tensor([0.0, 2.0]), values)
    assert [list(line.get_ydata()) for line in ax.lines] == list(values.values())
    assert ax.get_ylim() == (0, 1)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        figures.LABELS[key] for key in values
    ]


def test_bands_are_the_intervals() -> None:
    _, ax = figures.canvas()
    figures.accuracy_curves(ax, [0, 1], {"l1": [Estimate(0.9, 0.8, 1), Estimate(0.5, 0.4, 0.7)]})
    (band,) = ax.collections
    corners = {tuple(point) for point in band.get_paths()[0].vertices}
    assert {(0.0, 0.8), (0.0, 1.0), (1.0, 0.4), (1.0, 0.7)} <= corners


def test_bars_keep_their_values_and_their_intervals() -> None:
    _, ax = figures.canvas()
    natural = {"clean": Estimate(0.9, 0.85, 0.95), "linf": Estimate(0.1, 0.05, 0.2)}
    figures.bars_with_intervals(ax, {"natural": natural, "l1-trained": {"clean": 0.8}})
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["natural", f"{figures.LABELS['l1']}-trained"]
    assert [bar.get_height() for bar in ax.patches] == [0.9, 0.8, 0.1]
    assert {text.get_text() for text in ax.texts} == {"90", "10", "80"}
    segments = [np.asarray(c.get_segments()[0])[:, 1] for c in ax.collections]
    np.testing.assert_allclose(segments, [[0.85, 0.95], [0.05, 0.2]])


def test_many_groups_of_bars_lie_below_one_another() -> None:
    _, ax = figures.canvas()
    groups = {f"scheme {i}": {"l1": Estimate(0.1 * i, 0.05 * i, 0.11 * i)} for i in range(6)}
    figures.bars_with_intervals(ax, groups)
    assert [label.get_text() for label in ax.get_yticklabels()] == list(groups)
    np.testing.assert_allclose([bar.get_width() for bar in ax.patches], 0.1 * np.arange(6))
    segments = [np.asarray(c.get_segments()[0])[:, 0] for c in ax.collections]
    np.testing.assert_allclose(segments, [[0.05 * i, 0.11 * i] for i in range(6)])
    assert ax.get_ylim()[0] > ax.get_ylim()[1] and ax.get_xlim() == (0, 1)


def test_changes_stand_at_their_values_with_their_intervals() -> None:
    _, ax = figures.canvas()
    rows = {"a slip": Estimate(0.1, 0.05, 0.2), "none": Estimate(0, -0.01, 0.02)}
    figures.changes_with_intervals(ax, {"l1": rows, "clean": rows})
    assert [label.get_text() for label in ax.get_yticklabels()] == list(rows)
    across = [bars.get_segments() for bars in ax.collections]
    for segments in across:
        ends = np.asarray(segments)[:, :, 0]
        np.testing.assert_allclose(ends, [[0.05, 0.2], [-0.01, 0.02]], atol=1e-15)
    assert (np.asarray(across[0])[:, 0, 1] > np.asarray(across[1])[:, 0, 1]).all()


def test_dots_lie_at_their_values_in_rows_from_the_top_down() -> None:
    _, ax = figures.canvas()
    found = [Estimate(0.5, 0.25, 1.0), Estimate(0.0, -0.5, 0.125)]
    groups = {"linf": found, "ours": found[::-1]}
    forms = {"ours": {"color": figures.INK, "fmt": "D"}}
    figures.dots_with_intervals(ax, ["linf", "tuned"], groups, forms, gap=0.2)
    assert [label.get_text() for label in ax.get_yticklabels()] == [figures.LABELS["linf"], "tuned"]
    first, other = (container.lines[0] for container in ax.containers)
    assert list(first.get_xdata()) == [0.5, 0.0] and list(other.get_xdata()) == [0.0, 0.5]
    np.testing.assert_allclose([first.get_ydata(), other.get_ydata()], [[-0.1, 0.9], [0.1, 1.1]])
    (bars,) = ax.containers[0].lines[2]
    np.testing.assert_allclose(np.asarray(bars.get_segments())[:, :, 0], [[0.25, 1], [-0.5, 0.125]])
    assert first.get_color() == figures.COLORS["linf"] and other.get_marker() == "D"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    with pytest.raises(ValueError, match="unknown perturbation 'ours'"):
        figures.dots_with_intervals(ax, ["a"], {"ours": found[:1]})


def test_lines_of_a_slider_can_stand_still() -> None:
    _, ax = figures.canvas()
    lines = [
        figures.Line([1, 2], [3.0, 4.0], "a", figures.COLORS["l1"]),
        figures.Line([1], [2.0], "b", mode="points"),
    ]
    figures.draw_lines(ax, lines)
    assert [list(line.get_ydata()) for line in ax.lines] == [[3.0, 4.0], [2.0]]
    assert [line.get_linestyle() for line in ax.lines] == ["-", "None"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


BAD = {
    "image": (lambda: figures.show_images([[digits(2, 8, 8)]]), "shape"),
    "ragged": (lambda: figures.show_images([[digits(8, 8)], []]), "one length"),
    "nothing": (lambda: figures.show_images([[]]), "one length"),
    "rows": (lambda: figures.show_images([[digits(8, 8)]], rows=["a", "b"]), "2 labels for 1 rows"),
    "key": (lambda: figures.accuracy_curves(figures.canvas()[1], [0], {"l7": [1]}), "l7"),
    "length": (lambda: figures.accuracy_curves(figures.canvas()[1], [0], {"l1": [1, 2]}), "radius"),
    "bar": (lambda: figures.bars_with_intervals(figures.canvas()[1], {"m": {"l7": 1.0}}), "l7"),
}


@pytest.mark.parametrize(("call", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_named(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
