"""Affine adversaries against a linear loss: theorem 3, and what the pixel box changes (ours).

The adversary of strength β spends β of its l_1 budget and 1 - β of its l_inf budget.

* Without a box, or when each part alone must stay in the box, its best loss is linear in β: the
  maximum is at an end, so it is no stronger than the union (Tramèr and Boneh 2019, theorem 3).
* When only the **sum** must stay in the box, its best loss is concave in β and can be larger in
  between. For each β the best perturbation is a fractional knapsack: the l_inf part moves every
  pixel by (1 - β) ε_inf or as far as the box allows, and the l_1 part is spent on what is left of
  the way, pixels of largest weight first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class AffineInBox:
    """The affine l_1 and l_inf adversary that raises weight · x, with the sum kept in [0, 1]^d.

    Args:
        weight: (d,) gradient of the loss.
        x: (d,) image in [0, 1].
        eps_1: l_1 radius > 0.
        eps_inf: l_inf radius > 0.

    A method's β in [0, 1] is the share of the l_1 budget; the l_inf budget gets the rest.
    """

    weight: Tensor
    x: Tensor
    eps_1: float
    eps_inf: float

    def __post_init__(self) -> None:
        if self.weight.shape != self.x.shape or self.x.ndim != 1:
            shapes = f"{tuple(self.weight.shape)} and {tuple(self.x.shape)}"
            raise ValueError(f"AffineInBox: weight and x must both be (d,), got {shapes}")
        if self.x.min() < 0 or self.x.max() > 1:
            raise ValueError("AffineInBox: x must lie in [0, 1]; scale the image")
        if not (self.eps_1 > 0 and self.eps_inf > 0):
            raise ValueError(f"AffineInBox: radii must be positive: {self.eps_1}, {self.eps_inf}")

    @property
    def room(self) -> Tensor:
        """How far each pixel (d,) can go in the direction that raises the loss."""
        return torch.where(self.weight > 0, 1 - self.x, self.x)

    def parts(self, beta: float) -> tuple[Tensor, Tensor]:
        """The best l_inf and l_1 part for one β: (d,) each, signed; x plus both is in the box."""
        shared, own = self._moves(beta)
        return self.weight.sign() * shared, self.weight.sign() * own

    def loss(self, beta: float) -> float:
        """The greatest rise of weight · x for one β; concave and piecewise linear in β."""
        shared, own = self._moves(beta)
        return float((self.weight.abs() * (shared + own)).sum())

    def loss_of_blend(self, beta: float) -> float:
        """That of a blend of two images, one of each adversary: linear in β (theorem 3 holds)."""
        return beta * self.loss(1.0) + (1 - beta) * self.loss(0.0)

    def best(self) -> tuple[float, float]:
        """The best β and its loss: bisection on the sign of the slope, to rounding error."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            if self._slope(middle) > 0:
                low = middle
            else:
                high = middle
        return max(((b, self.loss(b)) for b in (0.0, low, high, 1.0)), key=lambda pair: pair[1])

    def by_linear_programming(self, beta: float | None = None) -> float:
        """``loss`` from scipy's linear programming, with nothing assumed about its shape.

        Without a β the program chooses the best.
        """
        from scipy.optimize import linprog

        d = len(self.x)
        weight, x = self.weight.double().numpy(), self.x.double().numpy()
        eye, none, column = np.eye(d), np.zeros((d, d)), np.ones((d, 1))
        # Unknowns: the l_1 part u - v with u, v ≥ 0; the l_inf part z; β.
        rows = [
            [column.T, column.T, 0 * column.T, np.array([[-self.eps_1]])],
            [none, none, eye, self.eps_inf * column],
            [none, none, -eye, self.eps_inf * column],
            [eye, -eye, eye, 0 * column],
            [-eye, eye, -eye, 0 * column],
        ]
        limits = np.concatenate([[0.0], np.full(2 * d, self.eps_inf), 1 - x, x])
        share = (0.0, 1.0) if beta is None else (beta, beta)
        bounds = [(0.0, None)] * (2 * d) + [(None, None)] * d + [share]
        gain = np.concatenate([weight, -weight, weight, [0.0]])
        exact = {f"{side}_feasibility_tolerance": 1e-10 for side in ("primal", "dual")}
        answer = linprog(-gain, np.block(rows), limits, bounds=bounds, options=exact)
        return float(-answer.fun)

    def _moves(self, beta: float) -> tuple[Tensor, Tensor]:
        """How far each part moves every pixel in the direction that raises the loss."""
        if not 0 <= beta <= 1:
            raise ValueError(f"AffineInBox: beta must lie in [0, 1], got {beta}")
        shared = self.room.clamp(max=(1 - beta) * self.eps_inf)
        left = self.room - shared
        order = self.weight.abs().argsort(descending=True, stable=True)
        spent = left[order].cumsum(0) - left[order]
        own = (beta * self.eps_1 - spent).clamp(min=0).minimum(left[order])
        return shared, torch.zeros_like(own).scatter(0, order, own)

    def _slope(self, beta: float) -> float:
        """A supergradient of `loss`: what the l_1 budget earns less what the l_inf budget loses.

        The price of l_1 budget is the weight of the best pixel that still has room; a pixel that
        the l_inf part no longer moves costs its weight or, if the l_1 part mends it, the price.
        """
        shared, own = self._moves(beta)
        weight, left = self.weight.abs(), self.room - shared
        price = torch.where(own < left, weight, torch.zeros_like(weight)).max()
        lost = weight.minimum(price)[left > 0].sum()
        return float(price * self.eps_1 - self.eps_inf * lost)
