"""Complete decisions for small ReLU networks: robust, proved; or broken, with a witness."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mpkit.attacks import APGD, Margin
from mpkit.certify.bounds import BallRegion, LinearRelaxation, Region, margins
from mpkit.certify.branching import Bounder, Cases
from mpkit.certify.leaves import MARGIN, Leaf
from mpkit.certify.network import ReluNetwork
from mpkit.core.checks import require_images, require_labels, require_positive
from mpkit.evaluation.verification import TOLERANCE, excess
from mpkit.sets import L1, L2, Ball, Linf, PerturbationSet

BATCH = 256
"""Cases that are bounded at a time."""

AT_THE_ROOT = LinearRelaxation(15, 15)
"""How hard the relaxation tries before anything is split: it pays for itself."""


class Status(IntEnum):
    """What is known of an example and a set."""

    BROKEN = 0
    CERTIFIED = 1
    UNKNOWN = 2


class Decisions(NamedTuple):
    """What is known of B examples in one set.

    Attributes:
        status: (B,) int8, values of ``Status``; an example that is wrong when clean is broken.
        z: the witness in the set's own coordinate where broken, elsewhere that of the clean image.
        work: (B,) int64, cases, cells or programs that were looked at.
    """

    status: Tensor
    z: Tensor
    work: Tensor

    def which(self, status: Status) -> Tensor:
        """The numbers of the examples of one status: (n,) int64."""
        return (self.status == status).nonzero().squeeze(1)


@dataclass(frozen=True)
class Exact:
    """A complete search in an l_inf, l_2 or l_1 ball with the box, by branch and bound.

    A short Auto-PGD finds the easy witnesses and linear relaxation proves the easy rest. What is
    left is split into cases by the signs of single ReLUs; every case is bounded by linear
    relaxation with multipliers, and the image at which its bound is least is tried as a witness.
    Where all signs are known a linear program, or in l_2 a nearest point, decides.

    Args:
        attack: steps of Auto-PGD; 0 for none.
        relaxation: bounds at the root.
        steps: of the search for the bound of a case.
        cases: at most for each example, after which it is unknown.

    Raises: ValueError: if cases is not positive.
    """

    attack: int = 30
    relaxation: LinearRelaxation = AT_THE_ROOT
    steps: int = 6
    cases: int = 200_000

    def __post_init__(self) -> None:
        require_positive("Exact", cases=self.cases)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Decisions:
        """Decide every example.

        Args:
            model: what ``ReluNetwork`` takes; its weights are used in float64.
            x: (B, C, H, W) in [0, 1]; some dozens at a time do best.
            y: (B,) int64.
            ball: Linf, L2 or L1, with a number as radius.

        Returns: decisions; "unknown" only where there were too many cases, or where the least
            margin lies within 1e-6 of zero.

        Raises: ValueError: if an argument is unfit, or the network has a layer of another kind.
        """
        require_images(x)
        require_labels(y, x)
        require_ball("Exact", ball)
        x = x.double()
        network = ReluNetwork.exactly(model, x.shape[1:])
        found = undecided(network, ball, x, y)
        rows = found.which(Status.UNKNOWN)
        if self.attack and len(rows):
            rng = torch.Generator().manual_seed(0)
            climb = APGD(ball, self.attack, Margin())
            enter(found, network, ball, x, y, rows, climb(network, x[rows], y[rows], rng).z)
        if len(found.which(Status.UNKNOWN)):
            _Search(self, network, ball, x, y, found).run()
        return found


class _Search:
    """Branch and bound over the examples that nothing simpler has decided."""

    def __init__(
        self, plan: Exact, network: ReluNetwork, ball: Ball, x: Tensor, y: Tensor, found: Decisions
    ) -> None:
        self.plan, self.network, self.ball = plan, network, ball
        self.x, self.y, self.found = x, y, found
        self.bounder = Bounder(network.flat(), self.region, plan.steps)
        self.dense = [(d.weight.numpy(), d.bias.numpy()) for d in network.dense()]
        self.doubtful: set[int] = set()

    def region(self, rows: Tensor) -> Region:
        return BallRegion(self.ball, self.x[rows])

    def run(self) -> None:
        """Decide all, or give up on an example when its cases are spent."""
        found = self.found
        rows = found.which(Status.UNKNOWN)
        left = self.roots(rows)
        if not self.network.shapes:  # a linear network is one piece
            for case in range(len(left.bound)):
                self.finish(left.take(torch.tensor([case])))
            left = left.take(torch.zeros(0, dtype=torch.int64))
        while len(left.bound):
            order = left.bound.argsort()
            now, left = left.take(order[:BATCH]), left.take(order[BATCH:])
            now, images = self.bounder.refined(now)
            found.work.add_(torch.bincount(now.example, minlength=len(found.work)))
            z = images - self.x[now.example]
            enter(found, self.network, self.ball, self.x, self.y, now.example, z)
            now = self.standing(now.take((now.bound <= MARGIN).nonzero().squeeze(1)))
            done = ~now.open().any(1)
            for case in done.nonzero().squeeze(1).tolist():
                self.finish(now.take(torch.tensor([case])))
            now = now.take((~done).nonzero().squeeze(1))
            if len(now.bound):
                left = left.joined(self.bounder.split(now))
            left = self.standing(left)
        proved = [row for row in rows.tolist() if row not in self.doubtful]
        proved = [row for row in proved if found.status[row] == Status.UNKNOWN]
        found.status[proved] = Status.CERTIFIED

    def roots(self, rows: Tensor) -> Cases:
        """One case for every example and every class that linear relaxation leaves open."""
        least, before = self.plan.relaxation.both(
            self.bounder.network, self.region(rows), self.y[rows]
        )
        example, rival = (least <= MARGIN).nonzero(as_tuple=True)
        none = self.x.new_zeros(len(rows), 0)
        low, high = (
            torch.cat([none, *(b[i].flatten(1) for b in before)], 1)[example] for i in (0, 1)
        )
        spec = margins(self.y[rows], self.network.classes)[example, rival].unsqueeze(1)
        slope, none = (high > -low).to(low.dtype), torch.zeros_like(low)
        bound = least[example, rival]
        fresh = torch.zeros(len(bound), dtype=torch.bool)
        return Cases(rows[example], spec, low, high, none, slope, none.clone(), bound, fresh)

    def standing(self, cases: Cases) -> Cases:
        """The cases of examples that are not broken and have cases to spare."""
        spent = self.found.work >= self.plan.cases
        self.doubtful.update(cases.example[spent[cases.example]].tolist())
        still = (self.found.status == Status.UNKNOWN) & ~spent
        return cases.take(still[cases.example].nonzero().squeeze(1))

    def finish(self, case: Cases) -> None:
        """Decide one case all of whose signs are known."""
        row = int(case.example)
        signs, highs = self.bounder.layers(case.sign), self.bounder.layers(case.high)
        on = [(high[0] > 0).flatten().numpy() for high in highs]
        told = [(sign[0] != 0).flatten().numpy() for sign in signs]
        image = self.x[row].flatten().numpy()
        worst = Leaf.of(self.dense, image, on, told, case.spec[0, 0].numpy()).worst(self.ball)
        if worst is None:
            return
        z = torch.from_numpy(worst - image).view_as(self.x[:1])
        enter(self.found, self.network, self.ball, self.x, self.y, case.example, z)
        if self.found.status[row] != Status.BROKEN:
            self.doubtful.add(row)


def require_ball(who: str, ball: PerturbationSet) -> None:
    """Refuse anything but an l_inf, l_2 or l_1 ball with one number as radius."""
    if not isinstance(ball, Linf | L2 | L1) or isinstance(ball.eps, Tensor):
        raise ValueError(
            f"{who}: ball must be Linf, L2 or L1 with a number as radius, got {ball!r}; rotations "
            "and shifts are decided by PoseCells"
        )


def undecided(network: ReluNetwork, threat: PerturbationSet, x: Tensor, y: Tensor) -> Decisions:
    """Decisions on float64 images of which only the clean ones are looked at."""
    right = network(x).argmax(1) == y
    status = torch.where(right, int(Status.UNKNOWN), int(Status.BROKEN)).to(torch.int8)
    return Decisions(status, threat.zero(x), torch.zeros(len(x), dtype=torch.int64))


def enter(
    found: Decisions,
    network: ReluNetwork,
    threat: PerturbationSet,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    z: Tensor,
) -> None:
    """Enter the coordinates (n, ...) that lie in the set to 1e-6 and fool the network in float64.

    Those of a ball are pulled to its nearest point first.
    """
    if isinstance(threat, Ball):
        z = threat.project(x[rows], z)
    holds = excess(threat, x[rows], z) <= TOLERANCE
    holds &= network(threat.apply(x[rows], z)).argmax(1) != y[rows]
    found.z[rows[holds]] = z[holds]
    found.status[rows[holds]] = int(Status.BROKEN)
