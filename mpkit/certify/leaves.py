"""Linear pieces of a ReLU network: the best that an adversary can do in one, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpkit.sets import L1, L2, Ball

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

MARGIN = 1e-6
"""A margin counts as positive from here on, in logits; between 0 and this nothing is decided."""


@dataclass(frozen=True)
class Leaf:
    """The piece of a network where its neurons have given signs, around one image.

    Args:
        x: (n,) the image.
        rows: (m, n), and
        least: (m,): the piece, as rows z >= least in the change z of the image.
        gain: (n,), and
        ahead: by how much the rival leads there: <gain, z> + ahead.
    """

    x: Array
    rows: Array
    least: Array
    gain: Array
    ahead: float

    @classmethod
    def of(
        cls,
        dense: Sequence[tuple[Array, Array]],
        x: Array,
        on: Sequence[Flags],
        told: Sequence[Flags],
        spec: Array,
    ) -> Leaf:
        """Write the piece down.

        Args:
            dense: the network's (weight, bias) pairs.
            x: (n,) the image.
            on: for every ReLU layer, which neurons pass, (h,) bool.
            told: which of the signs are constraints, the others being known to hold, (h,) bool.
            spec: (K,), "true logit less that of the rival".
        """
        slope, base = np.eye(len(x)), x
        rows, least = [np.zeros((0, len(x)))], [np.zeros(0)]
        for (weight, bias), passing, kept in zip(dense[:-1], on, told, strict=True):
            slope, base = weight @ slope, weight @ base + bias
            sign = np.where(passing, 1.0, -1.0)
            rows.append((sign[:, None] * slope)[kept])
            least.append((-sign * base)[kept])
            slope, base = slope * passing[:, None], base * passing
        weight, bias = dense[-1]
        return cls(
            x,
            np.vstack(rows),
            np.concatenate(least),
            -spec @ weight @ slope,
            -float(spec @ (weight @ base + bias)),
        )

    def worst(self, ball: Ball) -> Array | None:
        """The image of the piece, in ball ∩ box, that speaks most against the true class.

        Args:
            ball: Linf, L2 or L1, with a number as radius.

        Returns: (n,), or None where the true class leads everywhere by more than 1e-6. In l_2 the
            nearest image at which the rival leads, or leads but for 1e-6.
        """
        if isinstance(ball, L2):
            return self._nearest(float(ball.eps))
        from scipy.optimize import linprog

        eps, n = float(ball.eps), len(self.x)
        rows, least, gain = self.rows, self.least, self.gain
        ends = np.stack([np.maximum(-self.x, -eps), np.minimum(1 - self.x, eps)], 1)
        if isinstance(ball, L1):  # moves upwards and moves downwards, each >= 0
            rows, gain = np.hstack([rows, -rows]), np.hstack([gain, -gain])
            rows, least = np.vstack([rows, -np.ones(2 * n)]), np.append(least, -eps)
            size = np.concatenate([ends[:, 1], -ends[:, 0]])
            ends = np.stack([np.zeros(2 * n), size], 1)
        rows, least = (rows, least) if len(rows) else (np.zeros((1, len(gain))), np.zeros(1))
        answer = linprog(-gain, -rows, -least, bounds=ends, method="highs")
        if answer.status == 2 or (answer.status == 0 and self.ahead - answer.fun < -MARGIN):
            return None
        if answer.x is None:
            return self.x
        moved = answer.x[:n] - answer.x[n:] if isinstance(ball, L1) else answer.x
        return np.asarray(self.x + moved)

    def _nearest(self, eps: float) -> Array | None:
        n = len(self.x)
        rows = np.vstack([self.rows, np.eye(n), -np.eye(n), self.gain[None]])
        found = None
        for lead in (-MARGIN, MARGIN / 10):
            least = np.concatenate([self.least, -self.x, self.x - 1, [lead - self.ahead]])
            z = nearest_in_region(rows, least)
            if z is None or np.linalg.norm(z) > eps * (1 + 1e-9):
                return found
            found = self.x + z
        return found


def nearest_in_region(rows: Array, least: Array) -> Array | None:
    """Solve argmin_z ‖z‖_2 subject to rows z >= least; None where no z fits.

    Args:
        rows: (m, n).
        least: (m,).

    Source: Lawson and Hanson 1974, chapter 23, as one problem of non-negative least squares.
    """
    from scipy.optimize import nnls

    stacked = np.vstack([rows.T, least[None]])
    goal = np.zeros(len(stacked))
    goal[-1] = 1
    u, off = nnls(stacked, goal, maxiter=30 * stacked.shape[1])
    rest = stacked @ u - goal
    return None if off < 1e-9 else np.asarray(-rest[:-1] / rest[-1])
