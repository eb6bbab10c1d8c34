"""Greedy moves of whole pixels: the known optima, networks that round, bounds on memory."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from helpers.toys import generator, relu_net
from mpkit.attacks import PGD, GreedyPixels, Margin
from mpkit.attacks.greedy import PIECE
from mpkit.sets import L0, L1, L2, Linf

SIDES = (1, 3, 4)


def black_and_white(seed: int, n: int = 1) -> Tensor:
    return torch.rand(n, *SIDES, generator=generator(seed), dtype=torch.float64).round()


def greatest(model: nn.Module, x: Tensor, y: Tensor, most: int) -> float:
    """The greatest margin over all ways to flip at most so many of 12 pixels."""
    ways = [w for k in range(most + 1) for w in combinations(range(12), k)]
    flips = torch.zeros(len(ways), 12, dtype=x.dtype)
    for row, way in zip(flips, ways, strict=True):
        row[list(way)] = 1
    images = (x.flatten(1) - flips).abs().view(-1, *SIDES)
    with torch.no_grad():
        return float(Margin()(model(images), y.expand(len(images))).max())


@pytest.mark.parametrize("threat", [L0(3), L1(3.0), L2(3**0.5)], ids=str)
def test_as_good_as_every_choice_of_three_pixels(threat: L0 | L1 | L2) -> None:
    """On black and white images of 12 pixels, in at least 95 of 100 cases."""
    gaps = []
    for seed in range(100):
        model, x = relu_net(seed, inputs=12, classes=3, dtype=torch.float64), black_and_white(seed)
        with torch.no_grad():
            y = model(x).argmax(1)
        best = greatest(model, x, y, 3)
        found = GreedyPixels(threat)(model, x, y, generator(seed))
        broken = bool(found.score > 0)
        gaps.append(0.0 if broken == (best > 0) or broken else best - float(found.score))
        assert bool(threat.contains(x, found.z).all())
    missed = [gap for gap in gaps if gap > 0]
    assert len(missed) <= 5, missed


class Rounded(nn.Module):
    """Sees black and white alone: no slope anywhere."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        seen: Tensor = (x > 0.5).to(x.dtype)
        return self.model(seen + 0 * x)


def test_a_network_that_rounds_hides_nothing_from_it() -> None:
    model = relu_net(3, inputs=12, classes=3, dtype=torch.float64)
    x = black_and_white(0, 20)
    with torch.no_grad():
        y = model(x).argmax(1)
    for threat, most in ((L1(2.0), 3), (L2(1.5), 4), (L0(3), 3)):  # .51 a pixel would do
        found = GreedyPixels(threat)(Rounded(model), x, y, generator())
        best = torch.tensor([greatest(model, x[i : i + 1], y[i], most - 1) for i in range(20)])
        assert bool(((found.score > 0) | (best <= 0)).all())
        if not isinstance(threat, L0):
            still = PGD(threat, 20, loss=Margin())(Rounded(model), x, y, generator())
            assert int((still.score > 0).sum()) < int((found.score > 0).sum())


def test_a_channel_moves_alone_where_that_is_cheaper() -> None:
    class Green(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            lead = x[:, 1, 0, 0] - x[:, 0, 0, 0] - 0.5
            return torch.stack([-lead, lead], 1)

    x = torch.zeros(1, 3, 4, 4)
    found = GreedyPixels(L1(1.0))(Green(), x, torch.tensor([0]), generator())
    assert float(found.score) > 0
    assert bool((found.z[:, [0, 2]] == 0).all())


@pytest.mark.parametrize("tries", [4, 300, 2000])
def test_no_forward_pass_is_larger_than_a_piece_or_one_example_s_tries(tries: int) -> None:
    model, sizes = relu_net(1, inputs=144, classes=3, dtype=torch.float32), []

    def spy(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return model(x)

    x = torch.rand(40, 1, 12, 12, generator=generator(1))
    y = model(x).argmax(1)
    found = GreedyPixels(L1(1.0), 2, tries, 1, polish=1)(spy, x, y, generator())
    assert found.image.shape == x.shape
    assert max(sizes) <= max(PIECE, tries, 144)


def test_settings_out_of_range_are_named() -> None:
    for words in ({"pixels": 0}, {"tries": 1}, {"level": 1.0}, {"swaps": -1}, {"polish": -1}):
        with pytest.raises(ValueError, match=next(iter(words))):
            GreedyPixels(L1(1.0), **words)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="counts pixels, at least 1"):
        L0(0.5)


def test_at_most_so_many_pixels() -> None:
    x = torch.rand(5, 3, 4, 4, generator=generator(1), dtype=torch.float64)
    d = torch.randn(5, 3, 4, 4, generator=generator(2), dtype=torch.float64)
    for few in (L0(3), L0(torch.tensor([0.0, 1.0, 2.5, 16.0, 99.0]))):
        z = few.project(x, d)
        assert bool(few.contains(x, z).all())
        assert torch.equal(few.project(x, z), z)
        clipped = torch.clamp(d, -x, 1 - x)
        kept = (z != 0).any(1)
        assert torch.equal(z, clipped * kept.unsqueeze(1))  # the others stay
        size = clipped.square().sum(1)
        for i in range(5):  # and none that stays would have moved further
            if kept[i].any() and not kept[i].all():
                assert size[i][kept[i]].min() >= size[i][~kept[i]].max()


def test_a_set_that_it_cannot_keep_is_refused():
    with pytest.raises(ValueError, match="set must be L0, L1 or L2, got Linf"):
        GreedyPixels(Linf(0.2))
