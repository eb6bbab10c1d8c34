"""Memory that is kept: the setting is taken, and tensors made again find their pages."""

import subprocess
import sys

import pytest

from mpkit.core import memory

CODE = """
import resource, sys, torch
from mpkit.core import memory
kept = sys.argv[1] == "keep" and memory.keep()
model = torch.nn.Sequential(torch.nn.Conv2d(1, 32, 5), torch.nn.ReLU(), torch.nn.MaxPool2d(2))
x = torch.zeros(256, 1, 28, 28, requires_grad=True)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def step():
    before = faults()
    torch.autograd.grad(model(x).sum(), x)
    return faults() - before
print(int(kept), sum([step() for _ in range(50)][40:]))
"""


def faults(setting: str) -> tuple[int, int]:
    """Was the setting taken, and how many pages ten steps ask for after forty others."""
    command = [sys.executable, "-c", CODE, setting]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, pages = map(int, done.stdout.split())
    return kept, pages


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of Linux's C library")
def test_steps_made_again_ask_for_no_pages():
    kept, with_it = faults("keep")
    if not kept:
        pytest.skip("this C library has no mallopt")
    _, without = faults("leave")
    assert with_it * 4 <= without


@pytest.mark.parametrize("size", [0, -1, 2**31])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(ValueError, match="keep: size must lie between"):
        memory.keep(size)
