"""Training a named recipe, with a folder from which an interrupted run is gone on with."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from mpkit.core.devices import resolve_device
from mpkit.core.files import DataError
from mpkit.core.progress import Quiet
from mpkit.core.records import CHECKOUT, Code, read_record, write_record
from mpkit.data import Images
from mpkit.models import network as factory_of
from mpkit.models import parameter_count, read_weights, write_weights
from mpkit.models.weights import rounded_to_half
from mpkit.models.wrappers import LowPrecision
from mpkit.studies.catalog import Plan
from mpkit.training import Checkpoints, Epoch, Single, Validation, data_parallel, fit
from mpkit.training.costs import passes, speed
from mpkit.training.recipes import fingerprint

WEIGHTS = "weights.safetensors"
FACTS = "training.json"


def trained(
    made: Plan,
    images: Images,
    seed: int,
    folder: Path,
    device: str = "auto",
    progress: Quiet | None = None,
    start: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> nn.Module:
    """Train a network as a named recipe says, or read it where that is already done.

    The folder gets checkpoints while the training runs, ``metrics.jsonl``, and at the end the
    network in half precision (``weights.safetensors``) with what is known of its training
    (``training.json``).

    Args:
        made: the named recipe.
        images: the whole training split; the recipe's held-out images are taken off its end.
        seed: of the weights and of the training.
        folder: one for each recipe and seed.
        device: see :func:`mpkit.core.devices.resolve_device`.
        progress: is told how far the training is.
        start: the weights to begin with, for recipes that go on from another's network.
        dtype: torch.float64 for results that hardly differ between machines.

    Returns: the network, as the file holds it, on its device and in eval mode.

    Raises:
        DataError: the recipe goes on from another's network, and ``start`` is not there.
        ValueError: the folder is that of another run, or there are too few images.
    """
    where = resolve_device(device)
    with data_parallel.joined(where) as mine:
        if not _finished(folder, made, seed, images):
            model = _begin(made, images, seed, start).to(mine, dtype)
            seen, held = split(images, made)
            watch = Validation(held, dict(made.watch)) if made.watch else None
            rng, keep = torch.Generator().manual_seed(seed), Checkpoints(folder, seconds=5.0)
            history = fit(model, seen, made.scheme, made.recipe, rng, progress, watch, keep)
            if data_parallel.rank() == 0:
                _keep(model, made, images, seen, seed, folder, history)
            return rounded_to_half(model).eval()
        facts = read_record(folder / FACTS)
        return read_weights(folder / WEIGHTS, facts["weights"]["sha256"]).to(mine, dtype)


def split(images: Images, made: Plan) -> tuple[Images, Images]:
    """What a recipe trains on, and what it holds out (all, where none is held out).

    Raises: ValueError: fewer images than the recipe asks for.
    """
    if len(images) <= made.held_out:
        raise ValueError(
            f"train: {images.name} has {len(images)} images, and the recipe holds {made.held_out} "
            "of them out; give more images"
        )
    count = len(images) - made.held_out
    rest, last = images.first(count), images
    if made.held_out and made.spread:
        kept = torch.ones(len(images), dtype=torch.bool)
        kept[torch.arange(made.held_out) * len(images) // made.held_out] = False
        rest, last = (replace(images, x=images.x[k], y=images.y[k]) for k in (kept, ~kept))
    elif made.held_out:
        last = replace(images, x=images.x[count:], y=images.y[count:])
    return (rest.balanced(made.images) if made.images else rest), last


def _finished(folder: Path, made: Plan, seed: int, images: Images) -> bool:
    path = folder / FACTS
    if not path.is_file() or not (folder / WEIGHTS).is_file():
        return False
    facts = read_record(path)
    if (facts["key"], facts["seed"]) != (made.key, seed):
        raise ValueError(
            f"{folder} holds another run, {facts['recipe']} with seed {facts['seed']}; give this "
            "one a folder of its own, or remove that one"
        )
    if facts.get("data") != _own_data(images):
        raise ValueError(
            f"{folder} holds another run, {facts['recipe']} on other images; give this one a "
            "folder of its own, or remove that one"
        )
    return True


def _begin(made: Plan, images: Images, seed: int, start: Path | None) -> nn.Module:
    if not made.start:
        rng = torch.Generator().manual_seed(seed)
        return factory_of(made.network)(images.shape, len(images.classes), rng)
    if start is None or not start.is_file():
        raise DataError(
            f"{made.name} goes on from {made.start}, whose weights are not there"
            f"{f' ({start})' if start else ''}; train {made.start} with the same seed first"
        )
    return read_weights(start)


def _keep(
    model: nn.Module,
    made: Plan,
    images: Images,
    seen: Images,
    seed: int,
    folder: Path,
    history: list[Epoch],
) -> None:
    """Write the network and the facts, then remove the checkpoints."""
    sha256 = write_weights(folder / WEIGHTS, model, made.network, seen.shape, len(seen.classes))
    told = facts(made, seen, seed, model, history, sha256)
    own = {} if (data := _own_data(images)) is None else {"data": data}
    code = {"trained": asdict(Code.of(CHECKOUT))}
    write_record(folder / FACTS, told | own | code)
    for path in folder.glob("step-*"):
        path.unlink(missing_ok=True)


def _own_data(images: Images) -> str | None:
    """A hash of images that no name stands for."""
    return None if images.name in SHAPES else fingerprint(images.x, images.y, images.classes)


def facts(
    made: Plan, seen: Images, seed: int, model: nn.Module, history: list[Epoch], sha256: str
) -> dict[str, Any]:
    """What a record holds of a training."""
    each = passes(made.scheme, seen.shape, natural=made.recipe.natural)
    images = made.recipe.epochs * (len(seen) // made.recipe.batch) * made.recipe.batch
    return {
        "recipe": made.name,
        "key": made.key,
        "seed": seed,
        "settings": {
            "network": made.network,
            "parameters": parameter_count(model),
            "scheme": repr(made.scheme),
            "recipe": repr(made.recipe),
            "start": made.start,
            "images": len(seen),
            "held_out": made.held_out,
        },
        "cost": {
            "forward": round(each.forward * images),
            "gradients": round(each.backward * images),
            "seconds": round(sum(epoch.seconds for epoch in history), 1),
        },
        "history": [asdict(epoch) for epoch in history],
        "weights": {"file": WEIGHTS, "sha256": sha256, "type": "float16"},
    }


SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32)}
COUNTS = {"digits": 1297, "mnist": 60000, "cifar10": 50000}
STEP = 1.2  # a step of an attack, in forward and backward passes of training
LOOK = 0.4  # a forward pass alone


class Work(NamedTuple):
    """Gradient evaluations on single images, and seconds on this machine."""

    gradients: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.gradients / 1e6:.1f} M gradients, about {self.seconds / 60:.1f} min"


@cache
def _rate(
    network: str,
    shape: tuple[int, int, int],
    where: torch.device,
    batch: int,
    layout: torch.memory_format,
    compute: torch.dtype | None,
) -> float:
    """Training steps on single images in a second, measured for half of one."""
    rng = torch.Generator().manual_seed(0)
    model = factory_of(network)(shape, 10, rng).to(where).to(memory_format=layout)
    x = torch.rand(batch, *shape, generator=rng).to(where)
    return speed(LowPrecision(model, compute) if compute else model, x)


def estimate(made: Plan, data: str, device: str = "auto") -> Work:
    """Estimate the training of a named recipe; evaluation comes on top.

    The passes of the scheme are counted; the speed of its network is measured once.

    Args:
        made: the named recipe.
        data: a key of SHAPES.
        device: see :func:`mpkit.core.devices.resolve_device`.
    """
    where, shape = resolve_device(device), SHAPES[data]
    each = passes(made.scheme, shape, natural=made.recipe.natural)
    recipe = made.recipe
    rate = _rate(made.network, shape, where, recipe.batch, recipe.layout, recipe.compute)
    images = made.recipe.epochs * (made.images or COUNTS[data] - made.held_out)
    work = STEP * each.backward + LOOK * (each.forward - each.backward)
    return Work(images * each.backward, images * work / rate)


def expected_gradients(record: dict[str, Any], made: Plan, shape: tuple[int, int, int]) -> float:
    """Gradients that a training takes on average that draws its set by the errors so far.

    Args:
        record: of one network, with the robust accuracies after each epoch.
        made: its recipe.
        shape: (C, H, W) of the images.

    Source: Croce and Hein 2022 (E-AT), whose rule is to draw a set in proportion to its error.
    """
    price = {
        key: passes(Single(attack), shape).backward
        for key, attack in made.scheme.attacks  # type: ignore[attr-defined]
    }
    told = [dict.fromkeys(price, 0.0), *(e["robust"] for e in record["history"][:-1])]
    images = record["settings"]["images"] // made.recipe.batch * made.recipe.batch
    mean: float = 0.0
    for robust in told:
        errors = {key: 1 - robust[key] for key in price}
        mean += sum(errors[key] * price[key] for key in price) / sum(errors.values())
    return float(mean * images)
