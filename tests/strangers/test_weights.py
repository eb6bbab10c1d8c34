"""Weights and factories of strangers: taken where they are sound, else refused in one line."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from mpkit.core.files import DataError
from mpkit.models import Logits, load_model

SHAPE, CLASSES = (1, 4, 4), 3
NETS = """
import torch
from torch import nn


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.b(self.a(x.flatten(1))))


def plain():
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


class Box:
    inner = plain


def divides():
    return 1 / 0


def exits():
    raise SystemExit("no")


def needs(width):
    return plain()


def text():
    return "net"
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "strange_nets.py").write_text(NETS)
    (tmp_path / "broken_nets.py").write_text("def plain(:\n")
    (tmp_path / "silent_nets.py").write_text("raise KeyError('gone')\n")
    import sys

    sys.modules.pop("strange_nets", None)
    return "strange_nets"


def built(nets: str, factory: str) -> nn.Module:
    return load_model(f"{nets}:{factory}", None, SHAPE, CLASSES, "cpu")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_prefixes_of_wrappers_are_taken_off_and_said(
    nets: str, tmp_path: Path, prefix: str
) -> None:
    network, file = built(nets, "plain"), tmp_path / "w.safetensors"
    save_file({prefix + name: t for name, t in network.state_dict().items()}, file)
    with pytest.warns(UserWarning, match=f"took '{prefix}' off"):
        again = load_model(f"{nets}:plain", file, SHAPE, CLASSES, "cpu")
    assert torch.equal(again[1].weight, network[1].weight)  # type: ignore[index]


def test_tied_weights_are_read_as_save_model_writes_them(nets: str, tmp_path: Path) -> None:
    network, file = built(nets, "Tied"), tmp_path / "w.safetensors"
    save_model(network, str(file))
    again = load_model(f"{nets}:Tied", file, SHAPE, CLASSES, "cpu")
    x = torch.rand(5, *SHAPE)
    assert torch.equal(again(x), network(x))


def test_values_that_differ_for_one_shared_tensor_are_refused(nets: str, tmp_path: Path) -> None:
    state = {name: t.clone() for name, t in built(nets, "Tied").state_dict().items()}
    state["b.weight"] += 1
    save_file(state, file := tmp_path / "w.safetensors")
    with pytest.raises(DataError, match=r"holds two values of (a|b)\.weight"):
        load_model(f"{nets}:Tied", file, SHAPE, CLASSES, "cpu")


def test_weights_of_nan_are_read_for_the_evaluation_to_report(nets: str, tmp_path: Path) -> None:
    state = built(nets, "plain").state_dict()
    state["1.weight"] = torch.full_like(state["1.weight"], float("nan"))
    save_file(state, file := tmp_path / "w.safetensors")
    again = load_model(f"{nets}:plain", file, SHAPE, CLASSES, "cpu")
    assert again[1].weight.isnan().all()  # type: ignore[index]


def test_whole_numbers_are_no_weights(nets: str, tmp_path: Path) -> None:
    state = built(nets, "plain").state_dict()
    save_file({name: t.to(torch.int8) for name, t in state.items()}, file := tmp_path / "w.st")
    with pytest.raises(DataError, match=r"1\.weight is torch\.int8, the network.*float32"):
        load_model(f"{nets}:plain", file, SHAPE, CLASSES, "cpu")


def old_form(protocol: int) -> Callable[[nn.Module, str], None]:
    return lambda net, path: torch.save(
        net.state_dict(), path, _use_new_zipfile_serialization=False, pickle_protocol=protocol
    )


PICKLED: dict[str, Callable[[nn.Module, str], Any]] = {
    "torch.save": torch.save,
    "TorchScript": lambda net, path: torch.jit.script(net).save(path),
    "pickle": lambda net, path: Path(path).write_bytes(pickle.dumps(net.state_dict())),
    **{f"protocol {n}": old_form(n) for n in range(2, 6)},
}


@pytest.mark.parametrize("how", PICKLED.values(), ids=PICKLED)
def test_pickles_are_named_and_not_read(
    nets: str, tmp_path: Path, how: Callable[[nn.Module, str], Any]
) -> None:
    file = tmp_path / "w.pth"
    how(built(nets, "plain"), str(file))
    with pytest.raises(DataError, match=r"w\.pth: is a pickle, as of torch\.save, or TorchScript"):
        load_model(f"{nets}:plain", file, SHAPE, CLASSES, "cpu")


def test_arrays_of_numpy_are_named(nets: str, tmp_path: Path) -> None:
    file = tmp_path / "w.npz"
    np.savez(file, **{n: t.numpy() for n, t in built(nets, "plain").state_dict().items()})
    with pytest.raises(DataError, match=r"w\.npz: holds arrays of numpy; .*safetensors\.numpy"):
        load_model(f"{nets}:plain", file, SHAPE, CLASSES, "cpu")


FACTORIES = {
    "strange_nets:divides": r"raised ZeroDivisionError: division by zero \(.*nets\.py, line \d+\)",
    "strange_nets:exits": r"raised SystemExit: no",
    "strange_nets:needs": r"it needs width",
    "strange_nets:text": r"gave a str",
    "strange_nets:Nowhere.inner": r"has no attribute 'Nowhere'",
    "broken_nets:plain": r"SyntaxError: .*broken_nets\.py, line 1\)",
    "silent_nets:plain": r"KeyError: 'gone' \(.*silent_nets\.py, line 1\)",
    "no_nets_here:plain": r"No module named 'no_nets_here'",
}


@pytest.mark.parametrize("spec", FACTORIES)
def test_a_factory_that_fails_is_named_with_its_line(nets: str, spec: str) -> None:
    with pytest.raises(ValueError, match=FACTORIES[spec]) as caught:
        load_model(spec, None, SHAPE, CLASSES, "cpu")
    assert "\n" not in str(caught.value)
    assert f"--model: {spec}" in str(caught.value)


def test_a_factory_inside_a_class_is_found(nets: str) -> None:
    assert isinstance(built(nets, "Box.inner"), nn.Sequential)


class Output:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def test_the_adapter_takes_one_logit_and_outputs_with_logits() -> None:
    x = torch.rand(4, *SHAPE)
    score = x.flatten(1).sum(1) - 8
    for model in (lambda z: z.flatten(1).sum(1) - 8, lambda z: z.flatten(1).sum(1, True) - 8):
        logits = Logits(model)(x)
        assert torch.equal(logits, torch.stack([torch.zeros(4), score], 1))
    assert torch.equal(Logits(lambda z: Output(z.flatten(1)))(x), x.flatten(1))
