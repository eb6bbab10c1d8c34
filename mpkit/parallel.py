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
    """
    if "RANK" not in os.environ:
        yield device
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
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
    start = 0
    for tensor in tensors:
        tensor.copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()


def agree(model: nn.Module, seed: int) -> int:
    """Give every process the weights and the seed of the first one; returns that seed.

    Raises:
        ValueError: the network has batch normalization, whose running means would differ.
    """
    if not together():
        return seed
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise ValueError(
                f"fit: layer {name} normalizes over the batch, which several processes do not "
                "share; train with one process, or use a network without batch normalization"
            )
    for tensor in model.state_dict().values():
        distributed.broadcast(tensor, 0)
    common = torch.tensor(seed, device=next(model.parameters()).device)
    distributed.broadcast(common, 0)
    return int(common)
