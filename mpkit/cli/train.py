"""The commands ``mpkit train``, ``mpkit recipes`` and ``mpkit reproduce``."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import click

from mpkit.cli.options import choice, count, device, folder, root
from mpkit.cli.options import seed as seed_option
from mpkit.core.files import require_room

UNITS = {"s": 1, "m": 60, "h": 3600}

scale = choice(
    "--scale",
    ["cpu", "wide", "broad", "gpu"],
    default="cpu",
    help="A network and schedule for a few cores, twice as wide and long, with larger kernels and "
    "16 passes, or the paper's network.",
)
radii = choice(
    "--radii",
    ["common", "paper"],
    default="common",
    help="Those of today's literature, or of Tramèr and Boneh 2019.",
)


class Duration(click.ParamType[float]):
    """A time such as 90s, 9m or 2h, in seconds."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read it."""
        if not isinstance(value, str):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", value)
        if not found or float(found[1]) <= 0:
            self.fail(f"{value!r} is no time; write 90s, 9m or 2h", param, ctx)
        return float(found[1]) * UNITS[found[2]]


@click.command()
@click.argument("recipe")
@seed_option
@scale
@radii
@click.option(
    "--data",
    "dataset",
    help="Another data set than the recipe's name begins with: cifar10 or folder:PATH.",
)
@root
@device
@folder("--out", help="Folder of the run. [default: _build/train/RECIPE-SCALE-seedSEED]")
@click.option(
    "--start",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Weights to go on from, for recipes that fine-tune.",
)
@count(
    "--shards",
    help="Equal parts of a batch, shared out among processes. [default: one per process]",
)
def train(
    recipe: str,
    seed: int,
    scale: str,
    radii: str,
    dataset: str | None,
    root: Path | None,
    device: str,
    out: Path | None,
    start: Path | None,
    shards: int | None,
) -> None:
    """Train the network of RECIPE, such as mnist-max; see: mpkit recipes.

    An interrupted run, started again with the same options, goes on where it stopped; on a CPU
    its network is then the same to the last bit. Several processes: torchrun -m mpkit train;
    as many shards give the same network, up to rounding, in one process.

    \b
    Examples:
      mpkit train digits-max
      mpkit train mnist-msd --seed 1 --scale gpu
      mpkit train mnist-random@0.3 --scale wide   (behind a dead zone of that width)
      mpkit train mnist-random@rank20             (behind a rank zone)
      mpkit train my-max --data folder:my_images
      torchrun --standalone --nproc-per-node 8 -m mpkit train cifar10-max --scale gpu
    """
    from dataclasses import replace

    from mpkit.core.progress import Bar, Quiet
    from mpkit.data import load
    from mpkit.studies.catalog import plan
    from mpkit.studies.recipe_run import WEIGHTS, trained

    images = load(dataset or recipe.partition("-")[0], "train", root)
    made = plan(recipe, images.shape, scale, dataset, radii)
    if start is not None and not made.start:
        raise ValueError(
            f"--start: {recipe} begins with random weights and takes none; leave it out, or take a "
            "recipe that fine-tunes (see: mpkit recipes)"
        )
    parts = shards or int(os.environ.get("WORLD_SIZE", "1"))
    made = replace(made, recipe=replace(made.recipe, shards=parts))
    kind = scale if radii == "common" else f"{scale}-{radii}"
    folder = out or Path("_build", "train", f"{recipe}-{kind}-seed{seed}")
    require_room(folder)
    first = os.environ.get("RANK", "0") == "0"
    trained(made, images, seed, folder, device, Bar(recipe) if first else Quiet(), start)
    if first:
        click.echo(f"network: {folder / WEIGHTS}\nmetrics: {folder / 'metrics.jsonl'}")


@click.command()
@click.argument("recipe", required=False)
@scale
@radii
@click.option("--data", default="mnist", show_default=True, help="mnist, digits or cifar10.")
@device
def recipes(recipe: str | None, scale: str, radii: str, data: str, device: str) -> None:
    """List the recipes with their cost, or show RECIPE in full.

    Gradients are gradient evaluations on single images, those of the weights among them. Hours
    are estimated from the speed of the network on this machine.
    """
    from mpkit.studies.catalog import names, plan
    from mpkit.studies.recipe_run import SHAPES, estimate

    if recipe:
        data = recipe.partition("-")[0]
    if data not in SHAPES:
        raise ValueError(f"recipes: data must be one of {', '.join(SHAPES)}, got {data!r}")
    for name in [recipe] if recipe else names(data, radii):
        made = plan(name, SHAPES[data], scale, radii=radii)
        cost = estimate(made, data, device)
        click.echo(
            f"{click.style(f'{name:<18}', bold=True)} {cost.gradients / 1e6:8.1f} M gradients "
            f"{cost.seconds / 60:7.1f} min   {made.about}"
        )
        if recipe:
            click.echo(f"\n{made.scheme}\n\n{made.recipe}\n\nnetwork: {made.network}")
            click.echo(f"goes on from: {made.start or 'random weights'}\nsha256: {made.key}")


@click.command()
@click.argument("data", type=click.Choice(["mnist", "cifar10", "digits"]))
@click.option("--budget", type=Duration(), help="Stop after this time, such as 9m. [no limit]")
@folder("--out", help="Folder of the records. [default: _build/results/DATA, or DATA-paper]")
@folder(
    "--work",
    help="Folder of checkpoints and weights. [default: _build/reproduce/DATA, or DATA-paper]",
)
@count("--seeds", default=3)
@click.option("--rows", help="Only these schemes, with commas, in this order. [all]")
@count("--points", default=1000, help="Test images of each evaluation.")
@choice(
    "--attacks",
    ["quick", "standard", "thorough"],
    default="standard",
    help="How hard the evaluations try.",
)
@click.option(
    "--plan", is_flag=True, help="Only say what is missing, and its training's time here."
)
@scale
@radii
@root
@device
def reproduce(
    data: str,
    budget: float | None,
    out: Path | None,
    work: Path | None,
    seeds: int,
    rows: str | None,
    points: int,
    attacks: str,
    plan: bool,
    scale: str,
    radii: str,
    root: Path | None,
    device: str,
) -> None:
    """Train and evaluate every network of a table that is not there yet.

    The most telling networks come first. Start it again after an interruption, or several times
    at once: work that is done stays done, and processes share what is missing.

    \b
    Examples:
      mpkit reproduce digits --budget 2m
      mpkit reproduce mnist --budget 9m --scale gpu
      mpkit reproduce cifar10 --scale gpu --rows linf,max,balanced,ramp --seeds 1 --plan
      mpkit reproduce cifar10 --budget 9m --rows natural,linf,max
      mpkit reproduce cifar10 --radii paper
    """
    from mpkit.core.progress import Bar
    from mpkit.studies.catalog import rows_of
    from mpkit.studies.protocol import Protocol
    from mpkit.studies.study import Study, outlook, work_on

    table = data if radii == "common" else f"{data}-{radii}"
    study = Study(
        data,
        out or Path("_build", "results", table),
        work or Path("_build", "reproduce", table),
        scale,
        seeds,
        tuple(rows.split(",")) if rows is not None else rows_of(data, radii),
        Protocol(points, attacks, radii=radii),
        device,
        root,
    )
    if plan:
        for line in outlook(study):
            click.echo(line)
        return
    require_room(study.folder)
    require_room(study.work)
    end = None if budget is None else time.monotonic() + budget
    left = work_on(study, Bar, end, lambda line: click.echo(line, err=True))
    click.echo(f"records: {study.folder}" + (f"; {left} networks are not done" if left else ""))
