"""Targeted evaluation: exact on linear networks, the same on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from helpers.toys import generator
from mpkit import data
from mpkit.cli.main import main
from mpkit.evaluation import TargetView, evaluate_toward, table_toward, targets_of
from mpkit.models import small_cnn
from mpkit.sets import parse_threat


def problem() -> tuple[nn.Sequential, torch.Tensor, torch.Tensor]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 16, generator=generator(2)))
        model[1].bias.zero_()
        x = torch.rand(40, 1, 4, 4, generator=generator(1)) * 0.4 + 0.3
        model[1].bias.copy_(-model(x).mean(0))
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("eps", [0.02, 0.05, 0.1])
def test_what_can_be_reached_on_a_linear_network_is_reached(eps: float) -> None:
    """Inside of the box, a class beats one other class by its gap + eps times the l_1 distance."""
    model, x, y = problem()
    targets = targets_of("all", model, x, y, "012")
    ledgers = evaluate_toward(targets, model, x, parse_threat(f"linf:{eps}"), 0, budget="quick")
    for target, places in targets.items():
        assert not bool((y[places] == target).any())
        logits, weight = model(x[places]).detach(), model[1].weight.detach()
        others = [k for k in range(3) if k != target]
        gaps = torch.stack([logits[:, target] - logits[:, k] for k in others])
        rooms = torch.stack([eps * (weight[target] - weight[k]).abs().sum() for k in others])
        alone = gaps + rooms.unsqueeze(1)  # the best against each other class by itself
        reached = ledgers[target].broken.any(0)
        assert not bool((reached & (alone.amin(0) < -1e-5)).any())  # none beyond the bound
        step = eps * (weight[target] - weight[others].mean(0)).sign().view(1, 4, 4)
        plain = model(x[places] + step).argmax(1) == target
        assert not bool((plain & ~reached).any())  # all that one step reaches


def test_targets_are_as_asked() -> None:
    model, x, y = problem()
    assert set(targets_of("1", model, x, y, "012")) == {1}
    least = targets_of("least", model, x, y, "012")
    for k, places in least.items():
        assert bool((model(x[places]).argmin(1) == k).all())
    assert sum(map(len, least.values())) == len(x)
    for word in ("3", "-1", "most", ""):
        with pytest.raises(ValueError, match="give a class from 0 to 2 or its name, least or all"):
            targets_of(word, model, x, y, "012")
    view = TargetView(model, 2)
    assert torch.equal(view(x).argmax(1) == 1, y == 2)


def test_the_command_prints_what_the_ledgers_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    network = small_cnn((1, 8, 8), 10, torch.Generator().manual_seed(0)).eval()
    save_file(network.state_dict(), "cnn.safetensors")
    call = ["evaluate", "--model", "small_cnn", "--weights", "cnn.safetensors", "--points", "20"]
    call += ["--budget", "quick", "--threat", "linf:0.3", "--output", "out", "--targeted", "least"]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, done.output
    images = data.load("digits", "test").first(20)
    targets = targets_of("least", network, images.x, images.y, images.classes)
    again = evaluate_toward(targets, network, images.x, parse_threat("linf:0.3"), 0, budget="quick")
    assert table_toward(again, images.classes) in done.output
    record = json.loads((tmp_path / "out" / "targeted.json").read_text())
    assert set(record["targets"]) == set(map(str, targets))
    assert CliRunner().invoke(main, [*call[:-1], "11"]).exit_code == 1


def test_a_class_may_be_named_and_must_be_there() -> None:
    model, x, y = problem()
    named = targets_of("dog", model, x, y, ("cat", "dog", "bird"))
    assert set(named) == {1}
    assert torch.equal(named[1], targets_of("1", model, x, y, "012")[1])
    with pytest.raises(ValueError, match="every image is of class 1 already"):
        targets_of("1", model, x[y == 1], y[y == 1], "012")
    for word in ("3", "least", "all"):
        with pytest.raises(ValueError, match=r"needs? at least 4 classes, the model gives 3"):
            targets_of(word, model, x, y, "0123")


def test_a_network_that_answers_nan_reaches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "nan_nets.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "    nn.init.constant_(model[1].weight, float('nan'))\n"
        "    return model\n"
    )
    call = ["evaluate", "--model", "nan_nets:net", "--points", "10", "--threat", "linf:0.1"]
    call += ["--budget", "quick", "--output", "out"]
    for words in ((), ("--targeted", "0")):
        done = CliRunner().invoke(main, [*call, *words])
        assert done.exit_code == 1
        assert "answered NaN to every image" in done.stderr
        assert not list((tmp_path / "out").glob("*.json"))
