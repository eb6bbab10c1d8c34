"""What a recording asks of CUDA, in which order, and that it leaves everything as it was."""

import gc

import pytest
import torch

from helpers.fake_cuda import cuda
from helpers.small_runs import rng
from mpkit.core import cuda_graphs
from mpkit.core.cuda_graphs import WARM, Recording, plainly, under_way, usual
from mpkit.core.memory import in_pieces


@pytest.fixture
def log(monkeypatch):
    with cuda(monkeypatch) as asked:
        yield asked


def test_workspaces_are_cleared_after_the_warm_up_and_after_the_capture(log):
    log_of_work = []
    made = Recording(lambda x: log_of_work.append(len(log)) or x + 1, [torch.ones(2)])
    (capture,) = [one for one in log if one[0] == "capture"]
    assert log == [
        ("waiting is", "error"),
        ("waiting is", "default"),
        "cleared",
        capture,
        "cleared",
    ]
    assert log_of_work == [0] * (WARM - 1) + [1, 4]
    assert capture[3] == "thread_local" and capture[2] is made.stream


def test_recordings_of_a_device_share_one_pool_and_one_stream_as_long_as_one_lives(log):
    first = Recording(torch.neg, [torch.ones(2)])
    second = Recording(torch.neg, [torch.ones(2)])
    assert second.graph.pool() is first.graph.pool() and second.stream is first.stream
    pool = first.graph.pool()
    del first
    gc.collect()
    assert Recording(torch.neg, [torch.ones(2)]).graph.pool() is pool
    del second
    gc.collect()
    assert Recording(torch.neg, [torch.ones(2)]).graph.pool() is not pool


@pytest.mark.parametrize(
    ("version", "told"), [("2.11.0", 1), ("2.13.1+cu130", 1), ("2.14.0a0+git1", 0), ("2.15.0", 0)]
)
def test_generators_are_registered_only_where_that_does_something(version, told, log, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    assert len(Recording(torch.neg, [torch.ones(2)], [rng()]).graph.known) == told


def test_a_failed_recording_leaves_generators_and_buffers_as_they_were(log):
    numbers, buffer = rng(3), torch.zeros(2)
    state = numbers.get_state()

    def work(x):
        buffer.add_(torch.rand(2, generator=numbers))
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError, match="capturing"):
        Recording(work, [torch.ones(2)], [numbers], [buffer])
    assert torch.equal(numbers.get_state(), state) and not buffer.any()
    assert log[-1] == "cleared" and not under_way()


def test_nothing_is_recorded_within_a_recording_and_no_batch_is_halved_there(log):
    found = []

    def work(x):
        found.append((under_way(), usual(torch.device("cuda"))))
        return x

    Recording(work, [torch.ones(2)])
    assert found == [(True, plainly)] * (WARM + 1)
    assert usual(torch.device("cuda")) is Recording and not under_way()

    def large(x):
        return in_pieces("test", lambda rows: torch.empty(1 << 58), 4, 4)

    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
        Recording(large, [torch.ones(2)])


def test_another_shape_is_refused(log):
    made = Recording(torch.neg, [torch.ones(2)])
    made(torch.zeros(2))
    assert log[-1] == "replay"
    with pytest.raises(ValueError, match="record once for each shape"):
        made(torch.zeros(3))


def test_a_version_of_torch_without_workspaces_is_fine(log, monkeypatch):
    monkeypatch.delattr(torch._C, "_cuda_clearCublasWorkspaces")
    cuda_graphs._clear_workspaces()
