"""Memory that is kept: the setting is taken, and tensors made again find their pages."""

import subprocess
import sys

import pytest

from mpkit import heap

CODE = """
import resource, torch
from mpkit import heap
kept = heap.keep()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def made():
    before = faults()
    tensors = [torch.zeros(2**20) for _ in range(8)]
    return faults() - before, len(tensors)
made(), made()
print(int(kept), made()[0])
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a setting of Linux's C library")
def test_tensors_made_again_ask_for_no_pages():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    kept, faults = map(int, done.stdout.split())
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert faults < 100  # without it, a thousand and more of their 8,192 pages


@pytest.mark.parametrize("size", [0, -1, 2**31])
def test_sizes_that_cannot_be_are_refused(size):
    with pytest.raises(ValueError, match="keep: size must lie between"):
        heap.keep(size)
