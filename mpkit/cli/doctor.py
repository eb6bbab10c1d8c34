"""The command ``mpkit doctor``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from mpkit.cli.options import count, device, require_place, subject_options, threat_of
from mpkit.cli.options import seed as seed_option


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
) -> None:
    """Look for gradient masking: robustness that only gradient attacks believe in.

    An attack that follows gradients finds nothing where gradients vanish, lie or drown in chance,
    and a network then looks robust without being so. The doctor attacks the network with and
    without its gradients and compares, image by image.

    For every perturbation set it prints the accuracy under gradient (first-order) attacks and
    under everything it tried, with 95 % intervals, and a verdict:

    \b
      no sign     everything agrees; stronger attacks may still exist
      suspicious  something is unusual, but nothing more was broken: read the advice
      masked      proven: the accuracy under gradient attacks is not to be believed

    with the evidence and what to do. It changes nothing in the network, and its exit code does
    not depend on the verdict. Attacks that see labels alone need one more package: pip install
    foolbox. Takes a minute for a small network on a CPU; progress goes to standard error.

    \b
    Examples:
      mpkit doctor --model small_cnn --weights w.safetensors
      mpkit doctor --model my_nets:resnet --weights w.safetensors --data cifar10 \\
          --threat 'linf:8/255 + l2:0.5' --points 100 --json report.json

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
    rng = torch.Generator(where).manual_seed(seed)
    bar = Bar("examining")
    report = masking.diagnose(network, images.x, images.y, threat, rng, progress=bar)
    click.echo(report.text())
    if file is None:
        return
    parameters = {
        "model": spec,
        "weights": weights and weights.name,
        "data": dataset,
        "threat": threat.describe(),
        "points": len(images),
        "seed": seed,
        "device": device,
    }
    record = records.provenance(parameters, records.CHECKOUT, time.monotonic() - begun, "doctor")
    records.write_record(file, {**record, "report": report.describe()})
    click.echo(f"\nrecord: {file}")
