"""The command ``mpkit evaluate``."""

from __future__ import annotations

import time
from contextlib import nullcontext
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path

import click

from mpkit.cli.options import (
    choice,
    cluster_options,
    count,
    device,
    folder,
    require_place,
    subject_options,
    threat_of,
    workers_of,
)
from mpkit.cli.options import seed as seed_option


@click.command()
@subject_options
@choice(
    "--budget",
    ["quick", "screen", "standard", "thorough", "blind"],
    default="standard",
    help="How hard the attacks try; screen is standard without restarts, targets and deep "
    "searches, blind ones need no gradient.",
)
@choice(
    "--goal",
    ["sets", "union"],
    default="sets",
    help="Accuracy in every set, or, cheaper, of the union only.",
)
@count(
    "--pilot",
    metavar="IMAGES",
    help="Leave attacks out after so many images if they broke none of them.",
)
@count(
    "--points",
    default=1000,
    help="Test images, from the first on; 1000 give intervals of ± 3 points.",
)
@count("--batch", default=250, help="Images at a time; bounds the memory.")
@seed_option
@device
@folder(
    "--output",
    default=Path("evaluation"),
    help="Folder for ledger.safetensors, record.json and accuracy.png.",
)
@click.option(
    "--targeted",
    metavar="CLASS",
    help="Bring images to this class; least: to the least likely one, all: to each in turn.",
)
@folder("--save", help="Folder for the adversarial images, as safetensors and as PNG.")
@click.option(
    "--witnesses",
    is_flag=True,
    help="Keep what broke each image in each set, so that mpkit verify can check all numbers.",
)
@count(
    "--shards", help="Share the images, in so many parts, among workers. [default: one per batch]"
)
@cluster_options
def evaluate(
    spec: str,
    weights: Path | None,
    dataset: str,
    root: Path | None,
    words: str,
    budget: str,
    goal: str,
    pilot: int | None,
    points: int,
    batch: int,
    seed: int,
    device: str,
    output: Path,
    targeted: str | None,
    save: Path | None,
    witnesses: bool,
    shards: int | None,
    scheduler: str | None,
    slurm: Path | None,
    workers: int | None,
    gpu: bool,
) -> None:
    """Measure the robust accuracy of a network: in every set, and of their union.

    The result is a ledger of which attack broke which image. An interrupted run, started again
    with the same options, goes on where it stopped. With --shards, --scheduler or --slurm the
    images are shared among workers; the ledger is the same, bit for bit, as without.

    \b
    Examples:
      mpkit evaluate --model small_cnn --weights w.safetensors --budget quick
      mpkit evaluate --model my_nets:resnet --weights w.safetensors --data cifar10 \\
          --threat 'linf:8/255 + l2:0.5 + l1:12' --points 10000
      mpkit evaluate --model small_cnn --weights w.safetensors --shards 4 --workers 4
    """
    import torch

    from mpkit import data, evaluation, models
    from mpkit.core import records
    from mpkit.core.files import claimed, file_hash, write_atomically
    from mpkit.core.progress import Bar
    from mpkit.evaluation import sharding

    require_place("--output", output / "record.json")
    if save is not None:
        require_place("--save", save / "adversarial.safetensors")
    images = data.stored(dataset, "test", root, points)
    threat, classes = threat_of(words, dataset, images.shape), len(images.classes)
    network = models.load_model(spec, weights, images.shape, classes, "cpu")
    suite = evaluation.standard(threat, budget, classes, models.front_of(network))
    aim = {"sets": evaluation.EachSet(), "union": evaluation.UnionOnly()}[goal]
    request = sharding.Request(
        spec,
        images.shape,
        classes,
        evaluation.quickest_first(suite) if goal == "union" else suite,
        evaluation.AfterPilot(aim, pilot) if pilot else aim,
        batch,
        seed,
        device,
    )
    begun = time.monotonic()
    parameters = {
        "model": spec,
        "weights": weights and weights.name,
        "sha256": file_hash(weights) if weights is not None and weights.is_file() else None,
        "data": dataset,
        "threat": threat.describe(),
        "budget": budget,
        "edition": evaluation.EDITION,
        "goal": goal,
        "pilot": pilot,
        "points": len(images),
        "seed": seed,
        "device": device,
    }
    if targeted is not None:
        if any((shards, scheduler, slurm, workers, gpu, save, witnesses)):
            raise ValueError(
                "--targeted runs in one process; leave out --save, --witnesses, --shards and such"
            )
        network = models.load_model(spec, weights, images.shape, len(images.classes), device)
        where = next((p.device for p in network.parameters()), torch.device("cpu"))
        x, y = images.x[:].to(where), images.y.to(where)
        aims = evaluation.targets_of(targeted, network, x, y, images.classes)
        ledgers = evaluation.evaluate_toward(
            aims,
            network,
            x,
            threat,
            seed,
            budget=budget,
            goal=request.goal,
            batch=batch,
            folder=output,
            progress=Bar,
        )
        if all(bool(ledger.unfit.all()) for ledger in ledgers.values()):
            raise click.ClickException("the network answered NaN to every image: see its weights")
        parameters |= {"targeted": targeted}
        spent = time.monotonic() - begun
        record = records.provenance(parameters, records.CHECKOUT, spent, "evaluate")
        toward = {str(k): evaluation.summary(ledger) for k, ledger in ledgers.items()}
        records.write_record(output / "targeted.json", record | {"targets": toward})
        with torch.no_grad():
            odd = evaluation.hints_on_outputs(network(x[:8].clone()))
        for hint in odd + evaluation.hints_on_radii(threat, images.shape):
            click.echo(f"Note: {hint}", err=True)
        click.echo(evaluation.table_toward(ledgers, images.classes))
        click.echo(f"\nledgers and record: {output}")
        return
    kept = evaluation.AdversarialImages(save) if save else None
    if any((shards, scheduler, slurm, workers, gpu)):
        if kept or witnesses or pilot:
            raise ValueError(
                "--save, --witnesses and --pilot are of one process; leave out --shards and such"
            )
        place, bar = workers_of(scheduler, slurm, workers, gpu), Bar("evaluating", unit="shard")
        done = evaluation.evaluate_in_shards(request, weights, images, place, shards, output, bar)
    else:
        claim = claimed(save / ".lock") if save else nullcontext(True)
        with claim as alone:
            if not alone:
                raise ValueError(f"--save: another evaluation is at work in {save}; wait for it")
            done = sharding.evaluate_here(
                request, weights, images, output, Bar("evaluating"), kept, witnesses
            )
    if bool(done.ledger.unfit.all()):
        raise click.ClickException("the network answered NaN to every image: look at its weights")
    record = records.provenance(parameters, records.CHECKOUT, time.monotonic() - begun, "evaluate")
    record |= {"device": done.device, "ledger": evaluation.summary(done.ledger)}
    if done.witnesses is not None:
        record |= {"witnesses": file_hash(done.witnesses)}
    records.write_record(output / "record.json", record)
    for chart in entry_points(group="mpkit.charts", name="ledger"):  # that of the book
        draw = partial(chart.load()(done.ledger).savefig, format="png", dpi=160)
        write_atomically(output / "accuracy.png", draw)
    for hint in evaluation.hints(done.ledger, threat, images.shape, len(images.classes)):
        click.echo(f"Note: {hint}", err=True)
    click.echo(evaluation.table(done.ledger))
    if pilot and (missed := done.ledger.left_out(pilot)):
        click.echo(f"\nleft out after {pilot:,} images, of which they broke none: {missed}")
    click.echo(f"\nledger, record and figure: {output}")
    if done.exported is not None:
        click.echo(
            f"adversarial images: {save}\n{done.exported.rounded:,} of {done.exported.images:,} "
            "still fool the network as PNG, rounded to 8 bits"
        )
        if done.exported.missing > 0:
            click.echo(
                f"Note: {done.exported.missing:,} successes are of a run without --save; for all, "
                f"begin again with another --output",
                err=True,
            )
