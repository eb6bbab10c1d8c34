"""What the networks of the zoo hide on MNIST: thresholds, landscapes, attacks with and without
gradients, and the doctor's opinion. The page *Gradient masking on MNIST* is made from its record.

Needs MNIST. It takes about half an hour on one core, can be stopped at any time, and goes on where
it was; a change of the code or of an option makes it begin again.

    MPKIT_DATA=folder python -m benchmarks.masking.mnist
    MPKIT_DATA=folder python -m benchmarks.masking.mnist --again doctor
    MPKIT_DATA=folder python -m benchmarks.masking.mnist --models mnist-rt mnist-max-rt \
        --output book/results/masking-poses.json

The second does some parts anew, where only their code has changed, and keeps the others of the
record, which says so. The third makes the record of the networks that were trained for poses.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.records import again as earlier
from mpkit import attacks, data, masking, sets
from mpkit.attacks import (
    APGD,
    FMN,
    PGD,
    SLIDE,
    Attack,
    Boundary,
    BoundaryStart,
    CrossEntropy,
    GreedyPixels,
    HopSkipJump,
    Margin,
    Pointwise,
    Square,
)
from mpkit.attacks.gradients import climb, guard
from mpkit.core import records
from mpkit.evaluation import verified
from mpkit.studies import zoo
from mpkit.studies.protocol import bits_as_text, pixels_as_text

ROOT = Path(__file__).parents[2]
NETWORKS = [f"mnist-{name}" for name in "natural linf l2 l1 max avg tuned tuned-on msd".split()]
NORMS = ("linf", "l2", "l1")
FIRST_ORDER = ("pgd", "slide", "apgd")  # they follow the gradient from the image, or near it
DEPTHS = {"first layer": 3, "second layer": 5, "logits": None}  # of small_cnn, after each ReLU
POINTS = 21  # of every curve
QUARTILES = (0.25, 0.5, 0.75)
EFFORT = (30, 200, 12, 32, 4)  # the doctor's, about half of the usual
Record = dict[str, Any]


def numbers(values: Tensor, places: int = 4) -> Any:
    """A tensor as lists of short numbers."""
    return values.detach().double().cpu().mul(10**places).round().div(10**places).tolist()


@torch.no_grad()
def response(layers: nn.Module, x: Tensor, rng: torch.Generator) -> dict[str, list[float]]:
    """How far the output moves as half of an image's black or white pixels move by v.

    Args:
        layers: images (N, C, H, W) to anything (N, ...).
        x: (N, C, H, W) in [0, 1].
        rng: draws the half.

    Returns: for black pixels (0, raised to v) and white ones (over 0.95, lowered to 1 - v) the
    mean distance, at v from 0 to 1, as a share of that at v = 1.
    """
    half = torch.rand(x.shape, generator=rng, dtype=x.dtype, device=x.device) < 0.5
    still, curves = layers(x).flatten(1), {}
    for kind, chosen in {"black": x == 0, "white": x > 0.95}.items():
        moved = [
            torch.where(half & chosen, v if kind == "black" else 1 - v, x)
            for v in torch.linspace(0, 1, POINTS, dtype=x.dtype)
        ]
        far = torch.stack([(layers(m).flatten(1) - still).norm(dim=1).mean() for m in moved])
        curves[kind] = numbers(far / far[-1])
    return curves


def arms(ball: sets.Ball, scale: float = 1.0) -> dict[str, Attack]:
    """The attacks that are compared in a ball, those that follow the gradient first.

    Args:
        ball: with its box.
        scale: multiplies the length of every search.
    """

    def n(steps: int) -> int:
        return max(1, round(scale * steps))

    auto = (APGD(ball, n(100), CrossEntropy()), APGD(ball, n(100), Margin()))
    found: dict[str, Attack] = {"pgd": attacks.Restarts(PGD(ball, n(100), loss=Margin()), 3)}
    if isinstance(ball, sets.L1):
        found["slide"] = attacks.Restarts(SLIDE(ball, n(100), loss=Margin()), 3)
    found["apgd"] = attacks.Worst(auto, Margin())
    found["square"] = Square(ball, n(1000))
    if isinstance(ball, sets.L1):
        found["pointwise"] = Pointwise(ball)
    else:
        found["hopskipjump"] = HopSkipJump(ball, steps=n(10))
    if isinstance(ball, sets.L2):
        found["boundary"] = Boundary(ball, n(10000))
    near = tuple(FMN(ball, n(100), start=BoundaryStart(k)) for k in (0, 2, 8))
    found["across"] = attacks.Worst(near, Margin())
    if isinstance(ball, sets.L1 | sets.L2):
        short, deep = (
            GreedyPixels(ball, tries=24, swaps=0, first=0),
            GreedyPixels(ball, tries=n(96)),
        )
        found["pixels"] = attacks.Worst((short, deep, replace(deep, first=0)), Margin())
    return found


def contest(model: nn.Module, images: data.Images, ball: sets.Ball, scale: float) -> Record:
    """Who survives each attack, the margin along three lines, and an example of what was missed."""
    standing, seconds, reached = {}, {}, {}
    for name, attack in arms(ball, scale).items():
        begun = time.monotonic()
        found = attack(model, images.x, images.y, torch.Generator().manual_seed(0))
        image, counts = verified(name, attack.set, images.x, found)
        with torch.no_grad():
            standing[name] = (model(image).argmax(1) == images.y) | ~counts
        seconds[name], reached[name] = round(time.monotonic() - begun, 1), image
    seen = torch.stack([standing[name] for name in standing if name in FIRST_ORDER]).all(0)
    missed = (seen & ~standing["across"]).nonzero().flatten().tolist()
    return {
        "standing": {name: bits_as_text(bits) for name, bits in standing.items()},
        "seconds": seconds,
        "lines": lines(model, images, ball, reached["across"] - images.x, ~standing["across"]),
        "example": _example(images, reached, missed[0]) if missed else None,
        "few": _few(images, reached["pixels"], standing) if "pixels" in reached else None,
    }


def _few(images: data.Images, image: Tensor, standing: dict[str, Tensor]) -> Record | None:
    """Of the images that only whole pixels broke, the one where the fewest were changed."""
    others = torch.stack([bits for name, bits in standing.items() if name != "pixels"]).all(0)
    count = ((image - images.x) != 0).any(1).flatten(1).sum(1)
    count = torch.where(others & ~standing["pixels"], count, image[0].numel() + 1)
    i = int(count.argmin())
    if int(count[i]) > image[0].numel():
        return None
    pictures = {"clean": images.x, "found": image}
    return {
        "index": i,
        "label": int(images.y[i]),
        "count": int(count[i]),
        "pixels": {name: pixels_as_text(x[i : i + 1]) for name, x in pictures.items()},
    }


def _example(images: data.Images, reached: dict[str, Any], i: int) -> Record:
    """An image that no gradient search broke, and what was found from the border."""
    shown = {"clean": images.x, "apgd": reached["apgd"], "found": reached["across"]}
    pictures = {name: pixels_as_text(x[i : i + 1]) for name, x in shown.items()}
    return {"index": i, "label": int(images.y[i]), "pixels": pictures}


def on_black(x: Tensor, change: Tensor) -> list[float]:
    """Quartiles of the share of a change's squared length that lies on black pixels of x."""
    squares = change.square()
    shares = (squares * (x == 0)).flatten(1).sum(1) / squares.flatten(1).sum(1)
    return numbers(shares.quantile(torch.tensor(QUARTILES, dtype=x.dtype)))  # type: ignore[no-any-return]


@torch.no_grad()
def lines(
    model: nn.Module, images: data.Images, ball: sets.Ball, z: Tensor, broken: Tensor
) -> Record:
    """Quartiles of the margin on the way to the edge of the ball, over right images.

    Along the gradient and a random direction for all of them; towards what was found from the
    border for those that were broken there.
    """
    right = model(images.x).argmax(1) == images.y
    x, y, rng = images.x[right], images.y[right], torch.Generator().manual_seed(0)
    margins = dict(
        zip(("gradient", "random"), masking.landscape(model, x, y, ball, rng, POINTS), strict=True)
    )
    slope = climb(guard(model, 2, y), Margin(), x, y).gradient
    black = {"pixels": on_black(x, torch.ones_like(x)), "gradient": on_black(x, slope)}
    shares = torch.linspace(0, 1, POINTS, dtype=x.dtype)
    x, y, z = (rows[right & broken] for rows in (images.x, images.y, z))
    if len(x):
        margins["found"] = torch.stack([Margin()(model(x + s * z), y) for s in shares], 1)
        black["found"] = on_black(x, z)
    quarters = torch.tensor(QUARTILES, dtype=x.dtype)
    up, anywhere = (margins[key][:, 1:].amax(1) for key in ("gradient", "random"))
    return {
        "quartiles": {key: numbers(m.quantile(quarters, 0), 2) for key, m in margins.items()},
        "on black": black,
        "images": {key: len(m) for key, m in margins.items()},
        "gradient climbs higher": float((up > anywhere).double().mean()),
        "gradient arrives": float((up > 0).double().mean()),
    }


def opinion(model: nn.Module, images: data.Images, effort: masking.Effort) -> Record:
    """The doctor's report on the three norms."""
    threat = sets.Union(*(sets.usual(images.name, images.shape)[key] for key in NORMS))
    rng = torch.Generator().manual_seed(0)
    return brief(masking.diagnose(model, images.x, images.y, threat, rng, effort).describe())


def brief(report: Record) -> Record:
    """A report without what its findings leave empty, which would be a twentieth of the record."""
    for found in (report["general"], *(one["evidence"] for one in report["sets"].values())):
        found[:] = [{k: v for k, v in one.items() if v not in ("", None)} for one in found]
    return report


def parts(
    model: nn.Module, images: data.Images, scale: float = 1.0
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The pieces of work for a network, each with its name."""
    balls: Any = sets.usual(images.name, images.shape)

    def depths() -> Record:
        rng = torch.Generator()
        cut = {name: model[:end] if end else model for name, end in DEPTHS.items()}  # type: ignore[index]
        return {k: response(part, images.x, rng.manual_seed(0)) for k, part in cut.items()}

    yield "response", depths
    for key in NORMS:
        yield key, partial(contest, model, images, balls[key], scale)
    effort = masking.Effort(*(max(2, round(scale * count)) for count in EFFORT))
    yield "doctor", partial(opinion, model, images, effort)


def piece(file: Path, key: str, work: Callable[[], Any]) -> Record:
    """Do a piece of work, or read what it gave when it was done before with the same key."""
    if file.is_file() and (done := records.read_record(file)).get("key") == key:
        return done
    begun = time.monotonic()
    found = work()
    done = {"key": key, "seconds": round(time.monotonic() - begun, 1), "found": found}
    records.write_record(file, done)
    return done


def kept(path: Path, again: list[str], points: int) -> tuple[dict[str, Record], Record]:
    """The parts of a record that are not done again, by network, and where they come from.

    Raises: ValueError: the record is of other images.
    """
    if not again:
        return {}, {}
    old = records.read_record(path)
    if old["parameters"]["points"] != points:
        raise ValueError(f"{path} has {old['parameters']['points']} images, not {points}")
    found = {
        name: {part: value for part, value in network.items() if part not in again}
        for name, network in old["networks"].items()
    }
    return found, earlier(old, {"parts": again})


def sources() -> str:
    """The digest of all code that a result depends on."""
    files = [Path(__file__), *sorted((ROOT / "mpkit").rglob("*.py"))]
    return records.digest([file.read_text() for file in files])


def main() -> None:
    """Do what is missing and write the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=NETWORKS)
    parser.add_argument("--points", type=int, default=100, help="test images, from the first on")
    parser.add_argument("--work", type=Path, default=ROOT / "_build" / "masking")
    parser.add_argument("--output", type=Path, default=ROOT / "book" / "results" / "masking.json")
    parser.add_argument("--again", nargs="+", default=[], choices=["response", *NORMS, "doctor"])
    given = parser.parse_args()
    torch.set_num_threads(1)
    old, origin = kept(given.output, given.again, given.points)
    images, code = data.load("mnist", "test").first(given.points), sources()
    networks: dict[str, Record] = {}
    duration = 0.0
    for name in given.models:
        model, card = zoo.load(name), zoo.card(name)
        key = records.digest(code, card.sha256, given.points)
        same = old.get(name, {}) if old.get(name, {}).get("sha256") == card.sha256 else {}
        networks[name] = same | {"about": card.about, "sha256": card.sha256}
        for part, work in parts(model, images):
            if part in networks[name]:
                continue
            done = piece(given.work / f"{name}-{part}.json", key, work)
            networks[name][part] = done["found"]
            duration += done["seconds"]
            print(f"{name} {part}: {done['seconds']} s", flush=True)
    chosen = {k: v for k, v in vars(given).items() if k not in ("work", "output", "again")}
    parameters = {**chosen, "data": "mnist", "seed": 0, "threads": 1}
    made = records.provenance(parameters, ROOT, duration, "benchmark")
    made["versions"]["foolbox"] = metadata.version("foolbox")
    command = "python -m benchmarks.masking.mnist"
    if given.models != NETWORKS:
        output = given.output.resolve()
        output = output.relative_to(ROOT) if output.is_relative_to(ROOT) else output.name
        command += f" --models {' '.join(given.models)} --output {output}"
    records.write_record(given.output, {**made, **origin, "command": command, "networks": networks})


if __name__ == "__main__":
    main()
