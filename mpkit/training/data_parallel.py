"""Several processes that train one network together, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn


def together() -> bool:
    """Whether this process trains together with others."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """The number of this process; 0 writes the files and shows the progress."""
    return distributed.get_rank() if together() else 0


def world() -> int:
    """How many processes train together."""
    return distributed.get_world_size() if together() else 1


@contextmanager
def joined(device: torch.device) -> Iterator[torch.device]:
    """Join the other processes that torchrun started, and leave them at the end.

    Without torchrun (no RANK in the environment) this does nothing.

    Args:
        device: where to train; ``cuda`` becomes this process's own GPU.

    Raises: ValueError: there are more processes on this machine than GPUs.
    """
    if "RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if number >= gpus:
            raise ValueError(
                f"torchrun: process {number} of this machine has no GPU of its own, there are "
                f"{gpus}; start --nproc-per-node {gpus}, or train with --device cpu"
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def add_up(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over all processes, in one message."""
    if not together():
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    distributed.all_reduce(flat)
    sizes = [tensor.numel() for tensor in tensors]
    for tensor, part in zip(tensors, torch.split(flat, sizes), strict=True):
        tensor.copy_(part.view_as(tensor))


class Statistics:
    """The running statistics of a network whose batches come in shards, in any number of processes.

    In training, batch normalization works with the statistics of what is before it: of one shard
    ("ghost batch normalization"). Every shard of a step begins with the same running statistics
    and moves them by itself; the step then moves them by the mean of these moves. So the number
    of processes decides nothing, and no activation is sent. With one shard this does nothing.

    Args:
        model: layers of torch.nn that normalize are looked at; a layer of another kind must not
            keep statistics of its own.
        shards: of every batch.

    Source: Hoffer, Hubara and Soudry 2017 (ghost batch normalization).
    """

    def __init__(self, model: nn.Module, shards: int) -> None:
        layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self.now = [buffer for m in layers for buffer in m.buffers()] if shards > 1 else []
        self.shards = shards
        self.before: list[Tensor] = []
        self.moves: list[Tensor] = []

    @torch.no_grad()
    def begin(self) -> None:
        """A step begins: remember where the statistics stand."""
        self.before = [now.clone() for now in self.now]
        self.moves = [torch.zeros_like(now) for now in self.now]

    @torch.no_grad()
    def set_back(self) -> None:
        """A shard is done: add its move to those of the others, and take it back."""
        for now, before, move in zip(self.now, self.before, self.moves, strict=True):
            move += now - before
            now.copy_(before)

    @torch.no_grad()
    def settle(self) -> None:
        """All shards are done and their moves added up: move by the mean."""
        for now, move in zip(self.now, self.moves, strict=True):
            now.copy_(now + move / self.shards)


def agree(model: nn.Module, seed: int) -> int:
    """Give every process the weights and the seed of the first one; returns that seed."""
    if not together():
        return seed
    for tensor in model.state_dict().values():
        distributed.broadcast(tensor, 0)
    common = torch.tensor(seed, device=next(model.parameters()).device)
    distributed.broadcast(common, 0)
    return int(common)
