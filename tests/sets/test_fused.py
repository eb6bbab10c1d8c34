"""Kernels for rows: right by Triton's interpreter, compiled for GPUs, and never a way to fail."""

import json
import subprocess
import sys

import pytest
import torch

from helpers import ROOT
from helpers.pretend import Claims
from helpers.toys import generator
from mpkit.sets import L1, Linf, fused
from mpkit.sets.fused import by_kernel
from mpkit.sets.projections import nearest_in_l1_ball

pytest.importorskip("triton")

ROWS, MASK, NUMBER = "*fp32", "*i1", "fp32"
NEAREST = {"d": ROWS, "x": ROWS, "eps": NUMBER, "out": ROWS, "size": "i32"}
STEP = {"x": ROWS, "g": ROWS, "length": ROWS, "out": ROWS}
KERNELS = {
    "linf_nearest": (NEAREST, {"BOX": True, "ROWS": 0}),
    "l1_nearest": (NEAREST, {"BOX": True, "ROWS": 0}),
    "l2_nearest": ({**NEAREST, "eps": ROWS}, {"BOX": True, "ROWS": 2}),
    "l2_length": ({"d": ROWS, "out": ROWS, "size": "i32"}, {}),
    "l2_direction": ({"d": ROWS, "out": ROWS, "size": "i32"}, {}),
    "movable": ({"x": ROWS, "g": ROWS, "out": ROWS, "size": "i32"}, {}),
    "l1_filling": ({**STEP, "size": "i32"}, {"ROWS": 1}),
    "largest_signs": ({"g": ROWS, "moving": ROWS, "out": ROWS, "size": "i32"}, {}),
    "sparse_step": ({**STEP, "count": "i32", "size": "i32"}, {"ROWS": 1}),
    "better": (
        dict.fromkeys(("a", "a_score", "b", "b_score", "z", "score"), ROWS)
        | dict.fromkeys(("a_reached", "b_reached", "reached"), MASK)
        | {"size": "i32"},
        {},
    ),
    "pair_share": (
        dict.fromkeys(("p", "q", "out"), ROWS)
        | {"eps_a": NUMBER, "eps_b": NUMBER, "wide": "i32", "size": "i32"},
        {"A": 0, "B": 2, "ROWS_A": 0, "ROWS_B": 0, "WIDE": 1024},
    ),
}


@pytest.mark.slow
def test_kernels_give_the_values_of_the_plain_functions():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(ROOT / "tests" / "helpers" / "interpreted.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {case: far for case, far in told["far"].items() if not far <= 1} == {}
    assert told["proven"] == dict.fromkeys(KERNELS, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile_for_gpus(name):
    """No GPU is needed for it; what the compiler refuses would be found at the first use only."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types, fixed = KERNELS[name]
    fixed = {**fixed, "BLOCK": 1024}
    signature = {**types, **dict.fromkeys(fixed, "constexpr")}
    kernel = getattr(fused.kernels(), name)
    made = triton.compile(
        ASTSource(kernel, {key: signature[key] for key in kernel.arg_names}, constexprs=fixed),
        target=GPUTarget("cuda", 80, 32),
        options={"num_warps": 4, "enable_fp_fusion": False},
    )
    assert made.asm["cubin"]


@pytest.fixture
def there(monkeypatch):
    """As if there were a GPU that Triton compiles for, and nothing was tried on it."""
    monkeypatch.setattr(fused, "available", lambda: True)
    monkeypatch.setattr(fused, "PROVEN", {})


def made(kernel):
    """A function whose work a kernel does, and the calls of both."""
    calls = []

    def quick(x, y=None):
        calls.append("kernel")
        return kernel(x)

    @by_kernel(quick)
    def plainly(x, y=None):
        calls.append("plain")
        return 2 * x

    return plainly, calls


def test_a_kernel_is_compared_once_and_then_used(there):
    double, calls = made(lambda x: 2 * x + 1e-7)
    x = torch.ones(2, 3)
    with Claims():
        assert torch.equal(double(x), 2 * x)
        assert torch.equal(double(x), 2 * x + 1e-7)
        with fused.off():
            assert torch.equal(double(x), 2 * x)
        assert torch.equal(double(x=x), 2 * x)  # by name: not worth a second way
    assert calls == ["plain", "kernel", "kernel", "plain", "plain"]


def test_a_kernel_that_is_wrong_or_cannot_be_compiled_is_told_once_and_left(there):
    def refused(x):
        raise RuntimeError("Failed to find C compiler. Please specify via CC.")

    x = torch.ones(2, 3)
    for kernel, why in ((lambda x: 2.1 * x, "something else"), (refused, "Failed to find C comp")):
        fused.PROVEN.clear()
        double, calls = made(kernel)
        with Claims():
            with pytest.warns(UserWarning, match=rf"fused: the kernel quick is not used .*{why}"):
                assert torch.equal(double(x), 2 * x)
            assert torch.equal(double(x), 2 * x)
        assert calls == ["plain", "kernel", "plain"]
    fused.PROVEN["quick"] = True  # and then for a row of another size it does not compile
    double, calls = made(refused)
    with Claims(), pytest.warns(UserWarning, match="not used"):
        assert torch.equal(double(x), 2 * x)
    assert calls == ["kernel", "plain"] and fused.PROVEN == {"quick": False}


def test_nothing_is_tried_within_a_recording(there, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    double, calls = made(lambda x: 2 * x)
    with Claims():
        double(torch.ones(2, 3))
    assert calls == ["plain"] and fused.PROVEN == {}


def test_what_is_not_fit_for_a_kernel_goes_the_plain_way(there, monkeypatch):
    double, calls = made(lambda x: 2 * x)
    asked = torch.ones(2, 3, requires_grad=True)
    with Claims():
        for x in (
            torch.ones(2, 3).double(),
            asked,
            torch.ones(1, fused.MOST + 1),
            torch.ones(0, 3),
        ):
            double(x)
        double(torch.ones(2, 3), torch.ones(2).double())
    double(torch.ones(2, 3))  # on a CPU
    monkeypatch.setattr(fused, "available", lambda: False)
    with Claims():
        double(torch.ones(2, 3))
    assert calls == ["plain"] * 7


def test_a_radius_that_is_none_is_refused_as_ever(there):
    fused.PROVEN.update(linf_nearest=True, l1_nearest=True)
    with Claims(), pytest.raises(ValueError, match="nearest_in_l1_ball: eps must be"):
        nearest_in_l1_ball(torch.ones(2, 3), -1.0)
    assert all(fused.PROVEN.values())


def test_without_a_gpu_triton_is_not_even_imported():
    code = (
        "import sys, torch; from mpkit.sets import L1; x = torch.rand(2, 1, 4, 4); "
        "L1(1.0).project(x, x); print('triton' in sys.modules, 'mpkit.sets.kernels' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split()[-1] == "False", done.stderr


@pytest.mark.parametrize("ball", [Linf(0.3), L1(1.0)])
def test_a_cpu_keeps_its_bits(ball):
    x = torch.rand(3, 1, 5, 5, generator=generator())
    z = torch.randn(x.shape, generator=generator(1))
    with fused.off():
        plain = ball.project(x, z)
    assert torch.equal(ball.project(x, z), plain)
