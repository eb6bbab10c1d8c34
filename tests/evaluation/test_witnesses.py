"""Witnesses: an accuracy computed again without an attack, and everything that must be refused."""

import json
from pathlib import Path

import pytest
import torch

from helpers.toys import generator, relu_net
from mpkit.core.files import DataError, unpacked, write_tensors
from mpkit.evaluation import Ledger, Witnesses, evaluate, standard, verify
from mpkit.evaluation.witnesses import FILE, _decoded, _encoded
from mpkit.sets import parse_threat

THREAT = "linf:0.1 + l2:0.4 + l1:1 + l0:2 + rt:1px,20deg + affine(rt:1px,20deg & linf:0.05)"


def problem(seed: int = 0, count: int = 40) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """A random ReLU network in float32 on 4 x 4 images, and labels of which it gets most."""
    net = relu_net(seed, inputs=16, classes=4, dtype=torch.float32)
    x = torch.rand(count, 1, 4, 4, generator=generator(1))
    y = net(x).argmax(1)
    y[:3] = (y[:3] + 1) % 4
    return net, x, y.detach()


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ledger]:
    folder, (net, x, y) = tmp_path_factory.mktemp("witnesses"), problem()
    threat, keep = parse_threat(THREAT), Witnesses(folder)
    suite = standard(threat, "quick", 4)
    ledger = evaluate(net, x, y, suite, generator(), batch=16, keep=keep)
    keep.finish(ledger, threat, net, x)
    return folder / FILE, ledger


def test_every_accuracy_follows_from_the_witnesses(done: tuple[Path, Ledger]) -> None:
    file, ledger = done
    verdicts = verify(file, *problem(), parse_threat(THREAT))
    assert set(verdicts) == {"clean", "union", *ledger.sets}
    for name in ("clean", *ledger.sets):
        assert verdicts[name].accuracy == ledger.accuracy(name)
        assert verdicts[name].fallen == {}
    assert verdicts["union"].accuracy == ledger.union_accuracy()
    assert not (file.parent / ".witnesses").exists()


def test_most_witnesses_take_a_byte_for_a_pixel(done: tuple[Path, Ledger]) -> None:
    tensors, _ = unpacked(done[0])
    count = {
        code: sum(len(t) for n, t in tensors.items() if n.endswith(f"{code}.rows"))
        for code in ("levels", "half", "full")
    }
    assert count["levels"] > count["half"] + count["full"] - 40  # poses are never rounded


@pytest.mark.parametrize("code", ["levels", "half"])
def test_a_rounded_witness_is_nowhere_larger(code: str) -> None:
    size = torch.logspace(-9, 1, 50).view(-1, 1, 1, 1)
    z = size * torch.randn(50, 3, 5, 5, generator=generator())
    back = _decoded(_encoded(z, code), code).double()
    assert (back.abs() <= z.double().abs() * (1 + 1e-12)).all()
    assert (back * z >= 0).all()


def test_another_network_is_found_out(done: tuple[Path, Ledger]) -> None:
    _, x, y = problem()
    verdicts = verify(done[0], problem(5)[0], x, y, parse_threat(THREAT))
    assert verdicts["clean"].accuracy != done[1].accuracy()


def test_other_images_labels_and_sets_are_refused(done: tuple[Path, Ledger]) -> None:
    file, (net, x, y) = done[0], problem()
    for images, labels in ((x.flip(0), y), (x, (y + 1) % 4), (x[:-1], y[:-1])):
        with pytest.raises(DataError, match="other images or labels"):
            verify(file, net, images, labels, parse_threat(THREAT))
    wider = parse_threat(THREAT.replace("linf:0.1 ", "linf:0.2 "))
    with pytest.raises(DataError, match=r"is of .*not of .*linf:0.2"):
        verify(file, net, x, y, wider)


def changed(file: Path, folder: Path, name: str, tensor: torch.Tensor | None = None) -> Path:
    """A copy of the file with another tensor, or with one byte of it turned."""
    tensors, words = unpacked(file)
    if tensor is None:
        tensor = tensors[name].clone()
        tensor[len(tensor) // 2] ^= 255
    write_tensors(folder / "other.safetensors", tensors | {name: tensor}, **words)
    return folder / "other.safetensors"


def test_a_turned_byte_is_found(done: tuple[Path, Ledger], tmp_path: Path) -> None:
    file, ledger = done
    facts = json.loads(unpacked(file)[1]["facts"])
    number = ledger.sets.index("linf:0.1")
    name = next(n for n in facts["shapes"] if n.startswith(f"{number}.levels.0.0"))
    with pytest.raises(DataError, match="are damaged"):
        verify(changed(file, tmp_path, name), *problem(), parse_threat(THREAT))
    path = tmp_path / "cut.safetensors"
    path.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        verify(path, *problem(), parse_threat(THREAT))


def test_witnesses_of_other_examples_are_named(done: tuple[Path, Ledger], tmp_path: Path) -> None:
    """The rows of one set are moved by one: what lies outside or fools nobody is told by name."""
    file, ledger = done
    name = f"{ledger.sets.index('linf:0.1')}.levels.rows"
    rows = unpacked(file)[0][name]
    verdict = verify(changed(file, tmp_path, name, rows.roll(1)), *problem(), parse_threat(THREAT))[
        "linf:0.1"
    ]
    assert verdict.fallen and set(verdict.fallen.values()) == {"does not fool the network"}
    assert verdict.accuracy.value > ledger.accuracy("linf:0.1").value


def test_a_stopped_run_goes_on_with_its_witnesses(tmp_path: Path) -> None:
    net, x, y = problem()
    suite = standard(parse_threat("linf:0.1"), "quick", 4)

    class Cut(Exception):
        pass

    class Stops(Witnesses):
        def __call__(self, unit, *rest):
            super().__call__(unit, *rest)
            if unit.batch == 1:
                raise Cut

    file = tmp_path / "ledger.safetensors"
    with pytest.raises(Cut):
        evaluate(net, x, y, suite, generator(), batch=16, file=file, keep=Stops(tmp_path))
    keep = Witnesses(tmp_path)
    ledger = evaluate(net, x, y, suite, generator(), batch=16, file=file, keep=keep)
    threat = parse_threat("linf:0.1")
    verdicts = verify(keep.finish(ledger, threat, net, x), net, x, y, threat)
    assert verdicts["linf:0.1"].accuracy == ledger.accuracy("linf:0.1")
    with pytest.raises(DataError, match="of another evaluation"):
        keep.begin(ledger)
        other = standard(parse_threat("l1:1"), "quick", 4)
        evaluate(net, x, y, other, generator(), keep=keep)
