"""The adversarial images of an evaluation, kept while it runs and handed over as two kinds of file.

Pixels of a file with 8 bits are rounded. Whether an image still fools the network then is asked
again, and the answer told.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.gradients import Model, evaluating, guard
from mpkit.core import trees
from mpkit.core.files import DataError, packed, unpacked, write_atomically
from mpkit.core.records import write_text
from mpkit.evaluation.ledger import Ledger
from mpkit.evaluation.resume import DONE, Unit
from mpkit.models.anatomy import hash_of
from mpkit.sets import PerturbationSet, Union

FILE, MARK = "adversarial.safetensors", ".evaluation"
PNG_CHANNELS = (1, 3)  # images of other numbers of channels are kept as tensors alone


class Found(NamedTuple):
    """Successes of one attack on one batch: its set, their coordinates in it, and which set of
    the ledger (n,) each lies in.
    """

    threat: PerturbationSet
    z: Any
    within: Tensor

    @property
    def plain(self) -> Any:
        """Coordinates in the parts of a union where they lie, which must be of one kind."""
        return _plain(self.threat, self.z)


def _plain(threat: PerturbationSet, z: Any) -> Any:
    if not isinstance(threat, Union):
        return z
    which, coordinates = z
    chosen = None
    for i in sorted(set(which.tolist())):
        part = _plain(threat.sets[i], coordinates[i])
        chosen = part if chosen is None else trees.where(which == i, part, chosen)
    return chosen


class Exported(NamedTuple):
    """How many images were written, how many fool the network in 8 bits, and how many are missing.

    Missing are the successes of a run that was begun without keeping its images.
    """

    images: int
    rounded: int
    missing: int


@dataclass(frozen=True)
class AdversarialImages:
    """Keeps the image of every success in a folder, part by part, so that a stopped run goes on.

    Args:
        folder: made where it is missing.
    """

    folder: Path

    @property
    def parts(self) -> Path:
        """Where the images lie until all are there."""
        return self.folder / ".parts"

    def begin(self, ledger: Ledger) -> None:
        """Take the folder for one evaluation, or find it taken by the same.

        Raises: DataError: it holds images of another one.
        """
        take_folder(
            self.folder,
            ledger,
            f"{self.folder}: holds the images of another evaluation; name another folder with "
            "--save, or remove that one",
        )

    def __call__(self, unit: Unit, rows: Tensor, images: Tensor, found: Found) -> None:
        """Keep images (n, C, H, W), the successes of one attack on one batch, and their rows."""
        self.parts.mkdir(parents=True, exist_ok=True)
        content = packed({"x": images, "example": rows})
        path = self.parts / f"{unit.batch:06d}-{unit.row:03d}.safetensors"
        write_atomically(path, lambda file: file.write(content))

    def export(self, ledger: Ledger, model: Model) -> Exported:
        """Write ``adversarial.safetensors`` and a PNG of each image, named by example and attack.

        The file holds x (M, C, H, W), and for each image its example, its label, the row of the
        ledger that found it, and whether the PNG fools the network too.

        Args:
            ledger: the finished one.
            model: asked again about the rounded images.
        """
        found = []
        for path in sorted(self.parts.glob("*.safetensors")):
            tensors, _ = unpacked(path)
            row = torch.full_like(tensors["example"], int(path.stem.partition("-")[2]))
            found.append((tensors["x"], tensors["example"], row))
        successes = int(ledger.broken[1:].sum())
        missing = successes - sum(len(part[0]) for part in found)
        if missing and (self.folder / FILE).is_file():  # all of it was done before
            kept = unpacked(self.folder / FILE)[0]["fools_in_8_bits"]
            return Exported(len(kept), int(kept.sum()), successes - len(kept))
        if not found:
            return Exported(0, 0, missing)
        x, example, row = (torch.cat(part) for part in zip(*found, strict=True))
        y = ledger.labels[example]
        rounded = (x * 255).round() / 255
        with evaluating(model), torch.no_grad():
            asked = guard(model, 2, y)
            answers = [asked(part).argmax(1).cpu() for part in torch.split(rounded, 256)]
        wrong = torch.cat(answers) != y
        words = {"attacks": "\n".join(ledger.names), "classes": "labels of the data set"}
        tensors = {"x": x, "example": ledger.examples[example], "label": y, "attack": row}
        content = packed({**tensors, "fools_in_8_bits": wrong}, **words)
        write_atomically(self.folder / FILE, lambda file: file.write(content))
        for image, n, k in zip(rounded, ledger.examples[example], row, strict=True):
            if x.shape[1] not in PNG_CHANNELS:
                break
            name = f"{int(n):05d}-{ledger.names[int(k)]}".replace(" ", "-").replace("/", "_")
            _write_png(image, self.folder / f"{name.replace(':', '')}.png")
        shutil.rmtree(self.parts, ignore_errors=True)
        return Exported(len(x), int(wrong.sum()), missing)


def take_folder(folder: Path, ledger: Ledger, refusal: str) -> None:
    """Take a folder for one evaluation, or find it taken by the same.

    Raises: DataError: it belongs to another one; with the words given.
    """
    mine, mark = _key(ledger), folder / MARK
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() != mine:
        raise DataError(refusal)
    write_text(mark, mine + "\n")


def _key(ledger: Ledger) -> str:
    """What makes an evaluation this one: network, attacks, seed, images, labels."""
    names, sets, facts = ledger.words()
    who = {name: ledger.facts[name] for name in ("model", "settings")}
    rest = {name: value for name, value in facts.items() if name != DONE}
    tensors = ledger.prints.tolist(), ledger.labels.tolist(), ledger.examples.tolist()
    return hash_of((names, sets, sorted(rest.items()), sorted(who.items()), tensors))


def _write_png(image: Tensor, path: Path) -> None:
    from PIL import Image

    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    write_atomically(path, lambda file: picture.save(file, format="PNG"))
