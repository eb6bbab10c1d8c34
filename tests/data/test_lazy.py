"""Images on disk: what is read equals what would be held, and no more than a batch is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from evaluation.test_evaluate import ATTACKS, problem
from hypothesis import given
from hypothesis import strategies as st

from helpers.toys import generator
from mpkit.core.files import DataError
from mpkit.data import load, stored
from mpkit.data.lazy import Rows, of_array, of_file
from mpkit.evaluation import evaluate

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 2, 3, 4), dtype=np.uint8)
WHOLE = torch.from_numpy(PIXELS.astype(np.float32)) / 255


def on_disk(folder: Path) -> Rows:
    """The pixels behind five bytes of something else."""
    (folder / "images").write_bytes(b"head!" + PIXELS.tobytes())
    return of_file(folder / "images", 5, PIXELS.shape)


@given(st.integers(0, 6), st.integers(1, 9), st.integers(1, 9))
def test_a_slice_is_the_slice_of_the_tensor(start: int, count: int, most: int) -> None:
    rows = of_array(PIXELS.transpose(0, 2, 3, 1)).first(most)
    whole = WHOLE[:most]
    assert rows.shape == whole.shape and len(rows) == len(whole)
    if start < len(whole):
        assert torch.equal(rows[start : start + count], whole[start : start + count])
    assert rows.like().shape == whole.shape and torch.equal(rows.like()[-1], whole[0])
    assert rows.like().untyped_storage().nbytes() == whole[:1].nbytes


def test_a_file_is_read_as_it_is(tmp_path: Path) -> None:
    rows = on_disk(tmp_path)
    assert torch.equal(rows[:], WHOLE) and torch.equal(rows[2:5], WHOLE[2:5])
    assert rows[:].dtype == torch.float32 and rows.device.type == "cpu"


@pytest.mark.parametrize("rows", [slice(3, 3), slice(0, 6, 2), slice(9, 12)])
def test_what_is_no_run_of_images_is_refused(tmp_path: Path, rows: slice) -> None:
    with pytest.raises(IndexError, match=r"a slice without a step of 0\.\.7"):
        on_disk(tmp_path)[rows]


def test_a_file_that_shrinks_is_named(tmp_path: Path) -> None:
    rows = on_disk(tmp_path)
    (tmp_path / "images").write_bytes((tmp_path / "images").read_bytes()[:-30])
    assert torch.equal(rows[:5], WHOLE[:5])
    with pytest.raises(DataError, match=r"images: ends within image 5, expected 7 images"):
        rows[4:7]


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_stored_split_is_the_loaded_one(split: str) -> None:
    apart, held = stored("digits", split), load("digits", split)
    assert torch.equal(apart.x[:], held.x) and torch.equal(apart.y, held.y)
    assert (apart.shape, apart.classes, apart.name) == (held.shape, held.classes, held.name)
    few = apart.first(30)
    assert len(few) == len(few.y) == 30 and torch.equal(few.x[:], held.first(30).x)
    assert len(apart.first(10**6)) == len(held)


def test_an_evaluation_reads_a_batch_at_a_time_and_gives_the_same_ledger(tmp_path: Path) -> None:
    model, x, y = problem()
    model, x = model.float(), x.float()
    read: list[int] = []

    def part(start: int, stop: int) -> torch.Tensor:
        read.append(stop - start)
        return x[start:stop].clone()

    held = evaluate(model, x, y, ATTACKS, generator(), batch=8)
    file = tmp_path / "ledger.safetensors"
    apart = evaluate(model, Rows(part, x.shape), y, ATTACKS, generator(), batch=8, file=file)
    assert apart == held
    assert max(read) == 8
    assert sum(read) < 2 * len(x) + 8  # once for the hashes, once for the attacks, and a look
    read.clear()
    assert evaluate(model, Rows(part, x.shape), y, ATTACKS, generator(), batch=8, file=file) == held
    assert sum(read) < len(x) + 16  # a finished one is only recognized, by its first batch


def test_values_out_of_range_are_refused_before_any_attack(tmp_path: Path) -> None:
    model, x, y = problem()
    model, x = model.float(), x.float()
    x[-1] = 255.0
    rows = Rows(lambda a, b: x[a:b], x.shape)
    with pytest.raises(ValueError, match=r"pixels must lie in \[0, 1\]"):
        evaluate(model, rows, y, ATTACKS, generator(), batch=8, file=tmp_path / "ledger")
    assert list(tmp_path.iterdir()) == []
