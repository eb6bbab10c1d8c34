"""What workers are refused for, and devices that are not there: what, where, and the remedy."""

from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch

from mpkit.core import cluster, workers
from mpkit.core.cluster import code_state, common_ground, on_same_ground
from mpkit.core.workers import ClusterError, Local, Remote
from mpkit.training import data_parallel

FINE = {"resources": {}, "device": "cpu", "drawn": 7}


class Client:
    """Answers for its workers as they would themselves."""

    def __init__(self, *answers):
        self.answers = {f"tcp://10.0.0.{i}:1": a for i, a in enumerate(answers, start=1)}

    def run(self, function, *words, on_error):
        assert (function, on_error) == (cluster.probe, "return")
        return self.answers


def answer(**changes):
    return {**FINE, "state": code_state(), **changes}


def other_versions(**changes):
    return answer(state={**code_state(), **changes})


def test_workers_that_are_alike_are_taken():
    ground = common_ground(Client(answer(), answer()), 0, "auto", 0)
    assert (ground.device, ground.drawn, ground.state) == ("cpu", 7, code_state())


@pytest.mark.parametrize(
    ("answers", "gpus", "message"),
    [
        (
            [answer(), other_versions(torch="1.0")],
            0,
            r"worker tcp://10.0.0.2:1 would give other results: torch 1.0 there, .* here; install "
            r"the same versions on every machine \(requirements.lock\) and start the worker again",
        ),
        ([answer(), other_versions(cupy="9")], 0, r"cupy 9 there, missing here; install the same"),
        ([other_versions(**{"mpkit's source": "abc"})], 0, r"mpkit's source abc there"),
        (
            [answer(), ModuleNotFoundError("No module named 'mpkit'")],
            0,
            r"worker tcp://10.0.0.2:1 cannot load this mpkit \(ModuleNotFoundError.*install the",
        ),
        ([answer(), answer()], 1, r"none of the 2 workers offers a GPU; start some with 'dask wor"),
        (
            [answer(problem="device: cuda was asked for, but no CUDA device(s) can be used here")],
            0,
            r"worker tcp://10.0.0.1:1: device: cuda was asked for",
        ),
        (
            [answer(), answer(device="cuda: H100")],
            0,
            r"different devices, .*: cpu \(tcp://10.0.0.1:1\), cuda: H100 .*ask for one kind",
        ),
    ],
)
def test_workers_that_differ_are_refused(answers, gpus, message):
    with pytest.raises(ClusterError, match=message):
        common_ground(Client(*answers), gpus, "auto", 0)


def test_a_worker_that_comes_late_and_differs_refuses_by_itself():
    ground = common_ground(Client(answer()), 0, "cpu", 0)
    assert on_same_ground(ground, max, 1, 2) == 2
    later = ground._replace(state={**ground.state, "numpy": "0.1"})
    with pytest.raises(ClusterError, match=r"would give other results: numpy .* 0\.1 here"):
        on_same_ground(later, max, 1, 2)
    with pytest.raises(ClusterError, match=r"has the device cpu, the others cuda: H100; start"):
        on_same_ground(ground._replace(device="cuda: H100"), max, 1, 2)


def test_what_a_worker_says_of_a_device_that_it_lacks():
    said = cluster.probe("cuda:99", 0, SimpleNamespace(state=SimpleNamespace(total_resources={})))
    assert "cuda:99 was asked for" in said["problem"] and said["state"] == code_state()


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "tcp://no-such-host.invalid:8786"])
def test_a_scheduler_that_does_not_answer(address, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    message = rf"no scheduler answers at {address} within 0.5 s .*start one with 'dask scheduler'"
    with ExitStack() as stack, pytest.raises(ClusterError, match=message):
        Remote(address).client(stack, 1)


def test_gpus_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with ExitStack() as stack, pytest.raises(ClusterError, match=r"--gpu: no CUDA device on this"):
        Local(gpus=1).client(stack, 1)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    message = r"process 3 of this machine has no GPU of its own, there are 2; start --nproc-per-no"
    with pytest.raises(ValueError, match=message), data_parallel.joined(torch.device("cuda")):
        pass
