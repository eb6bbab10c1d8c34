"""Images and labels as strangers hand them over: taken, or sent back with the right remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.toys import generator
from mpkit.attacks import PGD, Margin, input_gradient
from mpkit.cli.main import main
from mpkit.core.files import DataError
from mpkit.data import Images, load, own, stored
from mpkit.sets import Linf
from mpkit.training import Natural, Recipe, fit

MODEL = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
X, Y = torch.rand(6, 1, 4, 4, generator=generator(1)), torch.arange(6) % 3
NAN = X.clone()
NAN[4, 0, 1, 1] = torch.nan

UNFIT: dict[str, tuple[Any, Any, str]] = {
    "numpy images": (X.numpy(), Y, r"x: .* got ndarray; make it a tensor with torch\.as_tensor"),
    "numpy labels": (X, Y.numpy(), r"y: .* got ndarray; make it a tensor with torch\.as_tensor"),
    "no channel": (X[:, 0], Y, r"grey images \(B, H, W\) get x\[:, None\]"),
    "no batch": (X[0], Y[:1], r"a single image \(C, H, W\) gets x\[None\]"),
    "flat": (X.flatten(1), Y, "reshape it, channels before height and width"),
    "empty": (X[:0], Y[:0], "skip empty batches"),
    "bytes": ((X * 255).byte(), Y, r"got torch\.uint8; use x\.float\(\)"),
    "0 to 255": (X * 255, Y, "divide by 255"),
    "-1 to 1": (X * 2 - 1, Y, r"\(x \+ 1\) / 2"),
    "normalized": ((X - 0.2) / 0.1, Y, "undo the normalization"),
    "NaN": (NAN, Y, "x: holds NaN in image 4"),
    "one-hot": (X, torch.eye(3)[Y], r"y\.argmax\(1\)"),
    "one-hot int": (X, torch.eye(3)[Y].long(), r"y\.argmax\(1\)"),
    "int32": (X, Y.int(), r"y\.long\(\)"),
    "too few": (X, Y[:4], "give as many labels as images"),
    "negative": (X, Y - 1, "number classes from 0"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_the_remedy_is_the_right_one(case: str) -> None:
    x, y, words = UNFIT[case]
    with pytest.raises(ValueError, match=words) as caught:
        PGD(Linf(0.1), 2)(MODEL, x, y, generator())
    assert "\n" not in str(caught.value)


FACTORIES = """
import torch
from torch.utils.data import DataLoader, TensorDataset
x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
y = torch.arange(6) % 3
def batches():
    return [(x[:4], y[:4]), (x[4:], y[4:])]
def loader(split):
    return DataLoader(TensorDataset(x, y), batch_size=4)
def dataset():
    return TensorDataset(x, y)
def singles():
    return ((image.numpy(), int(label)) for image, label in zip(x, y))
def images():
    from mpkit.data import Images
    return Images(x, y, ("a", "b", "c"), "mine")
def nothing():
    return None
def words():
    return ["a", "b"]
def wide():
    return [(x * 255, y)]
"""


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_sets.py").write_text(FACTORIES, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("factory", ["batches", "loader", "dataset", "singles", "images"])
def test_a_function_that_gives_batches_is_a_data_set(there: Path, factory: str) -> None:
    found = load(f"own_sets:{factory}", "test")
    assert torch.equal(found.x, X) and torch.equal(found.y, Y)
    assert found.classes == (("a", "b", "c") if factory == "images" else ("0", "1", "2"))


@pytest.mark.parametrize("name", ["x.npz", "x.safetensors"])
def test_a_file_of_arrays_is_a_data_set(there: Path, name: str) -> None:
    stored = (X * 255).round().byte()
    for x, expected in ((X, X), (X.double(), X), (stored, stored.float() / 255)):
        if name.endswith(".npz"):
            np.savez(there / name, x=x.numpy(), y=Y.int().numpy())
        else:
            save_file({"x": x, "y": Y}, there / name)
        assert torch.equal(load(name).x, expected)
        assert torch.equal(load(str(there / name), "test").y, Y)


def saved(path: Path, **arrays: Tensor) -> str:
    np.savez(path, **{name: tensor.numpy() for name, tensor in arrays.items()})
    return str(path)


def test_data_that_do_not_fit_are_named(there: Path) -> None:
    cases = {
        saved(there / "a.npz", x=X): r"a\.npz: has no array y, only x",
        saved(there / "b.npz", x=X[:, 0], y=Y): r"b\.npz: x must be .* x\[:, None\]",
        saved(there / "c.npz", x=X, y=torch.eye(3)[Y]): r"c\.npz: y must be .* y\.argmax\(1\)",
        saved(there / "d.npz", x=X * 2, y=Y): r"d\.npz: pixels must lie in \[0, 1\]",
        "gone.npz": r"gone\.npz: no such file",
        "own_sets:nothing": "own_sets:nothing gives no batches",
        "own_sets:words": "own_sets:words gives no batches",
        "own_sets:wide": "own_sets:wide: pixels must lie",
        "own_sets:absent": "own_sets:absent cannot be imported",
    }
    (there / "e.npz").write_bytes(b"junk")
    cases["e.npz"] = r"e\.npz: cannot be read as arrays"
    for name, words in cases.items():
        with pytest.raises((DataError, ValueError), match=words):
            load(name)


def evaluated(*words: str) -> Result:
    call = ["evaluate", "--points", "6", "--budget", "blind", "--threat", "linf:0.1", *words]
    return CliRunner().invoke(main, [*call, "--output", "out"])


NETS = """
import torch
from torch import nn
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
def softmax():
    return nn.Sequential(net(), nn.Softmax(1))
def constant():
    model = net()
    nn.init.zeros_(model[1].weight)
    return model
def nan():
    model = net()
    nn.init.constant_(model[1].weight, float("nan"))
    return model
"""


def test_the_command_takes_own_data_and_gives_hints(there: Path) -> None:
    (there / "own_nets.py").write_text(NETS, encoding="utf-8")
    done = evaluated("--model", "own_nets:softmax", "--data", "own_sets:batches")
    assert done.exit_code == 0, done.output
    assert "look like probabilities" in done.stderr
    assert "6 examples" in done.stdout
    done = evaluated(
        "--model", "own_nets:constant", "--data", "own_sets:loader", "--threat", "l1:16", "--seed=1"
    )
    assert done.exit_code == 1, "holds another evaluation" in done.output
    (there / "out" / "ledger.safetensors").unlink()
    done = evaluated(
        "--model", "own_nets:constant", "--data", "own_sets:loader", "--threat", "l1:16"
    )
    assert "no better than chance among 3 classes" in done.stderr
    assert "l1:16 holds every image there is" in done.stderr
    (there / "out" / "ledger.safetensors").unlink()
    done = evaluated("--model", "own_nets:nan", "--data", "own_sets:batches")
    assert done.exit_code == 1
    assert "NaN to every image" in done.stderr


MORE = """
import numpy as np
import torch
x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))
y = torch.arange(6) % 3
def other_order(root="nowhere", split="train"):
    return [(x + 0, y)] if split == "test" else [(1 - x, y)]
def keyword(*, split):
    return other_order(split=split)
def endless():
    while True:
        yield x, y
def asks():
    return [(x.clone().requires_grad_(), y)]
def sparse():
    return [(x.to_sparse(), y)]
def leaves():
    raise SystemExit(0)
def late():
    yield x, y
    raise SystemExit(0)
class Named(list):
    classes = ["cat", "dog", "bird", "fish"]
def named():
    return Named([(x, y)])
"""


def test_functions_of_every_kind_give_the_right_split(
    there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (there / "more_sets.py").write_text(MORE, encoding="utf-8")
    for name in ("other_order", "keyword", "asks", "sparse", "named"):
        assert torch.equal(load(f"more_sets:{name}", "test").x, X), name
    assert torch.equal(load("more_sets:other_order", "train").x, 1 - X)
    assert load("more_sets:named", "test").classes == ("cat", "dog", "bird", "fish")
    assert len(stored("more_sets:endless", "test", first=8)) == 8
    monkeypatch.setattr(own, "ROOM", 100_000)
    with pytest.raises(DataError, match="fill half of the memory; is there an end"):
        load("more_sets:endless", "test")
    for name in ("leaves", "late"):
        with pytest.raises(DataError, match=r"gives no batches .*SystemExit"):
            load(f"more_sets:{name}", "test")


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.uint64, np.int8])
def test_labels_may_be_any_whole_numbers(there: Path, kind: type) -> None:
    np.savez(there / "x.NPZ", x=X.numpy(), y=Y.numpy().astype(kind))
    assert torch.equal(load("x.NPZ.npz").y, Y)


def test_names_or_a_number_of_classes_come_beside_the_arrays(there: Path) -> None:
    np.savez(there / "a.npz", x=X, y=Y, classes=np.array(["cat", "dog", "bird", "fish"]))
    assert load("a.npz").classes == ("cat", "dog", "bird", "fish")
    np.savez(there / "b.npz", x=X, y=Y, classes=10)
    assert len(load("b.npz").classes) == 10
    np.savez(there / "c.npz", x=X, y=Y, classes=np.array(["cat"]))
    with pytest.raises(DataError, match="y goes up to 2, but there are 1 classes"):
        load("c.npz")
    save_file({"x": X, "y": Y}, there / "d.safetensors", {"classes": '["a", "b", "c", "d"]'})
    assert load("d.safetensors").classes == ("a", "b", "c", "d")


ODD: dict[str, tuple[Any, Any, str]] = {
    "channels last": (
        torch.rand(6, 8, 8, 3),
        Y,
        r"looks like \(N, H, W, C\).*transpose\(0, 3, 1, 2",
    ),
    "one channel last": (torch.rand(6, 8, 8, 1), Y, r"looks like \(N, H, W, C\)"),
    "whole numbers": ((X * 255).int(), Y, r"\(x / 255\)\.astype"),
    "0 to 255": (X * 255, Y, "write x / 255"),
    "-1 to 1": (X * 2 - 1, Y, r"write \(x \+ 1\) / 2"),
    "NaN": (NAN, Y, "NaN or infinity in image 4"),
    "no pixels": (X[:, :, :0], Y, r"must be images \(N, C, H, W\)"),
    "float labels": (X, Y.float(), r"y\.astype\(int\)"),
    "negative labels": (X, Y - 1, "class numbers from 0, got -1 to 1"),
    "huge labels": (X, Y + 2**40, "class numbers from 0"),
    "few labels": (X, Y[:4], "y must be 6 labels, one for each image"),
    "no labels": (X, Y[0], "y must be 6 labels"),
}


@pytest.mark.parametrize("case", ODD)
def test_own_arrays_that_do_not_fit_get_their_remedy(there: Path, case: str) -> None:
    x, y, words = ODD[case]
    with pytest.raises(DataError, match=words):
        load(saved(there / "odd.npz", x=x, y=y))


def test_a_folder_may_end_like_a_file_and_the_command_tells_of_own_data(there: Path) -> None:
    for split in ("train", "test"):
        for label in ("a", "b"):
            (there / "x.npz" / split / label).mkdir(parents=True)
            picture = Image.fromarray(np.full((4, 4), 100, np.uint8))
            picture.save(there / "x.npz" / split / label / "1.png")
    assert load("folder:x.npz").classes == ("a", "b")
    done = CliRunner().invoke(main, ["data", "own_sets:batches"])
    assert done.exit_code == 0, done.output
    assert "own_sets:batches test: 6 images 1x4x4, 3 classes" in done.output


def test_training_wants_images_as_they_are_kept() -> None:
    for given in ((X, Y), X, X.numpy()):
        with pytest.raises(ValueError, match=r"fit: images must be mpkit\.data\.Images, got"):
            fit(MODEL, given, Natural(), Recipe(epochs=1), generator())  # type: ignore[arg-type]
    for x, y, words in (
        (X.numpy(), Y, r"x must be a tensor, got a ndarray; .*as_tensor"),
        (X, Y.tolist(), "y must be a tensor, got a list"),
        (X * 2 - 1, Y, r"write \(x \+ 1\) / 2"),
        (NAN, Y, "NaN is no pixel"),
    ):
        with pytest.raises(ValueError, match=words):
            Images(x, y, ("a", "b", "c"), "mine")


def test_a_gradient_is_asked_for_images_and_labels_alone() -> None:
    for x, y in ((X[:, 0], Y), (X, Y[:2]), (X * 255, Y)):
        with pytest.raises(ValueError, match=r"x|y|labels"):
            input_gradient(MODEL, Margin(), x, y)
