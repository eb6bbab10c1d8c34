"""AutoAttack on a network behind a dead zone: its values, a line's slope, a record that adds up."""

import pytest
import torch
from torch import nn

from benchmarks.peers import zone
from helpers import ROOT
from mpkit.core import records
from mpkit.models import DeadZone, RankRule, front_of
from mpkit.studies import zoo


def test_straight_through_has_the_values_of_the_network_and_the_slope_of_the_line():
    rng, a = torch.Generator().manual_seed(0), 0.3
    linear = nn.Linear(16, 3, bias=False, dtype=torch.float64)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, 16, generator=rng, dtype=torch.float64))
    network = nn.Sequential(DeadZone(a), nn.Flatten(), linear)
    x = torch.rand(8, 1, 4, 4, generator=rng, dtype=torch.float64)
    x[:4] = (x[:4] > 0.5).double()
    x.requires_grad_()
    straight = zone.StraightLine(network, a)
    assert (straight(x) - network(x)).abs().max() < 1e-6 * linear.weight.abs().sum()
    slope = torch.autograd.grad(straight(x)[:, 1].sum(), x)[0].flatten(1)
    inside = (DeadZone(a)(x) > 0) & (DeadZone(a)(x) < 1)
    line = (linear.weight[1] / (1 - a)).expand(8, -1)
    assert torch.allclose(slope, line, rtol=1e-5)
    blind = torch.autograd.grad(network(x)[:, 1].sum(), x)[0].flatten(1)
    assert not blind[:4].any() and inside[4:].any()


@pytest.mark.parametrize(
    ("file", "network", "front", "ways"),
    [
        ("zone", zone.NETWORK, 0.3, zone.WAYS),
        ("rank-zone", "mnist-random@rank20", RankRule(20), zone.WAYS[:1]),
    ],
)
def test_a_record_adds_up_and_is_of_the_network_that_its_page_shows(file, network, front, ways):
    record = records.read_record(ROOT / "book" / "results" / f"{file}-autoattack.json")
    assert not record["commit"].endswith("+") and record["network"] == network
    assert front_of(zoo.load(network)) == front and tuple(record["accuracy"]) == ways
    points = record["parameters"]["points"]
    bits = [
        part[way]["left"][n]
        for part in record["pieces"].values()
        for way in ways
        for n in zone.NORMS
    ]
    assert len(record["pieces"]) * zone.PIECE == points
    assert {len(one) for one in bits} == {zone.PIECE}
    assert zone.together(record["pieces"]) == record["accuracy"]
    for left in record["accuracy"].values():
        assert left["union"][0] <= min(left[norm][0] for norm in zone.NORMS)
