"""How many pixels share a step of SLIDE on MNIST: the choice by halves, the record, a row anew."""

from __future__ import annotations

import pytest
import torch

from benchmarks.attacks import quantiles as bench
from helpers import ROOT
from mpkit import data
from mpkit.attacks import SLIDE
from mpkit.core import records
from mpkit.core.files import DataError
from mpkit.core.statistics import proportion
from mpkit.studies import analysis, zoo
from mpkit.studies.protocol import bits_as_text

RECORD = ROOT / "book" / "results" / "bench" / "quantiles.json"


def row(*starts: torch.Tensor) -> dict:
    return {"bits": [bits_as_text(bits) for bits in starts]}


def test_what_tuning_gains_is_measured_where_it_was_not_chosen() -> None:
    """One number breaks the even images and another the odd: neither is better."""
    even = torch.arange(40) % 2 == 0
    rows = {str(m): row(torch.ones(40, dtype=torch.bool)) for m in bench.MOVING}
    rows["1"], rows["4"] = row(even), row(~even)
    assert bench.tuned(rows) == {"best": 1, "by halves": [4, 1], "gap": [0.0, 0.0, 0.0]}
    rows["2"], rows["4"] = row(~even, torch.zeros(40, dtype=torch.bool)), rows["8"]
    found = bench.tuned(rows)  # breaks every even image from both starts, odd ones from one
    assert found["best"] == 2 and found["by halves"] == [2, 1]
    assert found["gap"][0] == 0.25


def test_every_attack_has_a_row_of_its_own_and_moves_what_its_row_says() -> None:
    image = torch.full((1, 1, 28, 28), 0.5)
    slope = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    rows = [(kind, setting) for kind, setting, _ in bench.attacks()]
    assert len(set(rows)) == len(rows)
    for kind, setting, attack in bench.attacks():
        assert int(kind.split()[-1]) == attack.steps and attack.set == bench.BALL
        if isinstance(attack, SLIDE):
            step = attack.stride(image, slope, torch.tensor(1.0))
            assert int((step != 0).sum()) == int(setting)


def test_the_record_adds_up() -> None:
    made = records.read_record(RECORD)
    assert not made["commit"].endswith("+") and made["parameters"]["paper"] == bench.PAPER
    assert sorted(made["networks"]) == sorted(bench.NETWORKS)
    for name, found in made["networks"].items():
        assert found["sha256"] == zoo.card(f"mnist-{name}").sha256
        rows = found["rows"]
        assert {(a, b) for a in rows for b in rows[a]} == {one[:2] for one in bench.attacks()}
        for one in (one for kind in rows.values() for one in kind.values()):
            again = [list(proportion(analysis.bits(bits))) for bits in one["bits"]]
            assert one["accuracy"] == [pytest.approx(list(each)) for each in again]
            assert {bits["count"] for bits in one["bits"]} == {made["parameters"]["points"]}
            assert len(again) == made["parameters"]["starts"]
        for steps in bench.STEPS:
            kept, again = found[f"tuned {steps}"], bench.tuned(rows[f"SLIDE {steps}"])
            assert kept["gap"] == pytest.approx(again.pop("gap"))
            assert {key: kept[key] for key in again} == again


def test_a_row_can_be_had_again() -> None:
    """Ten steps on the first start's images; two may round to the other side elsewhere."""
    made = records.read_record(RECORD)
    try:
        images = data.load("mnist", "test").first(made["parameters"]["points"])
    except (FileNotFoundError, DataError):
        pytest.skip("needs the real images: set MPKIT_DATA")
    (attack,) = (
        one
        for kind, setting, one in bench.attacks()
        if (kind, setting) == ("SLIDE 10", str(bench.PAPER))
    )
    (bits,) = bench.measured("l1", attack, images, 1)["bits"]
    told = made["networks"]["l1"]["rows"]["SLIDE 10"][str(bench.PAPER)]["bits"][0]
    assert int((analysis.bits(bits) != analysis.bits(told)).sum()) <= 2
