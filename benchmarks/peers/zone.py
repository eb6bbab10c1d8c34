"""AutoAttack on the network behind a dead zone: as it is, and with the slope of a straight line.

A dead zone has no slope at black and white pixels, so AutoAttack as it is follows few gradients.
With the straight line's slope 1 / (1 - a) backwards it sees where they lead; the values are those
of the network either way. The page *A threshold on purpose* sets both beside the suite, which is
told of the layer, on the same test images. A rank zone hands the straight line's slope back by
itself, so behind one AutoAttack runs once (*A threshold that counts*). Needs the extra `compare`
(pyautoattack) and MNIST. It goes on where it was, and what the record has already is not made
again; 100 images take about a quarter of an hour on one core, behind the rank zone two minutes.

    MPKIT_DATA=folder OMP_NUM_THREADS=1 python -m benchmarks.peers.zone --points 300
    MPKIT_DATA=folder OMP_NUM_THREADS=1 python -m benchmarks.peers.zone --points 1000 \
        --network mnist-random@rank20 --output book/results/rank-zone-autoattack.json
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.records import begin, options, write
from benchmarks.peers.union import NORMS, PIECE, by_autoattack, pieces
from mpkit.attacks.dead_zone import Behind, Straight
from mpkit.core import records
from mpkit.core.statistics import proportion
from mpkit.models import RankRule, front_of
from mpkit.studies import zoo

NETWORK = "mnist-random@0.3"
WAYS = ("as it is", "straight through")


class StraightLine(nn.Module):
    """A network behind a dead zone with the values it has and the slope of a straight line.

    The values hold to a millionth of each pixel behind the zone, which keeps black and white there
    where a slope is.

    Args:
        network: with a dead zone of that width in front.
        a: the width.
    """

    def __init__(self, network: nn.Module, a: float) -> None:
        super().__init__()
        self.network = network
        self.straight = Straight(Behind(network, a))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [0, 1] to logits."""
        logits: Tensor = self.straight(x)
        return logits


def together(parts: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Accuracies of all pieces with intervals, for each way in each norm and in the union."""
    found: dict[str, dict[str, list[float]]] = {}
    for way in (way for way in WAYS if all(way in part for part in parts.values())):
        left = {
            norm: torch.tensor([bit for part in parts.values() for bit in part[way]["left"][norm]])
            for norm in NORMS
        }
        left["union"] = torch.stack([*left.values()]).amin(0)
        found[way] = {norm: list(proportion(one.bool())) for norm, one in left.items()}
    return found


def main() -> None:
    """Attack piece after piece in both ways, and write the record after each."""
    parser = options(__doc__, "book/results/zone-autoattack.json", 300)
    parser.add_argument("--network", default=NETWORK, help="of the zoo, behind a zone")
    given, _ = begin(parser)
    network = zoo.load(given.network)
    ways, front = {WAYS[0]: network}, front_of(network)
    if not isinstance(front, RankRule):
        ways[WAYS[1]] = StraightLine(network, front or 0.0)
    code = inspect.getsource(by_autoattack), version("pyautoattack"), torch.__version__
    key = records.digest(zoo.card(given.network).sha256, PIECE, *code)
    old = records.read_record(given.output)["pieces"] if given.output.is_file() else {}
    parts = {number: part for number, part in old.items() if part["key"] == key}
    for number, images in enumerate(pieces(given.points)):
        if str(number) not in parts:
            made = {way: by_autoattack(model, images) for way, model in ways.items()}
            parts[str(number)] = {"key": key, **made}
        spent = sum(sum(part[way]["seconds"].values()) for part in parts.values() for way in ways)
        content = {"network": given.network, "accuracy": together(parts), "pieces": parts}
        facts = {"pyautoattack": version("pyautoattack"), "piece": PIECE}
        write(given, spent, content, {**facts, "points": PIECE * len(parts)})
        told = {way: f"{100 * row['union'][0]:.1f}" for way, row in content["accuracy"].items()}
        print(PIECE * len(parts), "images, union left:", told, f"{spent:.0f} s", flush=True)


if __name__ == "__main__":
    main()
