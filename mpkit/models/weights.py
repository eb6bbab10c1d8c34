"""Trained networks as small files: half precision, hashed, never pickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from mpkit.core.files import DataError, file_hash, packed, unpacked, write_atomically
from mpkit.models.cnn import network as factory_of

FORMAT = "mpkit network 1"


@torch.no_grad()
def rounded_to_half(model: nn.Module) -> nn.Module:
    """Round every weight to half precision, in place; their type stays what it was.

    What is evaluated is then what a file of half precision holds, to the last bit.
    """
    for tensor in model.state_dict().values():
        tensor.copy_(_half(tensor))
    return model


def _half(tensor: Tensor) -> Tensor:
    """Counts, such as the steps that a batch normalization has seen, stay whole numbers."""
    return tensor.half() if tensor.is_floating_point() else tensor


def write_weights(
    path: Path, model: nn.Module, network: str, shape: tuple[int, int, int], classes: int
) -> str:
    """Write a network in half precision, whole or not at all; returns the file's sha256.

    Args:
        path: the file; its folder is made.
        model: what ``models.network(network)`` built, trained.
        network: its name, see :func:`mpkit.models.network`.
        shape: (C, H, W) of the images.
        classes: number of classes.
    """
    facts = {"format": FORMAT, "network": network, "shape": list(shape), "classes": classes}
    tensors = {name: _half(tensor.detach()) for name, tensor in model.state_dict().items()}
    content = packed(tensors, facts=json.dumps(facts))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: file.write(content))
    return hashlib.sha256(content).hexdigest()


def read_weights(path: Path, sha256: str | None = None) -> nn.Module:
    """Read a network back, in float32 and eval mode, on the CPU.

    Args:
        path: a file of :func:`write_weights`.
        sha256: the hash that the file must have; None for no check.

    Raises: DataError: the file is missing, has another hash, or is none of ours.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; train the network again")
    if sha256 is not None and (found := file_hash(path)) != sha256:
        raise DataError(
            f"{path}: damaged or foreign: sha256 is {found}, expected {sha256}; fetch it again, "
            "or train the network again"
        )
    try:
        tensors, words = unpacked(path)
        facts = json.loads(words["facts"])
        if facts["format"] != FORMAT:
            raise KeyError("format")
        shape = (facts["shape"][0], facts["shape"][1], facts["shape"][2])
        rng = torch.Generator().manual_seed(0)
        model = factory_of(facts["network"])(shape, facts["classes"], rng)
        model.load_state_dict(tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path}: is no network that can be read ({type(error).__name__}: {error}); give a "
            "file that mpkit train wrote"
        ) from error
    return model.eval()
