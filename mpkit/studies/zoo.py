"""Trained networks to start from: they come with the package, or on digits take seconds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mpkit.core import processor
from mpkit.core.files import DataError, claimed
from mpkit.core.progress import Quiet
from mpkit.core.records import digest, read_record, source_texts, write_record
from mpkit.data import load as load_images
from mpkit.models import read_weights
from mpkit.studies.catalog import Plan, plan
from mpkit.studies.recipe_run import FACTS, WEIGHTS, trained
from mpkit.studies.study import Job

SHIPPED = Path(__file__).parent / "shipped"


@dataclass(frozen=True)
class Card:
    """What there is to know of a network of the zoo.

    Attributes:
        name: of the recipe.
        about: the scheme in a few words.
        data: what it was trained on.
        seed: of weights and training.
        settings: network, scheme and recipe in full.
        gradients: gradient evaluations of its training.
        accuracy: shares of test images that survive, by set, as [value, low, high].
        evaluation: by what, and on how many images.
        date: of the code that made it, with the commit.
        sha256: of its file.
        limits: what not to expect of it.
    """

    name: str
    about: str
    data: str
    seed: int
    settings: dict[str, Any]
    gradients: int
    accuracy: dict[str, list[float]]
    evaluation: str
    date: str
    sha256: str
    limits: str


LIMITS = (
    "One seed of a small network, trained to show an effect. Its robust accuracies are upper "
    "bounds: another attack may break more. Not for any use beyond study."
)


def names() -> list[str]:
    """The networks that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def card(name: str) -> Card:
    """The card of a network that comes with the package.

    Raises: ValueError: there is no such network.
    """
    path = SHIPPED / f"{name}.json"
    if not path.is_file():
        raise ValueError(
            f"zoo: no network {name!r}; there are {', '.join(names()) or 'none'}; for digits take "
            "zoo.digits(SCHEME), and others come from mpkit train"
        )
    return Card(**read_record(path))


def load(name: str, device: str | torch.device = "cpu") -> nn.Module:
    """A network that comes with the package, in float32 and eval mode.

    Args:
        name: one of :func:`names`, such as "mnist-max".
        device: where it is put.

    Raises:
        DataError: its file is not the one whose hash is on the card.
        ValueError: there is no such network.
    """
    return read_weights(SHIPPED / f"{name}.safetensors", card(name).sha256).to(device)


def digits(scheme: str, seed: int = 0, progress: Quiet | None = None) -> nn.Module:
    """A network for the 8 x 8 digits, trained in float64 and rounded to half precision.

    The book's own come with the package; ``benchmarks.training.digits`` makes them again.
    Others are trained when they are first asked for, in seconds, and kept in the user's cache
    folder, under a name that tells code, version of torch and arithmetic (see mpkit.core.processor)
    apart.

    Args:
        scheme: such as "max", see ``mpkit recipes``.
        seed: of weights and training.
        progress: is told how far the training is.

    Returns: the network in float64 and eval mode, on the CPU.

    Raises: ValueError: unknown scheme.
    """
    images = load_images("digits")
    made = plan(f"digits-{scheme}", images.shape)
    if ours := _with_package(made, seed):
        return trained(made, images, seed, ours, "cpu", dtype=torch.float64)
    start = None
    if made.start:
        before = plan(made.start, images.shape)
        digits(before.name.partition("-")[2], seed)
        start = (_with_package(before, seed) or _cached(before, seed)) / WEIGHTS
    folder = _cached(made, seed)
    with claimed(folder / "claim", wait=True):  # one worker trains it and the others wait
        if (folder / WEIGHTS).is_file():
            try:
                return trained(made, images, seed, folder, "cpu", dtype=torch.float64)
            except DataError:
                (folder / WEIGHTS).unlink()  # damaged: the recipe makes it again
        return trained(made, images, seed, folder, "cpu", progress, start, dtype=torch.float64)


def ship(record: Path, weights: Path, folder: Path | None = None) -> Card:
    """Put a network of a study into the zoo, with its card.

    Args:
        record: as ``mpkit reproduce`` wrote it.
        weights: the file that it tells of.
        folder: of the zoo; where not given, the one in the package.

    Raises: DataError: the weights are not those of the record.
    """
    folder = folder or SHIPPED
    facts = read_record(record)
    sha256 = facts["weights"]["sha256"]
    read_weights(weights, sha256)
    made, parameters = facts["evaluation"], facts["parameters"]
    made = Card(
        facts["recipe"],
        facts["about"],
        parameters["data"],
        facts["seed"],
        facts["settings"],
        facts["cost"]["gradients"],
        made["accuracy"],
        f"the suite {made['budget']!r} on {made['points']} test images, 95 % intervals",
        f"{facts['commit_date']} ({facts['commit']})",
        sha256,
        LIMITS,
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{made.name}.safetensors").write_bytes(weights.read_bytes())
    write_record(folder / f"{made.name}.json", asdict(made))
    return made


def _with_package(made: Plan, seed: int) -> Path | None:
    """Where a network on digits lies that comes with the package; None for any other recipe."""
    folder = SHIPPED / "digits" / made.name
    if not (folder / FACTS).is_file():
        return None
    facts = read_record(folder / FACTS)
    return folder if (facts["key"], facts["seed"]) == (made.key, seed) else None


def _cached(made: Plan, seed: int) -> Path:
    from platformdirs import user_cache_dir

    key = digest(made.key, source_texts(), torch.__version__, processor.chosen())
    place = f"{Job(made.name, seed).id}-{key[:16]}"
    return Path(user_cache_dir("mpkit")) / "zoo" / place
