"""A disk that takes nothing more: said at once, in a few lines, by every command that writes."""

from __future__ import annotations

import resource
from functools import partial
from pathlib import Path

import pytest

from helpers.toybook import mpkit, toy_book

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
NET = """
import torch
from torch import nn
def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""
SUBJECT = ("--model", "full_nets:net", "--points", "12")
WRITING = [
    ("run", "toy"),
    ("run", "toy", "--output", "out"),
    ("book",),
    ("refresh",),
    ("sweep", "toy", "--grid", "seed=1,2"),
    ("evaluate", *SUBJECT, "--budget", "quick", "--output", "out"),
    ("evaluate", *SUBJECT, "--budget", "quick", "--save", "out"),
    ("doctor", *SUBJECT, "--json", "out/report.json"),
    ("train", "digits-natural", "--out", "out"),
    ("reproduce", "digits", "--out", "out"),
]


@pytest.mark.parametrize("words", WRITING, ids=" ".join)
def test_a_full_disk_is_found_before_the_work(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The system lets no file grow beyond 4 KiB, as with a quota that is used up."""
    root = toy_book(tmp_path, "open('../ran', 'w')")
    (root / "full_nets.py").write_text(NET, encoding="utf-8")
    before = sorted(p for p in root.rglob("*") if p.is_file())
    full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (4096, 4096))
    done = mpkit(root, *words, preexec_fn=full)
    assert done.returncode == 1
    lines = [one for one in done.stderr.strip().splitlines() if not one.startswith("device: ")]
    assert len(lines) == 1, done.stderr
    assert "file too large; make room" in lines[0]
    assert str(root) in lines[0]
    after = sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".pyc")
    assert after == before
