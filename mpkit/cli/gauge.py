"""The command ``mpkit gauge``."""

from __future__ import annotations

import time
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from mpkit.cli.options import (
    choice,
    count,
    device,
    folder,
    require_place,
    subject_options,
    threat_of,
)
from mpkit.cli.options import seed as seed_option


@click.command()
@subject_options
@choice(
    "--budget",
    ["quick", "standard", "thorough", "blind"],
    default="quick",
    help="How hard the attacks try at each scale; blind ones need no gradient.",
)
@count("--points", default=200, help="Test images, from the first on.")
@count("--batch", default=250, help="Images at a time; bounds the memory.")
@click.option(
    "--most",
    type=click.FloatRange(1, 100),
    default=4.0,
    show_default=True,
    help="The greatest scale of the budgets that is searched.",
)
@click.option(
    "--rounds",
    type=click.IntRange(0, 30),
    default=8,
    show_default=True,
    help="Halvings of the scale; each makes it twice as exact.",
)
@seed_option
@device
@folder(
    "--output",
    default=Path("gauge"),
    help="Folder for scales.safetensors, record.json and gauge.png.",
)
def gauge(
    spec: str,
    weights: Path | None,
    dataset: str,
    root: Path | None,
    words: str,
    budget: str,
    points: int,
    batch: int,
    most: float,
    rounds: int,
    seed: int,
    device: str,
    output: Path,
) -> None:
    """Measure at which scale of the threat model each image breaks, in every set and the union.

    At scale 1 the budgets are those of the threat model, at scale 2 all are twice as large. The
    table gives the accuracy at scale 1, the median scale, the area under the curve of accuracy
    against scale, and how many images each set breaks first. An interrupted run, started again
    with the same options, goes on.

    \b
    Examples:
      mpkit gauge --model small_cnn --weights w.safetensors --points 100
      mpkit gauge --model my_nets:resnet --weights w.safetensors --data cifar10 \\
          --threat 'linf:8/255 + l2:0.5 + l1:12' --most 2
    """
    import torch

    from mpkit import data, evaluation, models
    from mpkit.core import records
    from mpkit.core.files import claimed, file_hash, write_atomically
    from mpkit.core.progress import Bar

    require_place("--output", output / "record.json")
    begun = time.monotonic()
    images = data.load(dataset, "test", root).first(points)
    threat = threat_of(words, dataset, images.shape)
    network = models.load_model(spec, weights, images.shape, len(images.classes), device)
    where = next((p.device for p in network.parameters()), torch.device("cpu"))
    at, rng = images.to(where), torch.Generator(where).manual_seed(seed)
    settings: dict[str, Any] = {"budget": budget, "most": most, "rounds": rounds, "batch": batch}
    with claimed(output / ".lock") as alone:
        if not alone:
            raise ValueError(f"--output: another search is at work in {output}; wait for it")
        found = evaluation.gauge(
            network,
            at.x,
            at.y,
            threat,
            rng,
            classes=len(images.classes),
            file=output / "scales.safetensors",
            progress=Bar("gauging", unit="set"),
            **settings,
        )
    parameters = {
        "model": spec,
        "weights": weights and weights.name,
        "sha256": file_hash(weights) if weights is not None and weights.is_file() else None,
        "data": dataset,
        "threat": threat.describe(),
        "edition": evaluation.EDITION,
        "points": len(images),
        "seed": seed,
        "device": device,
        **settings,
    }
    record = records.provenance(parameters, records.CHECKOUT, time.monotonic() - begun, "gauge")
    record |= {"device": records.device_name(str(where)), "gauge": evaluation.gauge_summary(found)}
    records.write_record(output / "record.json", record)
    for chart in entry_points(group="mpkit.charts", name="gauge"):  # that of the book
        draw = partial(chart.load()(found).savefig, format="png", dpi=160)
        write_atomically(output / "gauge.png", draw)
    click.echo(evaluation.gauge_table(found))
    click.echo(f"\nscales, record and figure: {output}")
