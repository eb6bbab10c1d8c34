"""The command ``mpkit doctor``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mpkit.cli.options import count, device, require_place, subject_options, threat_of
from mpkit.cli.options import seed as seed_option

FAILED = 3
"""The exit code of a verdict that --fail-on names; 1 is that of mistakes, 2 of unknown options."""


@click.command()
@subject_options
@count("--points", default=150, help="Test images, from the first on; 100 to 200 do well.")
@seed_option
@device
@click.option(
    "--json",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all evidence, with intervals, to this file too.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["never", "suspicious", "masked"]),
    default="never",
    show_default=True,
    help="Exit with code 3 at this verdict or a worse one.",
)
@click.option(
    "--active",
    "only",
    is_flag=True,
    help="Only plant adversarial examples in the sets, and ask whether attacks find them; where "
    "they do not, --fail-on counts it as masked.",
)
def doctor(
    spec: str,
    weights: Path | None,
    dataset: str,
    root: Path | None,
    words: str,
    points: int,
    seed: int,
    device: str,
    file: Path | None,
    fail_on: str,
    only: bool,
) -> None:
    """Look for gradient masking: robustness that only gradient attacks believe in.

    An attack that follows gradients finds nothing where gradients vanish, lie or drown in chance,
    and a network then looks robust without being so. The doctor attacks the network with and
    without its gradients and compares, image by image.

    It prints the likely cause and where in the network it is, the proof, and for every
    perturbation set the accuracy under gradient (first-order) attacks and under everything it
    tried, with 95 % intervals, whether that looks final, and a verdict:

    \b
      no sign     everything agrees; stronger attacks may still exist
      suspicious  something is unusual, but nothing more was broken: read the advice
      masked      proven: the accuracy under gradient attacks is not to be believed

    and last what to do. It changes nothing in the network. The exit code is 0, or 1 for a
    mistake in what was asked; with --fail-on it is 3 for the verdicts named there. Attacks that
    see labels alone need foolbox (pip install foolbox). Takes a minute for a small network on a
    CPU; progress goes to standard error.

    \b
    Examples:
      mpkit doctor --model small_cnn --weights w.safetensors
      mpkit doctor --model my_nets:resnet --weights w.safetensors --data cifar10 \\
          --threat 'linf:8/255 + l2:0.5' --points 100 --json report.json --fail-on masked

    \b
    my_nets.py in the current folder then holds:
      def resnet(shape, classes):      # takes images in [0, 1], gives logits
          return MyResNet(shape[0], classes)
    """
    import torch

    from mpkit import data, masking, models
    from mpkit.core import records
    from mpkit.core.progress import Bar

    if file is not None:
        require_place("--json", file)
    images = data.load(dataset, "test", root).first(points)
    threat = threat_of(words, dataset, images.shape)
    network = models.load_model(spec, weights, images.shape, len(images.classes), device)
    where = next((p.device for p in network.parameters()), torch.device("cpu"))
    images = images.to(device=where)
    begun = time.monotonic()
    rng, bar = torch.Generator(where).manual_seed(seed), Bar("examining")
    told: dict[str, object]
    if only:
        found = masking.active(network, images.x, images.y, threat, rng)
        worst = max(evidence.weight for evidence in found.values()) >= masking.Weight.SIGN
        for name, evidence in found.items():
            advice = f". {evidence.advice}" if evidence.advice else ""
            click.echo(f"{name}: {evidence.finding}{advice}")
        told = {"active": {name: evidence.describe() for name, evidence in found.items()}}
        verdict = masking.Verdict.MASKED if worst else masking.Verdict.NO_SIGN
    else:
        report = masking.diagnose(network, images.x, images.y, threat, rng, progress=bar)
        click.echo(report.text())
        told, verdict = {"report": report.describe()}, report.verdict
    parameters = {
        "model": spec,
        "weights": weights and weights.name,
        "data": dataset,
        "threat": threat.describe(),
        "points": len(images),
        "seed": seed,
        "device": device,
    }
    if file is not None:
        seconds = time.monotonic() - begun
        record = records.provenance(parameters, records.CHECKOUT, seconds, "doctor")
        records.write_record(file, {**record, **told})
        click.echo(f"\nrecord: {file}")
    limits = {"suspicious": masking.Verdict.SUSPICIOUS, "masked": masking.Verdict.MASKED}
    if fail_on in limits and verdict >= limits[fail_on]:
        click.get_current_context().exit(FAILED)
