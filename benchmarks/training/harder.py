"""Attacks that the suite does not have, on a network behind a dead zone: what do they still break?

They run on test images that have survived the whole suite in all three norms, and every success is
checked in float64. It can be stopped at any time and goes on where it was.

    MPKIT_DATA=folder python -m benchmarks.training.harder
    MPKIT_DATA=folder python -m benchmarks.training.harder --only beam --points 20
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common.records import RADII, ROOT, Kept, begin, options, write
from mpkit.attacks import (
    APGD,
    FMN,
    Attack,
    AttackResult,
    BehindZone,
    BoundaryStart,
    CrossEntropy,
    GreedyPixels,
    HopSkipJump,
    Margin,
    Pointwise,
    Restarts,
    Square,
    StraightThrough,
    Worst,
)
from mpkit.data import Images, load
from mpkit.evaluation import verified
from mpkit.models import front_of
from mpkit.sets import L1, L2, Ball, Linf
from mpkit.sets.dead_zone import ramp
from mpkit.studies import analysis, zoo
from mpkit.studies.protocol import bits_as_text

BALLS: dict[str, Ball] = {"linf": Linf(RADII["linf"]), "l2": L2(RADII["l2"]), "l1": L1(RADII["l1"])}
OTHERS = ("max", "avg", "random", "tuned", "l1", "l2", "linf")
"""Networks of the zoo whose adversarial images are tried."""


@dataclass(frozen=True)
class Beam:
    """Sets of whole pixels, grown one by one: of all that are tried the best few go on.

    A pixel is turned as far as the ramp needs to be black or white behind it, which is the cheapest
    way. The first two are chosen together, among all pairs of the pixels that gain most alone.

    Args:
        ball: in l_1 or l_2.
        a: the width of the dead zone.
        width: sets that go on.
        tries: pixels that are tried for each of them.
        pairs: pixels of which all pairs are tried.
    """

    ball: L1 | L2
    a: float
    width: int = 8
    tries: int = 200
    pairs: int = 64

    @torch.no_grad()
    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, rng: Any) -> AttackResult:
        """Search image by image."""
        images = torch.cat([self._one(model, x[i : i + 1], y[i : i + 1]) for i in range(len(x))])
        return AttackResult(images, images - x, Margin()(model(images), y))

    def _one(self, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        flat, power = x.flatten(), 1 if isinstance(self.ball, L1) else 2
        turned = torch.where(ramp(flat, self.a) < 0.5, 1 - self.a, self.a).to(flat)
        price = (turned - flat).abs() ** power
        room = float(self.ball.eps) ** power

        def images(sets: Tensor) -> Tensor:
            return torch.where(sets, turned, flat).view(-1, *x.shape[1:])

        def scores(sets: Tensor) -> Tensor:
            parts = [Margin()(model(images(p)), y.expand(len(p))) for p in sets.split(2048)]
            return torch.cat(parts)

        n = len(flat)
        single = torch.eye(n, dtype=torch.bool)
        first = scores(single)
        top = first.topk(self.pairs).indices
        pairs = single[top[:, None]] | single[top]
        upper = torch.triu_indices(self.pairs, self.pairs, 1)
        sets = pairs[upper[0], upper[1]]
        gained = scores(sets)
        order = first.topk(min(n, self.tries)).indices
        best, least = images(sets[gained.argmax()][None]), float(gained.max())
        while True:
            keep = gained.topk(min(self.width, len(gained))).indices
            kept, at = sets[keep], gained[keep]
            if float(at[0]) > least:
                best, least = images(kept[:1]), float(at[0])
            if least > 0:
                return best
            grown = (kept[:, None] | single[order]).flatten(0, 1)
            longer = grown.sum(1) > kept.sum(1).repeat_interleave(len(order))
            fits = (grown * price).sum(1) <= room * (1 - 1e-9)
            sets = torch.unique(grown[longer & fits], dim=0)
            if not len(sets):
                return best
            gained = scores(sets)


def transferred(ball: Ball) -> Callable[..., AttackResult]:
    """Adversarial images of other networks."""

    def attack(model: nn.Module, x: Tensor, y: Tensor, rng: torch.Generator) -> AttackResult:
        best, score = x.clone(), Margin()(model(x), y)
        for name in OTHERS:
            other = zoo.load(f"mnist-{name}")
            searches: list[Attack] = [APGD(ball, 100, Margin()), FMN(ball, 100)]
            if isinstance(ball, L1 | L2):
                searches.append(GreedyPixels(ball, tries=48))
            for search in searches:
                image = search(other, x, y, rng).image
                with torch.no_grad():
                    reached = Margin()(model(image), y)
                better = reached > score
                best[better], score[better] = image[better], reached[better]
        return AttackResult(best, best - x, score)

    return attack


def kinds(ball: Ball, a: float) -> dict[str, Callable[..., AttackResult]]:
    """The attacks by name, quick ones first."""
    runs = [StraightThrough(APGD(ball, 500, loss), a) for loss in (Margin(), CrossEntropy())]
    found: dict[str, Callable[..., AttackResult]] = {"transfer": transferred(ball)}
    found["long"] = Restarts(Worst(tuple(runs), Margin()), 10)
    if isinstance(ball, L1 | L2):
        wide = ball.scaled(1 / (1 - a))
        behind = [BehindZone(APGD(wide, 500, loss), a, ball) for loss in (Margin(), CrossEntropy())]
        found["behind, long"] = Restarts(Worst(tuple(behind), Margin()), 10)
        found["pixels, long"] = GreedyPixels(ball, tries=400, first=0)
        found["beam"] = Beam(ball, a)
    near = tuple(StraightThrough(FMN(ball, 300, start=BoundaryStart(k)), a) for k in range(12))
    found["border, long"] = Worst(near, Margin())
    found["decisions"] = Pointwise(ball) if isinstance(ball, L1) else HopSkipJump(ball, steps=30)
    found["squares, long"] = Square(ball, 20000)
    return found


def measured(
    attack: Callable[..., AttackResult], ball: Ball, model: nn.Module, images: Images
) -> dict[str, Any]:
    """Which images an attack breaks."""
    begun, rng = time.process_time(), torch.Generator().manual_seed(0)
    found = attack(model, images.x, images.y, rng)
    threat = getattr(attack, "set", ball)  # of several runs it is a union, of the ball with itself
    image, counts = verified("an attack", threat, images.x, found)
    with torch.no_grad():
        broken = (model(image).argmax(1) != images.y) & counts
    return {
        "broken": int(broken.sum()),
        "bits": bits_as_text(broken),
        "cpu seconds": round(time.process_time() - begun, 1),
    }


def main() -> None:
    """Do what is missing and write the record."""
    parser = options(__doc__, "book/results/harder.json", 100)
    parser.add_argument("--only", help="one kind of attack")
    parser.add_argument("--network", default="mnist-random@0.3")
    given, begun = begin(parser)
    name = given.network.partition("-")[2]
    tested = analysis.records(ROOT / "book" / "results" / "threshold")[name]
    alive = analysis.standing(tested, "union norms").nonzero().flatten()[: given.points]
    test = load("mnist", "test").first(tested["evaluation"]["points"])
    images = replace(test, x=test.x[alive], y=test.y[alive])
    model = zoo.load(given.network)
    a = front_of(model)
    if a is None:
        raise SystemExit(f"{given.network} has no dead zone in front")
    kept = Kept(given.output, tested["weights"]["sha256"], given.points)
    rows: dict[str, dict[str, Any]] = {}
    for key, ball in BALLS.items():
        for kind, attack in kinds(ball, a).items():
            if given.only in (None, kind):
                row = kept.row(f"{kind}, {key}", lambda: measured(attack, ball, model, images))  # noqa: B023
                rows.setdefault(key, {})[kind] = row
                print(
                    f"{key:5} {kind:14} {row['broken']:4} {row['cpu seconds']:8.1f} s", flush=True
                )
    gone = {bit for part in rows.values() for row in part.values() for bit in _places(row["bits"])}
    content = {
        "rows": rows,
        "survivors": len(images.y),
        "of": int(analysis.standing(tested, "union norms").sum()),
        "broken": len(gone),
        "weights": tested["weights"]["sha256"],
    }
    write(given, kept.seconds or time.monotonic() - begun, content, {"data": "mnist"})
    print(f"{len(gone)} of {len(images.y)} survivors are broken by one of them")
    if given.only is None:
        kept.done()


def _places(stored: Any) -> list[int]:
    return analysis.bits(stored).nonzero().flatten().tolist()


if __name__ == "__main__":
    main()
