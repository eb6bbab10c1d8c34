"""The record behind *Gradient masking on MNIST*: known curves, pieces done once, its contents."""

import pytest
import torch
from torch import nn

from benchmarks.masking import mnist as study
from helpers import ROOT
from helpers.small_runs import linear
from helpers.toys import generator, relu_net
from mpkit import data, sets
from mpkit.attacks import PGD, Margin
from mpkit.core import records
from mpkit.studies import zoo
from mpkit.studies.analysis import pixels

RECORD = ROOT / "book" / "results" / "masking.json"


class Cut(nn.Module):
    """Black and white, and nothing between."""

    def forward(self, x):
        return (x > 0.5).to(x.dtype)


def test_the_response_of_a_line_is_a_line_and_of_a_threshold_a_step() -> None:
    x = (torch.rand(5, 1, 6, 6, generator=generator(), dtype=torch.float64) > 0.5).double()
    values = torch.linspace(0, 1, study.POINTS)
    line = study.response(nn.Flatten(), x, generator(1))
    step = study.response(Cut(), x, generator(1))
    for kind in ("black", "white"):
        assert line[kind] == pytest.approx(values.tolist(), abs=1e-4)
    assert step["black"] == [float(v > 0.5) for v in values]
    assert step["white"] == [float(1 - v <= 0.5) for v in values]


def test_lines_of_a_linear_network_have_known_ends() -> None:
    """Along the gradient the margin rises by radius times dual norm, and no way is steeper."""
    w = torch.randn(1, 3, 4, generator=generator(2), dtype=torch.float64)
    x = torch.full((8, 1, 3, 4), 0.5, dtype=torch.float64)
    x += 0.01 * torch.rand(x.shape, generator=generator(3), dtype=torch.float64)

    def model(x):
        lead = (x * w).flatten(1).sum(1) - 50
        return torch.stack([torch.zeros_like(lead), lead], 1)

    images = data.Images(x, torch.zeros(8, dtype=torch.int64), ("a", "b"), "toy")
    ball = sets.L2(0.2)
    way = PGD(ball, 20, loss=Margin())(model, x, images.y, generator()).z
    found = study.lines(model, images, ball, way, torch.arange(8) < 3)
    assert found["images"] == {"gradient": 8, "random": 8, "found": 3}
    assert found["gradient climbs higher"] == 1 and found["gradient arrives"] == 0
    middle = torch.tensor(found["quartiles"]["gradient"])[1]
    start = float(Margin()(model(x), images.y).quantile(0.5))
    assert float(middle[0]) == pytest.approx(start, abs=0.01)
    assert float(middle[-1] - middle[0]) == pytest.approx(0.2 * float(w.norm()), abs=0.011)


def test_the_share_on_black_pixels_is_that_of_the_squared_length() -> None:
    x = torch.tensor([0.0, 0, 1, 0.5], dtype=torch.float64).view(1, 1, 2, 2)
    change = torch.tensor([3.0, 0, 4, 0], dtype=torch.float64).view(1, 1, 2, 2)
    assert study.on_black(x, change) == [0.36] * 3


def small(n=12):
    """Eight by eight images of a random network's own classes, under the radii of the digits."""
    net = relu_net(4, inputs=64, classes=4, dtype=torch.float32)
    x = torch.rand(n, 1, 8, 8, generator=generator(5))
    return net, data.Images(x, net(x).argmax(1), tuple("abcd"), "digits")


@pytest.mark.parametrize("key", study.NORMS)
def test_a_contest_counts_what_each_attack_left(key) -> None:
    pytest.importorskip("foolbox")
    net, images = small()
    ball = sets.usual("digits", images.shape)[key]
    found = study.contest(net, images, ball, 0.02)
    names = ["pgd", "apgd", "square", "across"]
    assert [name for name in found["standing"] if name in names] == names
    assert all(packed["count"] == len(images) for packed in found["standing"].values())
    assert set(found["seconds"]) == set(found["standing"])


def test_an_example_is_kept_with_its_place_label_and_pixels() -> None:
    _, images = small()
    reached = {"apgd": images.x, "across": 1 - images.x}
    kept = study._example(images, reached, 3)
    assert (kept["index"], kept["label"]) == (3, int(images.y[3]))
    shown = pixels(kept["pixels"]["clean"])
    torch.testing.assert_close(shown, images.x[3:4], atol=0.5 / 255 + 1e-6, rtol=0)


def test_a_piece_is_done_once_for_each_key(tmp_path) -> None:
    calls = []

    def work():
        calls.append(1)
        return {"answer": len(calls)}

    file = tmp_path / "made" / "piece.json"
    first = study.piece(file, "a", work)
    assert study.piece(file, "a", work) == first and len(calls) == 1
    assert study.piece(file, "b", work)["found"] == {"answer": 2}


def test_a_network_has_five_pieces() -> None:
    model = nn.Sequential(*linear(), nn.ReLU(), nn.Linear(2, 2).double())
    images = small()[1]
    assert [name for name, _ in study.parts(model, images)] == ["response", *study.NORMS, "doctor"]


# The committed record


def test_parts_done_again_leave_the_others_and_say_where_those_come_from(tmp_path) -> None:
    file, facts = tmp_path / "r.json", dict.fromkeys(("commit", "commit_date", "duration_s"), 1)
    network = {"sha256": "h", "l1": 2, "doctor": 3}
    facts |= {"versions": {}, "parameters": {"points": 5}, "networks": {"n": network}}
    records.write_record(file, facts)
    found, origin = study.kept(file, ["doctor"], 5)
    assert found == {"n": {"sha256": "h", "l1": 2}}
    assert origin["again"]["parts"] == ["doctor"] and origin["again"]["others"]["commit"] == 1
    records.write_record(file, facts | origin | {"commit": 2})
    assert study.kept(file, ["doctor"], 5)[1] == origin  # the first origin is kept
    assert study.kept(file, [], 5) == ({}, {})
    with pytest.raises(ValueError, match="has 5 images, not 6"):
        study.kept(file, ["doctor"], 6)


@pytest.fixture(scope="module")
def record():
    return records.read_record(RECORD)


def test_the_record_is_small_whole_and_says_how_it_was_made(record) -> None:
    assert RECORD.stat().st_size < 400_000
    assert set(record["networks"]) == set(record["parameters"]["models"]) == set(study.NETWORKS)
    assert not record["commit"].endswith("+") and record["seed"] == 0
    assert record["command"].startswith("python ") and record["duration_s"] > 0


def test_the_record_is_that_of_the_networks_that_are_shipped(record) -> None:
    for name, row in record["networks"].items():
        assert row["sha256"] == zoo.card(name).sha256, (
            f"{name}: run python -m benchmarks.masking.mnist"
        )


def test_every_network_was_attacked_on_the_same_images(record) -> None:
    points = record["parameters"]["points"]
    balls = sets.usual("mnist", (1, 28, 28))
    for row in record["networks"].values():
        assert set(row["response"]) == set(study.DEPTHS)
        for key in study.NORMS:
            assert set(row[key]["standing"]) == set(study.arms(balls[key]))
            assert {bits["count"] for bits in row[key]["standing"].values()} == {points}
        assert set(row["doctor"]["sets"]) == set(study.NORMS)


def test_examples_lie_in_their_sets_up_to_eight_bits(record) -> None:
    balls = sets.usual("mnist", (1, 28, 28))
    for row in record["networks"].values():
        for key in study.NORMS:
            example = row[key]["example"]
            if example is None:
                continue
            x = {name: pixels(stored) for name, stored in example["pixels"].items()}
            slack = {"linf": 1, "l2": 28, "l1": 784}[key] * 0.501 / 255
            for name in ("apgd", "found"):
                assert float(balls[key].norm(x[name] - x["clean"])) <= balls[key].eps + slack
