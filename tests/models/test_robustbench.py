"""Networks of RobustBench by name: a stand-in for its package on the path, and every clear word."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from mpkit.cli.main import main
from mpkit.core.files import DataError
from mpkit.models import load_model
from mpkit.models.robustbench import FOLDER

STAND_IN = """
import torch
from pathlib import Path

def load_model(model_name, model_dir, dataset, threat_model):
    path = Path(model_dir) / dataset / threat_model / f"{model_name}.pt"
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(CLASSES[dataset]))
    model(torch.zeros(1, 3, 32, 32))
    torch.nn.init.constant_(model[1].weight, float(path.read_text()))
    return model.double()

CLASSES = {"cifar10": 10, "cifar100": 100}
"""
CIFAR = (3, 32, 32)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package robustbench, and one for weights, which is returned."""
    package = tmp_path / "site" / "robustbench"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "utils.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv(FOLDER, str(tmp_path / "weights"))
    for name in ("robustbench", "robustbench.utils"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path / "weights"
    for name in ("robustbench", "robustbench.utils"):
        sys.modules.pop(name, None)


def put(shelf: Path, place: str, text: str = "0.5") -> None:
    (shelf / place).parent.mkdir(parents=True, exist_ok=True)
    (shelf / place).write_text(text)


@pytest.mark.parametrize(("classes", "dataset"), [(10, "cifar10"), (100, "cifar100")])
def test_a_network_is_found_by_name(shelf: Path, classes: int, dataset: str) -> None:
    put(shelf, f"{dataset}/L2/Some2020Net.pt")
    model = load_model("robustbench:Some2020Net", None, CIFAR, classes, "cpu")
    assert not model.training
    assert model[1].weight.dtype == torch.float32
    assert model[1].weight.shape == (classes, 3072)
    assert bool((model[1].weight == 0.5).all())


def test_a_name_of_two_threat_models_is_asked_for(shelf: Path) -> None:
    put(shelf, "cifar10/Linf/Twice.pt", "1")
    put(shelf, "cifar10/L2/Twice.pt", "2")
    with pytest.raises(ValueError, match=r"Linf and L2 .* write robustbench:Linf/Twice"):
        load_model("robustbench:Twice", None, CIFAR, 10, "cpu")
    chosen = load_model("robustbench:L2/Twice", None, CIFAR, 10, "cpu")
    assert bool((chosen[1].weight == 2).all())


def test_missing_weights_are_never_fetched(shelf: Path) -> None:
    with pytest.raises(DataError, match=rf"no weights at .*Absent\.pt; .* set {FOLDER}"):
        load_model("robustbench:Absent", None, CIFAR, 10, "cpu")


def test_an_error_of_the_package_is_told(shelf: Path) -> None:
    put(shelf, "cifar10/Linf/Broken.pt", "no number")
    with pytest.raises(DataError, match="could not be loaded by robustbench: ValueError"):
        load_model("robustbench:Broken", None, CIFAR, 10, "cpu")


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpkit.models.robustbench.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package robustbench, .* install it"):
        load_model("robustbench:Any", None, CIFAR, 10, "cpu")


@pytest.mark.parametrize("spec", ["robustbench:", "robustbench:L3/Net", "robustbench:a/L2/Net"])
def test_names_that_name_nothing(shelf: Path, spec: str) -> None:
    with pytest.raises(ValueError, match="write robustbench:NAME"):
        load_model(spec, None, CIFAR, 10, "cpu")


@pytest.mark.parametrize(("shape", "classes"), [((1, 28, 28), 10), (CIFAR, 7), ((3, 64, 64), 10)])
def test_other_images_are_refused(shelf: Path, shape: tuple[int, int, int], classes: int) -> None:
    with pytest.raises(ValueError, match="is for images of CIFAR or ImageNet"):
        load_model("robustbench:Net", None, shape, classes, "cpu")


def test_weights_of_ones_own_are_refused(shelf: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has weights of its own"):
        load_model("robustbench:Net", tmp_path / "w.safetensors", CIFAR, 10, "cpu")


def test_the_command_takes_the_name_and_fails_in_words(shelf: Path) -> None:
    done = CliRunner().invoke(main, ["evaluate", "--model", "robustbench:Net", "--points", "1"])
    assert done.exit_code != 0
    assert "Traceback" not in done.output
    assert "is for images of CIFAR" in done.output
