"""The sandwich: per example broken by a witness, certified by a bound, or unknown between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpkit.certify.bounds import BallRegion, LinearRelaxation
from mpkit.certify.exact import Status
from mpkit.certify.leaves import MARGIN
from mpkit.certify.network import ReluNetwork
from mpkit.certify.poses import PoseCells
from mpkit.core.checks import require_images, require_labels, require_positive
from mpkit.core.statistics import Estimate, proportion
from mpkit.evaluation import Ledger
from mpkit.sets import Ball, PerturbationSet, RotationTranslation

PLAIN = LinearRelaxation()


class Contradiction(ValueError):
    """An example has both a witness and a certificate: one of the two is wrong."""


@dataclass(frozen=True)
class Sandwich:
    """What is known of every example in every set of a threat model, and in their union.

    Attributes:
        sets: S names, such as "linf:0.3".
        status: (S, N) int8, values of ``Status``.
    """

    sets: tuple[str, ...]
    status: Tensor

    def of(self, name: str) -> Tensor:
        """The status in one set, or in the "union": (N,) int8.

        The union is broken where any set is, and certified where all are.

        Raises: ValueError: there is no such set.
        """
        if name == "union":
            broken = (self.status == Status.BROKEN).any(0)
            sure = broken | (self.status == Status.CERTIFIED).all(0)
            known = torch.where(broken, int(Status.BROKEN), int(Status.CERTIFIED))
            return torch.where(sure, known, int(Status.UNKNOWN)).to(torch.int8)
        if name not in self.sets:
            raise ValueError(
                f"Sandwich: no set {name!r}; there are {', '.join((*self.sets, 'union'))}"
            )
        return self.status[self.sets.index(name)]

    def certified(self, name: str = "union", level: float = 0.95) -> Estimate:
        """The certified accuracy, a lower bound of the robust accuracy, with its interval."""
        return proportion(self.of(name) == Status.CERTIFIED, level)

    def standing(self, name: str = "union", level: float = 0.95) -> Estimate:
        """The share that no witness breaks, an upper bound of the robust accuracy."""
        return proportion(self.of(name) != Status.BROKEN, level)


def certified(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: PerturbationSet,
    relaxation: LinearRelaxation = PLAIN,
    batch: int = 20,
) -> Tensor:
    """Which examples are proved to be right everywhere in one set.

    Args:
        model: what ``ReluNetwork`` takes; its weights are used in float64.
        x: (N, C, H, W) in [0, 1].
        y: (N,) int64.
        threat: a ball, or a RotationTranslation, whose poses are searched in up to 5,000 cells.
        relaxation: how hard bounds over balls are tried.
        batch: examples at a time, > 0.

    Returns: (N,) bool; False says nothing.

    Raises: ValueError: a set of another kind, or an argument or layer that is unfit.
    """
    require_images(x)
    require_labels(y, x)
    require_positive("certified", batch=batch)
    if isinstance(threat, RotationTranslation):
        decided = PoseCells(shifts=1, angles=1, cells=5000)(model, x, y, threat)
        return decided.status == Status.CERTIFIED
    if not isinstance(threat, Ball):
        raise ValueError(
            f"certified: threat must be a ball or a RotationTranslation, got {threat!r}; ask for "
            "every part of a union by itself"
        )
    network, found = ReluNetwork.exactly(model, x.shape[1:]), []
    for images, labels in zip(x.double().split(batch), y.split(batch), strict=True):  # type: ignore[no-untyped-call]
        holds = network(images).argmax(1) == labels
        rows = holds.nonzero().squeeze(1)
        if len(rows):
            least = relaxation.margins(network, BallRegion(threat, images[rows]), labels[rows])
            holds[rows] = (least > MARGIN).all(1)
        found.append(holds)
    return torch.cat(found)


def sandwich(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: PerturbationSet,
    ledger: Ledger,
    relaxation: LinearRelaxation = PLAIN,
) -> Sandwich:
    """Put certificates below a ledger of witnesses.

    Args:
        model: as in ``certified``.
        x: (N, C, H, W), the images of the ledger.
        y: (N,) their labels.
        threat: the set, or union of sets, that was searched.
        ledger: what ``evaluate`` found.
        relaxation: how hard bounds over balls are tried.

    Raises:
        Contradiction: an example has a witness and a certificate.
        ValueError: the ledger is of other examples or sets, or as in ``certified``.
    """
    if len(ledger) != len(x):
        raise ValueError(
            f"sandwich: ledger holds {len(ledger)} examples, there are {len(x)} images; give those "
            "that were evaluated"
        )
    names, rows = [part.describe() for part in threat.parts()], []
    for name, part in zip(names, threat.parts(), strict=True):
        broken, status = ledger.broken_in(name), torch.full((len(x),), int(Status.UNKNOWN))
        proved = certified(model, x, y, part, relaxation)
        if bool((both := proved & broken).any()):
            raise Contradiction(
                f"sandwich: example {int(both.nonzero()[0])} is certified in {name} and broken "
                "there; look at both before any number is believed"
            )
        status[proved], status[broken] = int(Status.CERTIFIED), int(Status.BROKEN)
        rows.append(status.to(torch.int8))
    return Sandwich(tuple(names), torch.stack(rows))
