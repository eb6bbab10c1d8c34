"""The second way to the truth: "can this class win somewhere in the set?" as an integer program.

A ReLU whose sign the bounds leave open costs one binary variable; HiGHS, through SciPy, decides.
It shares bounds, but no search, with branch and bound, and is slower by an order of magnitude.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mpkit.certify.bounds import BallRegion, LinearRelaxation, margins
from mpkit.certify.exact import AT_THE_ROOT, Decisions, Status, enter, require_ball, undecided
from mpkit.certify.leaves import MARGIN, Array, Leaf
from mpkit.certify.network import ReluNetwork
from mpkit.core.checks import require_images, require_labels, require_positive
from mpkit.sets import L1, L2, Ball

TOLERANCE = 1e-6
"""A program asks for a margin up to this, in logits; the solver's own tolerance is 1e-6 too."""


class Answer(NamedTuple):
    """What the solver says.

    Attributes:
        possible: whether there is a point; None where time ran out.
        image: (n,) its image, where there is one.
    """

    possible: bool | None
    image: Array | None


@dataclass
class Constraints:
    """Linear constraints low <= A v <= high on numbered variables, as they come."""

    places: list[tuple[Array, Array]] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, columns: Any, values: Any, low: float, high: float) -> None:
        """One constraint: numbers of the variables that take part, and their factors."""
        self.places.append((np.asarray(columns), np.asarray(values, dtype=float)))
        self.low.append(low)
        self.high.append(high)

    def matrix(self, width: int) -> Any:
        """All factors as a sparse matrix with so many columns."""
        from scipy.sparse import csr_array

        starts = np.cumsum([0, *(len(columns) for columns, _ in self.places)])
        columns = np.concatenate([c for c, _ in self.places])
        values = np.concatenate([v for _, v in self.places])
        return csr_array((values, columns, starts), shape=(len(self.places), width))


class Program:
    """A network around one image, to be asked about several classes.

    Args:
        dense: the network's (weight, bias) pairs, (n, m) and (n,).
        before: lower and upper bounds before every ReLU, (n,) each, valid in ball ∩ box.
        x: (n,) the image.
        ball: l_inf or l_1, with a number as radius.

    Source: Tjeng, Xiao and Tedrake 2019, section 4.1.
    """

    def __init__(
        self,
        dense: Sequence[tuple[Array, Array]],
        before: Sequence[tuple[Array, Array]],
        x: Array,
        ball: Ball,
    ) -> None:
        self.dense, self.x, self.eps = dense, x, float(ball.eps)
        self.rows, self.low, self.high = Constraints(), list[float](), list[float]()
        self.whole: list[int] = []
        least, most = np.maximum(-x, -self.eps), np.minimum(1 - x, self.eps)
        if isinstance(ball, L1):  # a move upwards and a move downwards, each >= 0
            self.pixel = np.tile(np.arange(len(x)), 2)
            self.sign = np.repeat([1.0, -1.0], len(x))
            least, most = np.zeros(2 * len(x)), np.concatenate([most, -least])
            self.rows.add(np.arange(2 * len(x)), np.ones(2 * len(x)), -np.inf, self.eps)
        else:
            self.pixel, self.sign = np.arange(len(x)), np.ones(len(x))
        self.live = np.array([self._variable(*ends) for ends in zip(least, most, strict=True)])
        self.change, self.base = (
            dense[0][0][:, self.pixel] * self.sign,
            dense[0][0] @ x + dense[0][1],
        )
        for number, (low, high) in enumerate(before):
            kept = self._relu(low, high)
            weight, self.base = dense[number + 1]
            self.change = weight[:, kept]

    def _variable(self, low: float, high: float, whole: bool = False) -> int:
        self.low.append(low)
        self.high.append(high)
        if whole:
            self.whole.append(len(self.low) - 1)
        return len(self.low) - 1

    def _relu(self, low: Array, high: Array) -> NDArray[np.intp]:
        """One layer: variables of the neurons that can be on; returns which neurons those are."""
        outputs, kept = [], (high > 0).nonzero()[0]
        for i in kept:
            base, out = self.base[i], self._variable(max(0.0, low[i]), high[i])
            columns, values = np.append(self.live, out), np.append(-self.change[i], 1.0)
            if low[i] >= 0:
                self.rows.add(columns, values, base, base)
            else:
                on = self._variable(0.0, 1.0, whole=True)
                self.rows.add(columns, values, base, np.inf)
                self.rows.add([out, on], [1.0, -high[i]], -np.inf, 0.0)
                columns, values = np.append(columns, on), np.append(values, -low[i])
                self.rows.add(columns, values, -np.inf, base - low[i])
            outputs.append(out)
        self.live = np.array(outputs, dtype=int)
        return kept

    def ask(self, spec: Array, seconds: float) -> Answer:
        """Whether the margin can fall to the tolerance.

        Args:
            spec: (K,), "true logit less that of the rival".
            seconds: after which the solver stops, without an answer.
        """
        from scipy.optimize import Bounds, LinearConstraint, milp

        rows = Constraints([*self.rows.places], [*self.rows.low], [*self.rows.high])
        rows.add(self.live, spec @ self.change, -np.inf, TOLERANCE - float(spec @ self.base))
        integrality = np.zeros(len(self.low))
        integrality[self.whole] = 1
        found = milp(
            np.zeros(len(self.low)),
            integrality=integrality,
            bounds=Bounds(self.low, self.high),
            constraints=LinearConstraint(rows.matrix(len(self.low)), rows.low, rows.high),
            options={"time_limit": seconds},
        )
        if found.x is not None:
            image = self.x.copy()
            np.add.at(image, self.pixel, self.sign * found.x[: len(self.pixel)])
            return Answer(True, image)
        return Answer(False if found.status == 2 else None, None)

    def leaf(self, image: Array, spec: Array) -> Leaf:
        """The linear piece that an image lies in."""
        on, value = [], image
        for weight, bias in self.dense[:-1]:
            value = weight @ value + bias
            on.append(value > 0)
            value = np.maximum(value, 0)
        return Leaf.of(self.dense, self.x, on, [np.ones_like(one) for one in on], spec)


@dataclass(frozen=True)
class IntegerProgram:
    """A complete search in an l_inf or l_1 ball with the box, by mixed-integer programming.

    Args:
        relaxation: bounds that make the program small.
        seconds: for each program.

    Raises: ValueError: if seconds is not positive.
    """

    relaxation: LinearRelaxation = AT_THE_ROOT
    seconds: float = 120.0

    def __post_init__(self) -> None:
        require_positive("IntegerProgram", seconds=self.seconds)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, ball: Ball) -> Decisions:
        """Decide every example; arguments, result and errors are those of ``Exact``.

        Raises: ValueError: for an l_2 ball too, which needs more than linear constraints.
        """
        require_images(x)
        require_labels(y, x)
        require_ball("IntegerProgram", ball)
        if isinstance(ball, L2):
            raise ValueError("IntegerProgram: ball must be Linf or L1, got L2; take Exact")
        x = x.double()
        network = ReluNetwork.exactly(model, x.shape[1:])
        found = undecided(network, ball, x, y)
        rows = found.which(Status.UNKNOWN)
        if not len(rows):
            return found
        least, before = self.relaxation.both(network, BallRegion(ball, x[rows]), y[rows])
        specs, dense = margins(y, network.classes).numpy(), network.dense()
        pairs = [(d.weight.numpy(), d.bias.numpy()) for d in dense]
        for place, row in enumerate(rows.tolist()):
            ends = [tuple(end[place].flatten().numpy() for end in b) for b in before]
            program = Program(pairs, ends, x[row].flatten().numpy(), ball)  # type: ignore[arg-type]
            status = Status.CERTIFIED
            for k in least[place].argsort().tolist():
                if least[place, k] > MARGIN:
                    continue
                found.work[row] += 1
                answer = program.ask(specs[row, k], self.seconds)
                if answer.possible is False:
                    continue
                status = Status.UNKNOWN
                if answer.image is not None:
                    best = program.leaf(answer.image, specs[row, k]).worst(ball)
                    tried = [one for one in (answer.image, best) if one is not None]
                    z = torch.from_numpy(np.stack(tried) - program.x).view(-1, *x.shape[1:])
                    for change in z.unsqueeze(1):
                        enter(found, network, ball, x, y, torch.tensor([row]), change)
                if found.status[row] == Status.BROKEN:
                    break
            if found.status[row] != Status.BROKEN:
                found.status[row] = int(status)
        return found
