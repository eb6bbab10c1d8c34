"""Adversarial images on disk: those of the ledger, and what is left of them in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from helpers.toys import generator
from mpkit import data
from mpkit.attacks import PGD
from mpkit.cli.main import main
from mpkit.core.files import claimed
from mpkit.evaluation import AdversarialImages, Ledger, evaluate
from mpkit.models import small_cnn
from mpkit.sets import Linf


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    network = small_cnn((1, 8, 8), 10, torch.Generator().manual_seed(0))
    save_file(network.state_dict(), "cnn.safetensors")
    return tmp_path


def command(*words: str) -> Result:
    call = ["evaluate", "--model", "small_cnn", "--weights", "cnn.safetensors", "--points", "100"]
    call += ["--batch", "40", "--budget", "quick", "--threat", "linf:0.3 + rt:1px,5deg"]
    return CliRunner().invoke(main, [*call, "--output", "out", *words])


def test_every_success_is_written_twice_and_asked_again(there: Path) -> None:
    done = command("--save", "found")
    assert done.exit_code == 0, done.output
    ledger = Ledger.load(there / "out" / "ledger.safetensors")
    found = load_file(there / "found" / "adversarial.safetensors")
    places = set(zip(found["attack"].tolist(), found["example"].tolist(), strict=True))
    assert places == {tuple(p) for p in ledger.broken.nonzero().tolist() if p[0] > 0}
    network = small_cnn((1, 8, 8), 10, torch.Generator().manual_seed(0)).eval()
    clean = data.load("digits", "test").x[found["example"]]
    assert bool((network(found["x"]).argmax(1) != found["label"]).all())
    balls = torch.tensor([ledger.names[i].endswith("linf:0.3") for i in found["attack"].tolist()])
    assert float((found["x"] - clean)[balls].abs().max()) <= 0.3 * (1 + 1e-5)
    wrong = []
    for row in range(len(found["x"])):
        name = ledger.names[int(found["attack"][row])].replace(" ", "-").replace(":", "")
        (path,) = (there / "found").glob(f"{int(found['example'][row]):05d}-{name}.png")
        pixels = torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32) / 255)
        assert float((pixels - found["x"][row, 0]).abs().max()) <= 0.5 / 255 + 1e-6
        wrong.append(bool(network(pixels[None, None]).argmax(1) != found["label"][row]))
    assert wrong == found["fools_in_8_bits"].tolist()
    assert f"{sum(wrong)} of {len(wrong)} still fool the network as PNG" in done.output
    assert not (there / "found" / ".parts").exists()


def test_a_run_without_images_is_told_apart(there: Path) -> None:
    assert command().exit_code == 0
    done = command("--save", "found")
    assert "successes are of a run without --save" in done.stderr
    assert command("--save", "cnn.safetensors").exit_code != 0
    assert "one process" in command("--save", "found", "--shards", "2").stderr


def test_an_interrupted_run_keeps_its_images(tmp_path: Path) -> None:
    x, y = torch.rand(12, 1, 4, 4, generator=generator(1)), torch.arange(12) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    attack = {"a": PGD(Linf(0.5), 5), "b": PGD(Linf(0.6), 5)}

    def run(name: str, keep: AdversarialImages) -> Ledger:
        file = tmp_path / name
        return evaluate(model, x, y, attack, generator(), batch=4, file=file, keep=keep)

    class Cut(AdversarialImages):
        def __call__(self, unit, rows, images, found) -> None:  # type: ignore[no-untyped-def]
            super().__call__(unit, rows, images, found)
            if unit.batch == 1:
                raise KeyboardInterrupt

    whole = run("whole", AdversarialImages(tmp_path / "a"))
    with pytest.raises(KeyboardInterrupt):
        run("cut", Cut(tmp_path / "b"))
    again = AdversarialImages(tmp_path / "b")
    assert run("cut", again) == whole
    expected = AdversarialImages(tmp_path / "a").export(whole, model)
    assert again.export(whole, model) == expected
    assert expected.images > 0 and expected.missing == 0
    one, other = (load_file(tmp_path / n / "adversarial.safetensors") for n in ("a", "b"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_folder_belongs_to_one_evaluation(there: Path) -> None:
    first = command("--save", "found")
    again = command("--save", "found")
    told = first.output[first.output.index("adversarial images") :]
    assert told in again.output
    assert "successes are of a run" not in again.stderr
    pictures = sorted((there / "found").glob("*.png"))
    other = small_cnn((1, 8, 8), 10, torch.Generator().manual_seed(1))
    save_file(other.state_dict(), "cnn.safetensors")
    call = ["evaluate", "--model", "small_cnn", "--weights", "cnn.safetensors", "--points", "100"]
    call += ["--budget", "quick", "--threat", "linf:0.3", "--output", "other", "--save", "found"]
    refused = CliRunner().invoke(main, call)
    assert refused.exit_code == 1
    assert "found: holds the images of another evaluation" in refused.stderr
    assert sorted((there / "found").glob("*.png")) == pictures


def test_a_folder_at_work_is_refused(there: Path) -> None:
    with claimed(there / "found" / ".lock") as mine:
        assert mine
        done = command("--save", "found")
    assert done.exit_code == 1
    assert "another evaluation is at work in found" in done.stderr


def test_images_of_many_channels_are_kept_as_tensors(tmp_path: Path) -> None:
    x, y = torch.rand(12, 5, 4, 4, generator=generator(1)), torch.arange(12) % 2
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(80, 2))
    keep = AdversarialImages(tmp_path)
    ledger = evaluate(model, x, y, {"a": PGD(Linf(0.5), 5)}, generator(), keep=keep)
    assert keep.export(ledger, model).images == int(ledger.broken[1:].sum()) > 0
    assert not list(tmp_path.glob("*.png"))
