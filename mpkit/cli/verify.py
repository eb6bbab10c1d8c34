"""The command ``mpkit verify``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from mpkit.cli.options import device, root


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--model", "spec", metavar="NAME", help="The network, if not the one that the record names."
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Its weights, the file that was evaluated.",
)
@click.option("--data", "dataset", help="The images, if not those that the record names.")
@root
@device
def verify(
    folder: Path,
    spec: str | None,
    weights: Path | None,
    dataset: str | None,
    root: Path | None,
    device: str,
) -> None:
    """Compute the numbers of an evaluation again from its witnesses, without an attack.

    FOLDER is what mpkit evaluate --witnesses left: record.json and witnesses.safetensors. For
    every broken example and set the file holds the perturbation that broke it. Each is checked to
    lie in its set, in 64-bit numbers, and shown to the network; then all accuracies follow. The
    command says that the record is confirmed, or names what is not, and ends with code 1.

    \b
    Examples:
      mpkit verify evaluation --weights w.safetensors
      mpkit verify evaluation --weights w.safetensors --model my_nets:resnet --data mine.npz
    """
    import torch

    from mpkit import data, evaluation, models, sets
    from mpkit.core.files import file_hash
    from mpkit.core.records import read_record
    from mpkit.evaluation import witnesses

    begun, record = time.monotonic(), read_record(folder / "record.json")
    asked, file = record.get("parameters", {}), folder / witnesses.FILE
    if "witnesses" not in record or not file.is_file():
        raise ValueError(f"{folder}: holds no witnesses; evaluate with --witnesses")
    problems = []
    if file_hash(file) != record["witnesses"]:
        problems.append(f"{file}: is not the file that the record tells of (its sha256 differs)")
    if asked["sha256"] is not None and (weights is None or file_hash(weights) != asked["sha256"]):
        given = "no --weights given" if weights is None else f"--weights: {weights}"
        problems.append(f"{given}: {asked['weights']} was evaluated, sha256 {asked['sha256']}")
    if problems:
        raise ValueError("; ".join(problems))
    images = data.load(dataset or asked["data"], "test", root).first(asked["points"])
    network = models.load_model(
        spec or asked["model"], weights, images.shape, len(images.classes), device
    )
    where = next((p.device for p in network.parameters()), torch.device("cpu"))
    threat, at = sets.parse_threat(asked["threat"]), images.to(where)
    verdicts = evaluation.verify(file, network, at.x, at.y, threat)
    rows, failures = _compared(verdicts, record["ledger"]["accuracy"])
    click.echo(evaluation.columns(("accuracy", "witnesses", "record", "", "95 % interval"), rows))
    spent = time.monotonic() - begun
    if failures:
        shown = [*failures[:8], *([f"and {len(failures) - 8} more"] * (len(failures) > 8))]
        raise click.ClickException("not confirmed:\n  " + "\n  ".join(shown))
    click.echo(f"\nconfirmed: {len(images):,} images, no attack run, {spent:.0f} s")


def _compared(
    verdicts: dict[str, Any], recorded: dict[str, list[float]]
) -> tuple[list[tuple[str, ...]], list[str]]:
    """Lines of the table, and what speaks against the record."""
    rows, failures = list[tuple[str, ...]](), list[str]()
    for name, verdict in verdicts.items():
        failures += [f"{name}, example {i}: {why}" for i, why in verdict.fallen.items()]
        if name not in recorded:
            continue
        found, told = verdict.accuracy, recorded[name]
        between = f"{100 * found.low:.1f} to {100 * found.high:.1f}"
        share = f"{100 * found.value:.1f} %"
        rows.append((name, f"{verdict.held:,}", f"{100 * told[0]:.1f} %", share, between))
        if max(abs(a - b) for a, b in zip(found, told, strict=True)) > 1e-9:
            failures.append(f"{name}: the witnesses give {share}, the record {100 * told[0]:.1f} %")
    return rows, failures
