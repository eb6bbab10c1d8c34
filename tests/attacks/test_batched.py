"""Attacks in pieces, in less precision and recorded: the same results, within their bounds."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from helpers.small_runs import linear, tiny
from helpers.toys import generator, relu_net
from mpkit.attacks import (
    APGD,
    PGD,
    SLIDE,
    Batched,
    Clean,
    Margin,
    Restarts,
    TargetedMargin,
    UntilBroken,
    Worst,
)
from mpkit.core.memory import in_pieces
from mpkit.evaluation import evaluate
from mpkit.models import ChannelsLast, LowPrecision
from mpkit.sets import L1, L2, Linf
from mpkit.training import Natural, Recipe, fit


def net_problem(n=11):
    model = relu_net(0, inputs=16, classes=5)
    x = torch.rand(n, 1, 4, 4, generator=generator(), dtype=torch.float64)
    return model, x, model(x).argmax(1)


class Greedy(nn.Module):
    """Runs out of memory when it sees more than a few images."""

    def __init__(self, model, most):
        super().__init__()
        self.model, self.most, self.sizes = model, most, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return self.model(x)


@pytest.mark.parametrize("size", [1, 4, 11, 100])
def test_pieces_give_the_same_result(size):
    model, x, y = net_problem()
    eps, target = torch.linspace(0.05, 0.2, 11), (y + 1) % 5
    for attack in (
        PGD(Linf(eps), 5, start=Clean(), loss=TargetedMargin(target)),
        Worst((APGD(L2(0.3), 5, start=Clean()), PGD(Linf(eps), 5, start=Clean()))),
    ):
        whole = attack(model, x, y, generator())
        cut = Batched(attack, size)(model, x, y, generator())
        torch.testing.assert_close(cut.image, whole.image)
        torch.testing.assert_close(cut.score, whole.score)
        assert attack.set.contains(x, cut.z).all()


def test_batch_is_halved_when_memory_runs_out():
    model, x, y = net_problem()
    greedy = Greedy(model, most=3)
    attack = Batched(PGD(Linf(0.1), 3, start=Clean()), 11)
    with (
        pytest.warns(UserWarning, match="out of memory at 5 examples"),
        pytest.warns(UserWarning, match=r"out of memory at 11 examples .*going on with 5"),
    ):
        found = attack(greedy, x, y, generator())
    assert sorted(set(greedy.sizes), reverse=True) == [11, 5, 2, 1]
    torch.testing.assert_close(found.image, attack(model, x, y, generator()).image)


def test_halving_draws_no_random_number_twice():
    """A run that had to halve equals one that began with the smaller batch."""
    model, x, y = net_problem()
    attack = PGD(Linf(0.1), 3)
    with pytest.warns(UserWarning, match="going on with 2"):
        halved = Batched(attack, 4)(Greedy(model, 2), x, y, generator(5))
    small = Batched(attack, 2)(model, x, y, generator(5))
    assert torch.equal(halved.image, small.image)


def test_one_example_that_does_not_fit_is_an_error():
    model, x, y = net_problem()
    message = r"Batched: out of memory at a single example .*take a smaller network"
    with (
        pytest.warns(UserWarning, match="going on with 1"),
        pytest.raises(torch.OutOfMemoryError, match=message),
    ):
        Batched(PGD(Linf(0.1), 2), 2)(Greedy(model, 0), x, y, generator())


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    with pytest.raises(RuntimeError, match="no kernel"):
        in_pieces("test", lambda rows: (_ for _ in ()).throw(RuntimeError("no kernel")), 4, 4)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory", 2),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.98 GB)"),
        RuntimeError("UR error: UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY"),
    ],
)
def test_lack_of_memory_has_many_names(error):
    def work(rows):
        if rows.stop - rows.start > 2:
            raise error
        return rows

    with pytest.warns(UserWarning, match="out of memory at 4 examples .*going on with 2"):
        assert len(in_pieces("test", work, 4, 4)) == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
        ValueError("the words are out of memory"),
    ],
)
def test_a_broken_device_is_no_lack_of_memory(error):
    def work(rows):
        raise error

    with pytest.raises(type(error), match=re.escape(str(error)[:20])):
        in_pieces("test", work, 4, 4)


def test_memory_of_the_host_counts_too():
    """torch has no error of its own for it; this asks for more than any machine has."""
    sizes = []

    def work(rows):
        sizes.append(rows.stop - rows.start)
        return torch.empty(1 << 58 if sizes[-1] > 2 else 1, dtype=torch.uint8)

    with pytest.warns(UserWarning, match="out of memory at 5 examples .*going on with 2"):
        assert len(in_pieces("test", work, 5, 5)) == 3
    assert sizes == [5, 2, 2, 1]


@pytest.mark.filterwarnings("ignore:.*out of memory")
def test_an_evaluation_that_runs_out_of_memory_ends_with_the_ledger_of_smaller_pieces():
    model, x, y = net_problem()
    suite = (PGD(Linf(0.05), 3, start=Clean()), PGD(L2(0.2), 3, start=Clean()))
    whole = evaluate(model, x, y, suite, generator(), batch=11)
    pieces = evaluate(Greedy(model, 3).eval(), x, y, suite, generator(), batch=11)
    assert torch.equal(whole.broken, pieces.broken) and whole.broken.any()
    torch.testing.assert_close(whole.margin, pieces.margin, equal_nan=True)


def test_a_training_batch_that_does_not_fit_says_how_to_cut_it(tmp_path):
    greedy = Greedy(linear(), most=8).double()
    recipe = Recipe(epochs=1, batch=16, shards=1)
    message = (
        r"fit: out of memory at 16 images at a time on cpu; .*Recipe\(shards=2\) or --shards 2"
    )
    with pytest.raises(torch.OutOfMemoryError, match=message):
        fit(greedy, tiny(), Natural(), recipe, generator())
    assert len(fit(greedy, tiny(), Natural(), replace(recipe, shards=2), generator())) == 1


def small_cnn():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))


def test_less_precision_and_another_layout_share_weights_and_nearly_agree():
    net = small_cnn()
    x = torch.rand(6, 1, 4, 4, generator=generator())
    full = net(x)
    for fast, off in ((LowPrecision(net), 0.05), (ChannelsLast(net), 1e-5)):
        logits = fast(x)
        assert logits.dtype == x.dtype
        torch.testing.assert_close(logits, full, atol=off, rtol=off)
        with torch.no_grad():
            net[3].bias += 1
            assert (fast(x) - logits).mean().item() == pytest.approx(1, abs=0.02)
            net[3].bias -= 1
    assert not torch.equal(LowPrecision(net)(x), full)
    with pytest.raises(ValueError, match=r"bfloat16 or torch\.float16, got torch\.float32"):
        LowPrecision(net, torch.float32)


def test_attacks_through_less_precision_stay_exact_in_their_set():
    net = small_cnn()
    net.train()
    x = torch.rand(6, 1, 4, 4, generator=generator())
    y = net(x).argmax(1)
    for attack in (APGD(L1(0.7), 8), PGD(Linf(0.1), 8), SLIDE(L1(0.7), 8)):
        found = attack(LowPrecision(ChannelsLast(net)), x, y, generator())
        assert found.image.dtype == torch.float32
        assert attack.set.contains(x, found.z).all()
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_wrappers_carry_set_and_loss():
    attack = PGD(Linf(0.1), 3, loss=Margin())
    for wrapped in (Batched(attack), UntilBroken(attack), Restarts(attack, 2)):
        assert wrapped.set == attack.set
        assert wrapped.loss == attack.loss
    with pytest.raises(ValueError, match="Batched: size must be positive"):
        Batched(attack, 0)
