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
MANY = data.load("digits", "test").to("cpu", torch.float64).first(200)
TEST = data.load("digits", "test").to("cpu", torch.float64).first(COUNT)
USUAL = sets.usual("digits", TEST.shape)
# in l_1 one pixel moves at a time, and after some steps a rounding can choose another one
STEPS = {"linf": 20, "l2": 20, "l1": 3}


def asked(tab: Page, call: str, *values: Any, count: int = COUNT) -> torch.Tensor:
    """What a function of the page gives for the first images, whose number it gets."""
    numbers = tab.evaluate(
        f"([values, count]) => mpLab.images.slice(0, count).map((x, i) => mpLab.{call})",
        [list(values), count],
    )
    return torch.tensor(numbers, dtype=torch.float64)


def test_logits_and_attacks_are_those_of_pytorch(browsing: Browsing) -> None:
    with browsing.opened(PAGE, 1280, "light") as tab:
        names = tab.evaluate("mpLab.networks")
        assert len(names) == 6
        for name in names:
            network = zoo.digits(name)
            logits = network(MANY.x)
            assert (asked(tab, "logits(values[0], x)", name, count=200) - logits).abs().max() < 1e-4
        network, answer = zoo.digits("linf"), zoo.digits("linf")(TEST.x).argmax(1)
        for norm, steps in STEPS.items():
            ball = USUAL[norm]
            call = "attack(values[0], x, values[1][i], values[2], values[3], values[4])"
            ours = asked(tab, call, "linf", answer.tolist(), norm, float(ball.eps), steps)  # type: ignore[attr-defined]
            assert ball.contains(TEST.x, ours.view_as(TEST.x) * (1 - 1e-12)).all(), norm
            pgd = attacks.PGD(ball, steps, start=attacks.Clean())  # type: ignore[arg-type]
            theirs = pgd(network, TEST.x, answer, torch.Generator()).z.flatten(1)
            assert torch.allclose(ours, theirs, atol=1e-6), norm


def test_the_same_digits_of_200_are_broken_as_in_pytorch(browsing: Browsing) -> None:
    network, x = zoo.digits("max"), MANY.x
    answer = network(x).argmax(1)
    call = "search(values[0], x, values[1][i], values[2], values[3], values[4]).margins"
    with browsing.opened(PAGE, 1280, "light") as tab:
        for norm, steps in {**STEPS, "rt": 9}.items():
            allowed = USUAL[norm]
            size = 1.0 if norm == "rt" else float(allowed.eps)  # type: ignore[attr-defined]
            given = ("max", answer.tolist(), norm, size, steps)
            margins = asked(tab, call, *given, count=200)
            attack: attacks.Attack = (
                attacks.Grid(allowed, shifts=3, angles=steps)  # type: ignore[arg-type]
                if norm == "rt"
                else attacks.PGD(allowed, steps, start=attacks.Clean())  # type: ignore[arg-type]
            )
            broken = (
                network(attack(network, x, answer, torch.Generator()).image).argmax(1) != answer
            )
            assert torch.equal(margins.amin(1) < 0, broken), norm
            assert 10 < broken.sum() < 190
            assert margins.shape[1] == (9 * steps if norm == "rt" else steps + 1)
            if norm == "rt":
                poses = (
                    attacks.Grid(allowed, shifts=3, angles=steps).shares(x) * allowed.bounds(x)[0]
                )  # type: ignore[arg-type, attr-defined]
                logits = network(allowed.apply(x[:1].expand(len(poses), -1, -1, -1), poses))
                own = logits[:, answer[0]].clone()
                logits[:, answer[0]] = -torch.inf
                assert torch.allclose(margins[0], own - logits.amax(1), atol=1e-9)


def test_an_address_sets_the_controls(browsing: Browsing) -> None:
    wanted = "?digit=3&network=l1&norm=rt&radius=150&other=5"
    with browsing.opened(PAGE, 1280, "light", wanted) as tab:
        chosen = tab.evaluate(
            "['digit', 'network', 'norm', 'radius', 'steps']"
            ".map(name => document.querySelector(`.mp-lab [name=${name}]`).value)"
        )
        assert chosen == ["3", "l1", "rt", "150", "20"]
        assert "0.75 pixels, 15 degrees" in tab.locator(".mp-lab").inner_text()
        tab.get_by_label("norm").select_option("l2")
        # the change is measured in every norm; in its own it fills what the radius allows
        shares = tab.evaluate("[...document.querySelectorAll('.mp-lab meter')].map(m => m.value)")
        assert shares[1] == pytest.approx(1.5) and min(shares) > 0
        assert tab.locator("[data-norm=l2] td").last.inner_text() == "1.5 radii"
        points = tab.locator(".mp-lab polyline").get_attribute("points")
        assert points and len(points.split()) == 21


def test_a_guess_opens_the_answer(browsing: Browsing) -> None:
    for page in ("book/start", "book/geometries", "book/many"):
        with browsing.opened(page, 390, "light") as tab:
            hidden = tab.locator(".mp-locked")
            assert hidden.count() >= 2
            box = tab.locator(".mp-guess")
            assert not hidden.first.is_visible() and "opens below" in box.inner_text()
            box.get_by_role("button").nth(1).click()
            assert hidden.count() == 0
            assert "your guess" in box.get_by_role("status").inner_text()
            pressed = [one.get_attribute("aria-pressed") for one in box.get_by_role("button").all()]
            assert pressed.count("true") == 1 and pressed[1] == "true"


def test_on_paper_nothing_is_hidden(browsing: Browsing) -> None:
    with browsing.opened("book/start", 1280, "light") as tab:
        tab.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.locator(".mp-locked").count() == 0


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
        rows = tab.locator(".mp-lab-classes tbody tr")
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
