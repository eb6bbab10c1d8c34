"""Attacks beyond the suite: the beam over whole pixels is exact on linear networks; the record."""

import pytest
import torch
from torch import nn

from benchmarks.training import harder as bench
from helpers import ROOT
from mpkit.attacks import Margin
from mpkit.core import records
from mpkit.models import DeadZone
from mpkit.sets import L1, L2
from mpkit.studies import analysis

RECORD = ROOT / "book" / "results" / "harder.json"
WIDTH = 0.3


def linear(seed: int) -> tuple[nn.Module, torch.Tensor]:
    """Two classes behind a dead zone, which no change of a few pixels confuses, and its weights."""
    rng = torch.Generator().manual_seed(seed)
    weights = torch.randn(16, generator=rng, dtype=torch.float64)
    layer = nn.Linear(16, 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([torch.zeros(16), weights]))
        layer.bias.copy_(torch.tensor([1000.0, 0.0]))
    return nn.Sequential(DeadZone(WIDTH), nn.Flatten(), layer), weights


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("ball", "flips"), [(L1(2.2), 3), (L2(1.5), 4)])
def test_on_a_linear_network_the_beam_takes_the_pixels_that_gain_most(seed, ball, flips):
    model, weights = linear(seed)
    rng = torch.Generator().manual_seed(seed)
    x = (torch.rand(2, 1, 4, 4, generator=rng, dtype=torch.float64) < 0.4).double()
    y = torch.zeros(2, dtype=torch.int64)
    found = bench.Beam(ball, WIDTH, width=4, tries=16, pairs=8)(model, x, y, rng)
    gains = torch.where(x.flatten(1) == 0, weights, -weights)
    best = gains.topk(flips, dim=1).values.clamp(min=0).sum(1)
    reached = Margin()(model(found.image), y) - Margin()(model(x), y)
    assert torch.allclose(reached, best)
    assert ball.contains(x, found.image - x).all()


def test_every_ball_has_its_attacks_under_names_of_their_own():
    for key, ball in bench.BALLS.items():
        names = list(bench.kinds(ball, WIDTH))
        assert len(set(names)) == len(names) >= 5
        assert ("beam" in names) == (key != "linf")


def test_the_record_is_of_the_network_on_the_page_and_adds_up():
    made = records.read_record(RECORD)
    folder = ROOT / "book" / "results" / "threshold"
    weights = {one["weights"]["sha256"] for one in analysis.records(folder).values()}
    assert made["weights"] in weights and not made["commit"].endswith("+")
    gone = torch.zeros(made["survivors"], dtype=torch.bool)
    for part in made["rows"].values():
        for row in part.values():
            bits = analysis.bits(row["bits"])
            assert int(bits.sum()) == row["broken"]
            gone |= bits
    assert int(gone.sum()) == made["broken"] <= made["survivors"] <= made["of"]
