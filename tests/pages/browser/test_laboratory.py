"""The laboratory computes what PyTorch computes, answers to its controls, and is light."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from browsing import Browsing
from playwright.sync_api import Page

from mpkit import attacks, data, sets
from mpkit.studies import zoo

pytestmark = pytest.mark.browser
PAGE = "book/laboratory"
COUNT = 10
TEST = data.load("digits", "test").to("cpu", torch.float64).first(COUNT)
USUAL = sets.usual("digits", TEST.shape)
# in l_1 one pixel moves at a time, and after some steps a rounding can choose another one
STEPS = {"linf": 20, "l2": 20, "l1": 3}


def asked(tab: Page, call: str, *values: Any) -> torch.Tensor:
    """What a function of the page gives for the first images, whose number it gets."""
    numbers = tab.evaluate(
        f"([values, count]) => mpLab.images.slice(0, count).map((x, i) => mpLab.{call})",
        [list(values), COUNT],
    )
    return torch.tensor(numbers, dtype=torch.float64)


def test_logits_and_attacks_are_those_of_pytorch(browsing: Browsing) -> None:
    with browsing.opened(PAGE, 1280, "light") as tab:
        names = tab.evaluate("mpLab.networks")
        assert len(names) == 6
        for name in names:
            network = zoo.digits(name)
            logits = network(TEST.x)
            assert (asked(tab, "logits(values[0], x)", name) - logits).abs().max() < 1e-4
        network, answer = zoo.digits("linf"), zoo.digits("linf")(TEST.x).argmax(1)
        for norm, steps in STEPS.items():
            ball = USUAL[norm]
            call = "attack(values[0], x, values[1][i], values[2], values[3], values[4])"
            ours = asked(tab, call, "linf", answer.tolist(), norm, float(ball.eps), steps)  # type: ignore[attr-defined]
            assert ball.contains(TEST.x, ours.view_as(TEST.x) * (1 - 1e-12)).all(), norm
            pgd = attacks.PGD(ball, steps, start=attacks.Clean())  # type: ignore[arg-type]
            theirs = pgd(network, TEST.x, answer, torch.Generator()).z.flatten(1)
            assert torch.allclose(ours, theirs, atol=1e-6), norm


def test_controls_change_what_is_shown(browsing: Browsing) -> None:
    found: list[str] = []
    with browsing.opened(PAGE, 390, "light", found=found) as tab:
        said = tab.locator(".mp-lab output")
        first = said.inner_text()
        assert "still does" in first or "after the attack" in first
        tab.get_by_label("radius").fill("0")
        assert "still does" in said.inner_text() and "; 0 pixels" in said.inner_text()
        tab.get_by_label("radius").fill("200")
        assert "still does" not in said.inner_text()
        tab.get_by_label("network").select_option("linf")
        tab.get_by_label("test image").fill("3")
        assert "reads 3" in said.inner_text()
        tab.get_by_label("norm").select_option("l1")
        few = int(said.inner_text().partition("; ")[2].split()[0])
        assert 0 < few < 20
        rows = tab.locator(".mp-lab tbody tr")
        assert rows.count() == 10
        tab.get_by_role("button", name="Empty the digit").click()
        before = said.inner_text()
        box = tab.locator(".mp-lab canvas").first.bounding_box()
        assert box
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + 4)
        tab.mouse.down()
        tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 4, steps=12)
        tab.mouse.up()
        assert said.inner_text() != before
    assert found == []


def test_the_laboratory_is_light_and_alone(browsing: Browsing) -> None:
    scripts = [browsing.root / "_static" / name for name in ("mp-lab.js", "mp-lab-data.js")]
    assert sum(path.stat().st_size for path in scripts) < 5_000_000
    page = (browsing.root / "book" / "start.html").read_text()
    assert "mp-lab.js" not in page and "mp-lab-data.js" not in page
