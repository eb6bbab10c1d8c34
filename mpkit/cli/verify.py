"""The command ``mpkit verify``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from mpkit.cli.options import device, root


@click.command()
@click.argument("target", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--model", "spec", metavar="NAME", help="The network, if not the one that the record names."
)
@click.option(
    "--weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Its weights, the file that was evaluated; those of the zoo come with the package.",
)
@click.option("--data", "dataset", help="The images, if not those that the record names.")
@root
@device
def verify(
    target: Path,
    spec: str | None,
    weights: Path | None,
    dataset: str | None,
    root: Path | None,
    device: str,
) -> None:
    """Compute the numbers of an evaluation again from its witnesses, without an attack.

    TARGET is what mpkit evaluate --witnesses left, a folder with record.json and
    witnesses.safetensors, or the record of a study, beside which its witnesses lie. For every
    broken example and set the file holds the perturbation that broke it. Each is checked to lie
    in its set, in 64-bit numbers, and shown to the network; then all accuracies follow. The
    command says that the record is confirmed, or names what is not, and ends with code 1.

    \b
    Examples:
      mpkit verify evaluation --weights w.safetensors
      mpkit verify evaluation --weights w.safetensors --model my_nets:resnet --data mine.npz
      mpkit verify book/results/mnist/mnist-avg-seed0.json
    """
    from mpkit import evaluation
    from mpkit.core.records import read_record

    begun, of_study = time.monotonic(), target.is_file()
    record = read_record(target if of_study else target / "record.json")
    check = _study if of_study else _folder
    verdicts, recorded = check(target, record, spec, weights, dataset, root, device)
    rows, failures = _compared(verdicts, recorded)
    click.echo(evaluation.columns(("accuracy", "witnesses", "record", "", "95 % interval"), rows))
    if failures:
        shown = [*failures[:8], *([f"and {len(failures) - 8} more"] * (len(failures) > 8))]
        raise click.ClickException("not confirmed:\n  " + "\n  ".join(shown))
    count, spent = len(next(iter(verdicts.values())).broken), time.monotonic() - begun
    click.echo(f"\nconfirmed: {count:,} images, no attack run, {spent:.0f} s")


def _folder(
    folder: Path,
    record: dict[str, Any],
    spec: str | None,
    weights: Path | None,
    dataset: str | None,
    root: Path | None,
    device: str,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Verdicts and recorded accuracies of what mpkit evaluate --witnesses left."""
    import torch

    from mpkit import data, evaluation, models, sets
    from mpkit.evaluation import witnesses

    asked, file = record.get("parameters", {}), folder / witnesses.FILE
    _require(record, file, weights, asked.get("sha256"), asked.get("weights"))
    images = data.load(dataset or asked["data"], "test", root).first(asked["points"])
    network = models.load_model(
        spec or asked["model"], weights, images.shape, len(images.classes), device
    )
    where = next((p.device for p in network.parameters()), torch.device("cpu"))
    threat, at = sets.parse_threat(asked["threat"]), images.to(where)
    found = evaluation.verify(file, network, at.x, at.y, threat)
    return found, record["ledger"]["accuracy"]


def _study(
    path: Path,
    record: dict[str, Any],
    spec: str | None,
    weights: Path | None,
    dataset: str | None,
    root: Path | None,
    device: str,
) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Verdicts and recorded accuracies of a network of a study."""
    from mpkit import data, models
    from mpkit.studies import zoo
    from mpkit.studies.protocol import confirmed
    from mpkit.studies.study import witnesses_of

    if "evaluation" not in record:
        raise ValueError(f"{path}: is no record of a study; give a folder of mpkit evaluate")
    shipped = zoo.SHIPPED / f"{record['recipe']}.safetensors"
    if weights is None and record["seed"] == 0 and shipped.is_file():
        weights = shipped
    kept, file = record["weights"], witnesses_of(path)
    _require(record, file, weights, kept["sha256"], kept["file"])
    images = data.load(dataset or record["parameters"]["data"], "test", root)
    network = models.load_model(
        spec or record["settings"]["network"], weights, images.shape, len(images.classes), device
    )
    return confirmed(record, file, network, images), record["evaluation"]["accuracy"]


def _require(
    record: dict[str, Any], file: Path, weights: Path | None, sha256: str | None, name: str | None
) -> None:
    """Refuse other witnesses or other weights than those that the record tells of.

    Raises: ValueError: one differs, or is missing.
    """
    from mpkit.core.files import file_hash

    if "witnesses" not in record or not file.is_file():
        raise ValueError(f"{file}: holds no witnesses; evaluate with --witnesses")
    problems = []
    if file_hash(file) != record["witnesses"]:
        problems.append(f"{file}: is not the file that the record tells of (its sha256 differs)")
    if sha256 is not None and (weights is None or file_hash(weights) != sha256):
        given = "no --weights given" if weights is None else f"--weights: {weights}"
        problems.append(f"{given}: {name} was evaluated, sha256 {sha256}")
    if problems:
        raise ValueError("; ".join(problems))


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
