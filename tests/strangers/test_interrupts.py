"""Ctrl-C in a training: the steps at hand end, are kept, and the run goes on from there."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.toybook import ENV, MPKIT, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TRAIN = ("train", "digits-natural", "--device", "cpu", "--out")


def test_an_interrupted_training_says_where_it_goes_on(tmp_path: Path) -> None:
    process = start(tmp_path, *TRAIN, "cut")
    assert process.stderr is not None
    seen = ""
    while "loss" not in seen:
        seen += process.stderr.read(1)
    process.send_signal(signal.SIGINT)
    told = seen + process.stderr.read()
    assert process.wait() == 130
    (step,) = re.findall(r"Interrupted: saved: the same command goes on from step ([\d,]+)", told)
    assert int(step.replace(",", "")) > 0
    assert "Traceback" not in told
    for name in ("cut", "whole"):
        subprocess.run([MPKIT, *TRAIN, name], cwd=tmp_path, env=ENV, check=True, timeout=300)
    one, other = (load_file(tmp_path / n / "weights.safetensors") for n in ("cut", "whole"))
    assert all(one[name].equal(other[name]) for name in other)
