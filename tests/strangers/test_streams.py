"""Signals, streams that are closed, and books that are broken: a few words and the right code."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.toybook import ENV, MPKIT, mpkit, start, toy_book

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
EVALUATE = "evaluate --model small_cnn --weights w.safetensors --points 400 --threat linf:0.1"


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from safetensors.torch import save_file

    from mpkit.models import small_cnn

    place = tmp_path_factory.mktemp("streams")
    network = small_cnn((1, 8, 8), 10, torch.Generator().manual_seed(0))
    save_file(network.state_dict(), place / "w.safetensors")
    return place


@pytest.mark.parametrize("moment", ["while torch is read", "while it works"])
def test_an_interrupt_at_any_moment_is_told_in_a_line(there: Path, moment: str) -> None:
    long = EVALUATE.replace("linf:0.1", "linf:0.0001+l1:0.001").split()
    process = start(there, *long, "--budget", "thorough", "--output", moment.replace(" ", "-"))
    assert process.stderr is not None
    if moment == "while it works":
        assert process.stderr.read(1)
    else:
        maps = Path("/proc", str(process.pid), "maps")
        while "libtorch" not in maps.read_text():
            time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    told = process.stderr.read()
    assert process.wait(60) == 130, told
    assert "Traceback" not in told
    assert "Interrupted: " in told


def shell(place: Path, line: str) -> subprocess.CompletedProcess[str]:
    words = f"set -o pipefail; {line.replace('mpkit', MPKIT, 1)}"
    return subprocess.run(
        ["bash", "-c", words],
        cwd=place,
        env=ENV,
        capture_output=True,
        encoding="utf-8",
        errors="replace",  # a bar may be cut within a letter
        timeout=200,
    )


def test_a_reader_that_has_seen_enough_is_told_by_the_code(there: Path) -> None:
    done = shell(there, f"mpkit {EVALUATE} --budget quick --output heard 2>&1 | head -c 100")
    assert done.returncode == 141
    assert "Traceback" not in done.stdout
    assert not (there / "heard" / "record.json").exists()


def test_nobody_need_listen(there: Path) -> None:
    few = EVALUATE.replace("400", "20")
    done = shell(there, f"mpkit {few} --budget quick --output silent 2>&-")
    assert done.returncode == 0, done.stdout
    assert (there / "silent" / "record.json").is_file()


BROKEN = {
    "_toc.yml": ("format: [jb-book\n", r"_toc.yml cannot be read"),
    "book/toy.ipynb": ("[]", "toy.ipynb: is no notebook"),
    "book/toy.ipynb ": ("{}", "toy.ipynb: is no notebook"),
    "book/toy.ipynb  ": ("\xff\xfe\x00", "toy.ipynb: is no notebook"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_in_a_book_is_named(tmp_path: Path, name: str) -> None:
    root = toy_book(tmp_path, "print(1)")
    content, told = BROKEN[name]
    (root / name.strip()).write_text(content, encoding="latin-1")
    for words in (("chapters",), ("run", "toy")):
        done = mpkit(root, *words)
        assert done.returncode == 1
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_names_that_are_not_ascii_work_in_any_locale(tmp_path: Path) -> None:
    for label in ("ä", "ö"):
        (tmp_path / "bilder ü" / label).mkdir(parents=True)
        for number in range(6):
            picture = Image.fromarray(np.full((8, 8), 20 * number + 5, np.uint8))
            picture.save(tmp_path / "bilder ü" / label / f"ß{number}.png")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [MPKIT, "data", "folder:bilder ü"],
        cwd=tmp_path,
        env={**os.environ, **plain},
        capture_output=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert b"test: 4 images 1x8x8, 2 classes" in done.stdout


def test_a_timeout_may_be_as_long_as_anybody_likes(tmp_path: Path) -> None:
    done = mpkit(toy_book(tmp_path, "print(1)"), "run", "toy", "--timeout", "1e300")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
