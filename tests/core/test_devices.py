"""Devices by name, and what a GPU is told about precision and speed."""

from contextlib import suppress

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from helpers.toys import generator, relu_net
from mpkit.attacks import PGD
from mpkit.cli.main import main
from mpkit.core import devices
from mpkit.evaluation import Budget, Witnesses, evaluate, gauge, verify
from mpkit.evaluation.witnesses import FILE
from mpkit.masking import Effort, diagnose
from mpkit.sets import Linf

CUDA, CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


def precisions():
    return [kind.fp32_precision for kind in (CUDA, CUDNN.conv, CUDNN.rnn)]


@pytest.fixture(autouse=True)
def as_it_was():
    before, older = precisions(), (CUDA.allow_tf32, CUDNN.allow_tf32)
    yield
    CUDA.allow_tf32, CUDNN.allow_tf32 = older  # else the two ways contradict each other
    for kind, value in zip((CUDA, CUDNN.conv, CUDNN.rnn), before, strict=True):
        kind.fp32_precision = value


@pytest.mark.parametrize("allowed", [True, False])
def test_float32_is_float32_within_and_what_it_was_afterwards(allowed):
    CUDA.allow_tf32 = CUDNN.allow_tf32 = allowed
    before = precisions()
    with devices.full_precision():
        assert "tf32" not in precisions()
        assert not CUDA.allow_tf32 and not CUDNN.allow_tf32  # the older way says the same
    assert precisions() == before and CUDNN.allow_tf32 == CUDA.allow_tf32 == allowed


def test_a_precision_that_was_set_in_the_newer_way_comes_back_too():
    CUDNN.conv.fp32_precision, CUDNN.rnn.fp32_precision = "ieee", "tf32"
    with pytest.raises(RuntimeError):
        assert CUDNN.allow_tf32
    with devices.full_precision():
        assert precisions()[1:] == ["ieee", "ieee"]
    assert precisions()[1:] == ["ieee", "tf32"]


FEW = Budget(4, 2, 4, 4, 1, (2, 3), 8)


class Noting(nn.Module):
    """Notes whether products of float32 may lose bits whenever it is asked."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, x):
        self.seen.append("tf32" in precisions())
        if len(self.seen) == 60:
            raise KeyboardInterrupt  # enough
        return self.model(x)


def test_what_decides_an_accuracy_or_a_verdict_multiplies_in_float32(tmp_path):
    CUDA.allow_tf32 = CUDNN.allow_tf32 = True
    model = Noting(relu_net(0, inputs=16, classes=4, dtype=torch.float32))
    x = torch.rand(20, 1, 4, 4, generator=generator())
    y, ball, keep = model(x).argmax(1), Linf(0.1), Witnesses(tmp_path)
    assert model.seen.pop()
    ledger = evaluate(model, x, y, {"it": PGD(ball, 2)}, generator(), keep=keep)
    keep.finish(ledger, ball, model, x)
    for ask in (
        lambda: verify(tmp_path / FILE, model, x, y, ball),
        lambda: gauge(model, x, y, ball, generator(), classes=4, budget=FEW, rounds=1),
        lambda: diagnose(model, x, y, ball, generator(), Effort(2, 2, 2, 2, 2, 0)),
    ):
        assert model.seen and not any(model.seen)
        model.seen.clear()
        with suppress(KeyboardInterrupt):
            ask()
    assert model.seen and not any(model.seen)


def test_convolutions_are_tuned_on_a_gpu_unless_equal_bits_are_asked_for(monkeypatch):
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    with devices.tuned(gpu):
        assert CUDNN.benchmark
    with devices.tuned(cpu):
        assert not CUDNN.benchmark
    monkeypatch.setattr(CUDNN, "deterministic", True)
    with devices.tuned(gpu):
        assert not CUDNN.benchmark
    assert not CUDNN.benchmark


@pytest.mark.parametrize(("name", "why"), [("mps", "no float64"), ("xpu:1", "ever tried")])
def test_devices_that_do_not_work_are_refused(name, why):
    with pytest.raises(ValueError, match=rf"device: {name} cannot be used \(.*{why}.*take cpu"):
        devices.resolve_device(name)


def test_auto_says_what_it_is_and_what_it_passes_by(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert devices.chosen() == (
        "cpu (mps is not used: it has no float64, in which every example that counts is checked)"
    )
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert devices.chosen() == "cpu"
    done = CliRunner().invoke(main, ["recipes", "digits-natural"])
    assert done.exit_code == 0 and done.stderr == "device: cpu\n"
    assert CliRunner().invoke(main, ["recipes", "digits-natural", "--device", "cpu"]).stderr == ""
