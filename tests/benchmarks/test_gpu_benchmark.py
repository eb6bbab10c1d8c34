"""The command for a GPU runs on a CPU too, finds what is wrong, and goes on where it stopped."""

import json
import os
import subprocess
import sys

import pytest
import torch

import benchmarks.gpu.__main__ as gpu
from benchmarks.gpu import checks, steps, timing
from helpers import ROOT
from mpkit.core.cuda_graphs import plainly

CPU = torch.device("cpu")


def run(monkeypatch, output, *words):
    words = ("--device", "cpu", "--points", "2", "--steps", "1", "--output", str(output), *words)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *words])
    gpu.main()


def test_parts_are_recorded_and_not_repeated(tmp_path, monkeypatch, capsys):
    output = tmp_path / "gpu.json"
    run(monkeypatch, output, "--only", "ceilings")
    run(monkeypatch, output, "--only", "memory")
    first = json.loads(output.read_text())
    assert first["device"] == "cpu" and "torch" in first["versions"]
    memory = first["parts"]["memory: paper_mnist, batch 2"]
    assert memory["result"] == first["parts"]["ceilings"]["tf32"] == "not run: no CUDA"
    capsys.readouterr()
    run(monkeypatch, output, "--only", "ceilings")
    assert capsys.readouterr().out == "" and json.loads(output.read_text()) == first
    run(monkeypatch, output, "--only", "sets", "--budget", "0s")
    assert "call again for the rest, from: sets are right" in capsys.readouterr().out
    run(monkeypatch, output, "--only", "ceilings", "--points", "3")
    assert list(json.loads(output.read_text())["parts"]) == ["ceilings"]  # of another extent


def test_a_plan_says_what_is_missing_and_how_long_it_took(tmp_path, monkeypatch, capsys):
    output = tmp_path / "gpu.json"
    run(monkeypatch, output, "--only", "ceilings")
    capsys.readouterr()
    run(monkeypatch, output, "--plan", "--only", "ceilings")
    assert capsys.readouterr().out == "0 of 1 parts: 0 s, and 0 of unknown time\n"
    before = output.read_text()
    record = json.loads(before) | {"code": "another"}
    record["parts"]["ceilings"]["took"] = 7.0
    output.write_text(json.dumps(record))
    run(monkeypatch, output, "--plan")
    *lines, last = capsys.readouterr().out.splitlines()
    assert "     7.0 s  ceilings" in lines and "   unknown  sets are right" in lines
    assert last == f"{len(lines)} of {len(lines)} parts: 7 s, and {len(lines) - 1} of unknown time"


OTHERS = (
    "PIL click dask distributed foolbox joblib matplotlib pandas platformdirs plotly safetensors "
    "scipy sklearn torchvision tqdm yaml"
)
ALONE = """
import runpy, sys
for name in sys.argv.pop(1).split():
    sys.modules[name] = None  # as if it were not installed
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("part", ["ceilings", "sets", "attacks: paper_mnist, batch 2, float32"])
def test_a_machine_with_torch_alone_writes_where_it_was_told_and_nowhere_else(tmp_path, part):
    home, output = tmp_path / "home", tmp_path / "deep" / "gpu.json"
    home.mkdir()
    words = ("--device", "cpu", "--points", "2", "--steps", "1", "--only", part)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, OTHERS, "benchmarks.gpu", *words, "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(json.loads(output.read_text())["parts"]) == [
        name for name in gpu.parts(CPU, gpu.SMALL, 2, 1) if name.startswith(part)
    ]
    assert [path.name for path in output.parent.iterdir()] == ["gpu.json"]
    assert list(home.iterdir()) == []


@pytest.mark.slow
def test_a_table_is_planned_where_few_packages_are_and_no_data(tmp_path):
    few = " ".join(set(OTHERS.split()) - {"click", "safetensors", "tqdm"})
    words = ("reproduce", "mnist", "--rows", "linf", "--seeds", "1", "--plan", "--device", "cpu")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, few, "mpkit", *words],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "MPKIT_DATA": str(tmp_path / "none")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "mnist-linf-seed0: adversarial training in l_inf; training 3" in done.stdout
    assert not list(tmp_path.iterdir())


def test_the_record_is_that_of_this_code(monkeypatch, tmp_path):
    before = gpu.code()
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "__main__.py"))
    (tmp_path / "timing.py").write_text("")
    assert gpu.code() != before


def test_no_cuda_is_a_clear_error(tmp_path, monkeypatch, capsys):
    if torch.cuda.is_available():
        pytest.skip("there is CUDA here")
    with pytest.raises(SystemExit):
        run(monkeypatch, tmp_path / "gpu.json", "--device", "cuda")
    assert "cuda was asked for, but no CUDA device" in capsys.readouterr().err


def test_attacks_are_timed_over_the_bare_loop(monkeypatch):
    monkeypatch.setattr(timing, "others", lambda *arguments: {})
    (part,) = [
        part
        for name, part in gpu.parts(CPU, gpu.SMALL, 2, 1).items()
        if name == "attacks: paper_mnist, batch 2, bfloat16, channels last"
    ]
    found = part()
    products = 28 * 28 * 32 * 25 + 14 * 14 * 64 * 800 + 3136 * 1024 + 1024 * 10
    assert found["operations of a step"] == 2 * 2 * 2 * products  # images, forth and back, x and +
    assert found["apgd l1"]["plain over the bare loop"] > 0


def test_sets_are_compared_with_double_precision(monkeypatch):
    assert gpu.wrong("", checks.sets(CPU, 4)) == []
    monkeypatch.setattr(checks.L2, "project", lambda ball, x, z: 0.999 * z)
    assert gpu.wrong("", checks.sets(CPU, 4)) != []


FEW = {"pgd linf": checks.PGD(checks.BALLS["linf"], 2)}
FEW |= {"square l1": checks.Square(checks.BALLS["l1"], 2)}
ONE = {"avg": steps.Average(tuple(FEW.values())), "random": steps.Random(tuple(FEW.values()))}


class Copies:
    """Stands for copy; the second network that is copied, the device's, comes out changed."""

    def __init__(self, factor):
        self.made, self.factor = 0, factor

    def deepcopy(self, model):
        self.made += 1
        return type(model)(*map(self.layer, model))

    def layer(self, layer):
        import copy

        layer = copy.deepcopy(layer)
        if self.made == 2 and isinstance(layer, torch.nn.Linear):
            with torch.no_grad():
                layer.weight.mul_(self.factor)
        return layer


@pytest.mark.parametrize(("factor", "right"), [(1.0, True), (1.01, False)])
def test_a_device_that_computes_something_else_is_found(factor, right, monkeypatch):
    monkeypatch.setattr(checks, "searches", lambda steps: FEW)
    monkeypatch.setattr(steps, "schemes", lambda steps: ONE)
    for module, check in ((checks, checks.attacks), (steps, steps.training)):
        monkeypatch.setattr(module, "copy", Copies(factor))
        bad = gpu.wrong("", {"part": gpu.tried(lambda check=check: check(CPU, 3, 1))})
        assert (bad == []) == right


def test_a_recording_that_fell_back_is_no_result():
    def part():
        search = steps.PGD(checks.BALLS["linf"], 1)
        model, x, y = checks.problem(2)
        checks.GraphedAttack(search, model, x, y, cannot)
        return {}

    def cannot(work, inputs, rngs=(), kept=()):
        raise RuntimeError("the stream is capturing")

    assert "GraphedAttack: recording PGD failed" in gpu.tried(part)["error"]


def test_random_numbers_of_the_host_are_the_same_for_every_device_and_type():
    with checks.drawn_on_the_host():
        first, second = (torch.Generator().manual_seed(3) for _ in range(2))
        a = torch.rand(4, generator=first, dtype=torch.float32)
        b = torch.rand(4, generator=second, dtype=torch.float64)
        assert torch.equal(a, b.float())
        assert not torch.equal(a, torch.rand(4, generator=first, dtype=torch.float32))


def test_a_plain_run_takes_the_steps_of_training():
    model, x, y = checks.problem(4)
    images = steps.Images(x, y, tuple("0123456789"), "noise")
    moved, losses = steps.stepped(steps.Natural(), model, images, 2, plainly)
    assert moved.norm() > 0 and len(losses) == 2


def test_a_gpu_is_timed_on_itself_by_many_calls_between_two_events(monkeypatch):
    """A call takes 2 ms there; the first event of each pair comes 5 ms before the work."""
    now, current, called, pairs = [0.0], ["cuda:0"], [], []

    class Device:
        def __init__(self, device):
            self.device = str(device)

        def __enter__(self):
            self.before, current[0] = current[0], self.device

        def __exit__(self, *_):
            current[0] = self.before

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing and current == ["cuda:1"]

        def record(self):
            self.at = now[0]
            pairs.append(len(called))

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return other.at - self.at + 5

    def work():
        called.append(current[0])
        now[0] += 2

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    median, least, most = timing.taken(work, torch.device("cuda:1"), 0.7)
    assert 0.002 < least <= median <= most < 0.0026 and current == ["cuda:0"]
    groups = [b - a for a, b in zip(pairs[2::2], pairs[3::2], strict=True)]
    assert set(groups) == {10}  # a tenth of 0.7 s over the 7 ms that one call took
