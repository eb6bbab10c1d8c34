"""Certificates of the nearest neighbour: they hold, they are tight on a line, and are on record."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.certify import neighbours as bench
from benchmarks.common.records import RADII
from helpers import ROOT
from mpkit.core import records
from mpkit.core.files import DataError
from mpkit.data import Images
from mpkit.sets import L1, L2, Linf

RECORD = ROOT / "book" / "results" / "neighbours.json"
BALLS = {"linf": Linf, "l2": L2, "l1": L1}


def images(x, y):
    return Images(torch.as_tensor(x, dtype=torch.float32), torch.tensor(y), ("0", "1", "2"), "own")


def drawn(count, seed):
    rng = torch.Generator().manual_seed(seed)
    classes = torch.randint(3, (count,), generator=rng)
    return images(torch.rand(count, 1, 3, 3, generator=rng), classes.tolist())


def answers(known, x, order):
    apart = torch.cdist(x.flatten(1).double(), known.x.flatten(1).double(), p=order)
    return known.y[apart.argmin(1)]


@given(st.integers(0, 10**6), st.sampled_from(sorted(BALLS)))
def test_no_change_within_the_radius_changes_the_answer(seed, norm):
    known, asked, order = drawn(30, seed), drawn(12, seed + 1), BALLS[norm](1.0).order
    radius = bench.radii(known, asked, order)
    assert ((radius > 0) == (answers(known, asked.x, order) == asked.y)).all()
    rng, x = torch.Generator().manual_seed(seed), asked.x.double()
    for one in range(20):
        ball = BALLS[norm](radius * (0.999 if one % 2 else 0.5))
        z = ball.sample(x, rng)
        if one > 9:  # towards one of the known images
            z = ball.project(x, known.x[one].double() - x)
        same = answers(known, x + z, order) == asked.y
        assert same[radius > 1e-6].all()


@pytest.mark.parametrize("norm", sorted(BALLS))
def test_on_a_line_the_border_is_half_way(norm):
    known = images([[[[0.0]]], [[[1.0]]]], [0, 1])
    asked = images([[[[0.2]]], [[[0.2]]], [[[0.5]]]], [0, 1, 0])
    radius = bench.radii(known, asked, BALLS[norm](1.0).order)
    assert torch.allclose(radius, torch.tensor([0.3, 0.0, 0.0]).double(), atol=1e-7)


def test_the_record_agrees_with_itself():
    record = records.read_record(RECORD)
    assert not record["commit"].endswith("+") and record["radii"] == RADII
    for norm, row in record["norms"].items():
        radius = torch.tensor(row["radii"], dtype=torch.float64)
        assert len(radius) == record["parameters"]["points"] and (radius >= 0).all()
        share = (radius > RADII[norm]).double().mean().item()
        assert share == pytest.approx(row["certified"][0])
        right = (radius > 0).double().mean().item()  # radii below 0.001 are rounded down to 0
        assert 0 <= row["clean"][0] - right < 0.01
    binary = record["black and white"]
    radius = torch.tensor(binary["radii"], dtype=torch.float64)
    share = (radius > RADII["l1"]).double().mean().item()
    assert share == pytest.approx(binary["certified"][0]) and len(radius) == 1000
    assert set(record["norms"]) == set(BALLS) and not math.isinf(radius.max())


def test_black_and_white_images_are_nearest_to_the_grey_ones():
    made = bench.black_and_white(images([[[[0.2, 0.5, 0.9]]]], [0]))
    assert made.x.tolist() == [[[[0.0, 1.0, 1.0]]]] and made.y.tolist() == [0]


def test_radii_on_record_come_out_again():
    try:
        known, asked = bench.load("mnist", "train"), bench.load("mnist", "test").first(3)
    except (FileNotFoundError, DataError):
        pytest.skip("needs the real images: set MPKIT_DATA")
    told = records.read_record(RECORD)["norms"]["l1"]["radii"][:3]
    found = (bench.radii(known, asked, 1.0) * 1000).floor() / 1000
    assert told == pytest.approx(found.tolist())
