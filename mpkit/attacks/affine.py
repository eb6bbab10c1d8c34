"""Search between two sets: both perturbations and each example's own share w move together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.apgd import APGD
from mpkit.attacks.base import Attack, AttackResult, Best, Climb, Problem
from mpkit.attacks.losses import CrossEntropy, Loss
from mpkit.attacks.pgd import Falling, StepSchedule, movable
from mpkit.attacks.spatial import Grid, SpatialPGD
from mpkit.attacks.wrappers import Composite
from mpkit.core.checks import require_positive
from mpkit.sets import Affine, Ball, Blend, Linf, PerturbationSet, RotationTranslation
from mpkit.sets.convex_hull import box_pair, nearest_pair
from mpkit.sets.norms import l2_norm, per_row, unit_direction
from mpkit.sets.projections import clip_to_box

SHARES = (0.25, 0.5, 0.75)
"""Shares of the spatial budget at which a grid of poses is tried."""


class Pair(NamedTuple):
    """State of a search between two sets: the share w (B,), both parts and the best so far."""

    w: Tensor
    a: Tensor
    b: Tensor
    best: Best


@dataclass(frozen=True)
class BetweenSearch(Climb):
    """Ascent in both parts at once, each step brought back to the budgets; see AffinePGD."""

    set: Any
    steps: int
    loss: Loss
    schedule: StepSchedule
    way: float
    alike = True

    def begin(self, problem: Problem) -> Pair:
        """Random parts and a random share, with nothing seen yet."""
        w, a, b = self.set.sample(problem.x, problem.rng)
        return Pair(w, a, b, Best.none_yet(problem.x, (w, a, b)))

    def coordinate(self, x: Tensor, state: Pair) -> Any:
        """Share and parts as they are."""
        return state.w, state.a, state.b

    def pace(self, k: int) -> tuple[float, ...]:
        """The length of step k in sizes of the set."""
        return (self.way / self.steps * self.schedule(k, self.steps),)


class SumSearch(BetweenSearch):
    """Two balls whose perturbations are added.

    The parts are moved without the box, and what would leave it is taken off for the image:
    a clipped pixel has no gradient, so the budget it holds flows to others.
    """

    def coordinate(self, x: Tensor, state: Pair) -> Any:
        """Both parts within their shares, the sum in the box."""
        w, a, b, _ = state
        a, b = box_pair(self.set.a, self.set.b, x, a, b)
        return w, self.set.a.scaled(w).shrink(a), self.set.b.scaled(1 - w).shrink(b)

    def advance(self, problem: Problem, state: Pair, k: int) -> Pair:
        """Step both parts along the gradient, then share the budget out anew."""
        x, (_, a, b, best) = problem.x, state
        z = self.coordinate(x, state)
        here, gradient = Best.with_slope(problem, self.loss, z, self.set.apply(x, z))
        g = movable(x + a + b, gradient)
        size = torch.maximum(*(l2_norm(ball.steepest(g)) for ball in (self.set.a, self.set.b)))
        (length,) = problem.pace or self.pace(k)
        step = unit_direction(g) * per_row(length * size, x)
        pair = nearest_pair(self.set.a, self.set.b, a + step, b + step)
        return Pair(*pair, best.or_better(here))


class PoseSearch(BetweenSearch):
    """A pose within w of its bounds, then a ball's perturbation on top.

    Part a is the pose over its bounds, times the size of the ball, so that both are commensurate.
    """

    def begin(self, problem: Problem) -> Pair:
        """A random pose within a random share, and no perturbation on top, nothing seen yet."""
        x, start = problem.x, super().begin(problem)
        bounds = self.set.a.bounds(x)
        return start._replace(a=torch.where(bounds > 0, start.a / bounds, 0), b=torch.zeros_like(x))

    def coordinate(self, x: Tensor, state: Pair) -> Any:
        """The pose, and the perturbation clipped to the box of the warped image."""
        pose = self.set.a.bounds(x) * state.a
        b = clip_to_box(state.b, self.set.a.apply(x, pose))
        return state.w, pose, b

    def advance(self, problem: Problem, state: Pair, k: int) -> Pair:
        """Step pose and perturbation, then share the budget out anew."""
        x, ball = problem.x, self.set.b
        z = self.coordinate(x, state)

        def render(pose: Tensor, b: Tensor) -> Tensor:
            image: Tensor = self.set.apply(x, (state.w, pose, b))
            return image

        here, (turn, g) = Best.through(problem, self.loss, z, render, *z[1:])
        size = l2_norm(ball.steepest(g))
        size = torch.where(size > 0, size, 1)
        (length,) = problem.pace or self.pace(k)
        b = state.b + unit_direction(g) * per_row(length * size, x)
        a = state.a + turn.sign() * length
        scale = per_row(size, a)
        w, a, b = nearest_pair(Linf(size), ball, a * scale, b)
        return Pair(w, a / scale, b, state.best.or_better(here))


class BlendSearch(BetweenSearch):
    """Two balls whose perturbed images are averaged: each part steps in its own ball ∩ box."""

    def advance(self, problem: Problem, state: Pair, k: int) -> Pair:
        """Step both parts in their sets, and the share by its derivative."""
        x, (w, a, b, best) = problem.x, state
        z, balls, moved = (w, a, b), (self.set.a, self.set.b), []
        here, g = Best.with_slope(problem, self.loss, z, self.set.apply(x, z))
        (length,) = problem.pace or self.pace(k)
        for ball, part in zip(balls, (a, b), strict=True):
            step = unit_direction(g) * per_row(length * l2_norm(ball.steepest(g)), x)
            moved.append(ball.project(x, part + step))
        slope = (g * (a - b)).flatten(1).sum(1)
        w = (w + length * slope.sign()).clamp_(0, 1)
        return Pair(w, moved[0], moved[1], best.or_better(here))


@dataclass(frozen=True)
class AffinePGD(Composite):
    """Attack between two sets: each example's share w is optimized together with both parts.

    Both ends, w = 1 and w = 0, are attacked too, so the result is never weaker than the attacks
    at the ends. Between them, both perturbations follow the gradient, and the nearest pair within
    the common budget gives w: where a unit of either budget is worth the same. The landscape of
    poses is rugged, so for them fixed shares are tried too, with a grid (``GridThenAPGD``).

    Args:
        set: Affine of two balls or of a RotationTranslation and a ball, or Blend of two balls.
        steps: number of gradients of the search between the ends, > 0.
        schedule: how steps fall.
        way: summed length of all steps, in sizes of the set, > 0.
        ends: attacks on the first and the second set; where not given, APGD for a
            ball and SpatialPGD for rotation-translation, with the same steps and loss.

    Raises: ValueError: if a number is not positive, or the set a Blend of anything but balls.

    Source: Tramèr and Boneh 2019, section 4, for the adversary; the search is ours.
    """

    set: Affine | Blend
    steps: int = 100
    loss: Loss = field(default_factory=CrossEntropy)
    schedule: StepSchedule = field(default_factory=lambda: Falling(1e-3))
    way: float = 20.0
    ends: tuple[Attack, Attack] | None = None

    def __post_init__(self) -> None:
        require_positive("AffinePGD", steps=self.steps, way=self.way)
        if isinstance(self.set, Blend) and not (
            isinstance(self.set.a, Ball) and isinstance(self.set.b, Ball)
        ):
            raise ValueError(
                "AffinePGD: a Blend must be of two balls to be searched; for a spatial set and "
                "a ball use Affine"
            )

    def attacks_on(self, problem: Problem) -> Iterator[Attack]:
        """Both ends, for poses three fixed shares, and the search between them."""
        yield from self.ends or (self.end(self.set.a), self.end(self.set.b))
        if isinstance(self.set, Affine) and isinstance(self.set.a, RotationTranslation):
            for share in SHARES:
                yield GridThenAPGD(self.set, share, max(1, self.steps // 4), loss=self.loss)
        yield self.between()

    def between(self) -> BetweenSearch:
        """The search between the ends alone."""
        affine = SumSearch if isinstance(self.set.a, Ball) else PoseSearch
        kind = BlendSearch if isinstance(self.set, Blend) else affine
        return kind(self.set, self.steps, self.loss, self.schedule, self.way)

    def end(self, threat: PerturbationSet) -> Attack:
        """The attack on one of the two sets by itself."""
        if isinstance(threat, RotationTranslation):
            return SpatialPGD(threat, self.steps, loss=self.loss)
        assert isinstance(threat, Ball)
        return APGD(threat, self.steps, self.loss)

    def coordinate(self, i: int, found: AttackResult, x: Tensor) -> Any:
        """The ends are w = 1 and w = 0 with nothing of the other set."""
        if i == 0:
            return x.new_ones(len(x)), found.z, self.set.b.zero(x)
        if i == 1:
            return x.new_zeros(len(x)), self.set.a.zero(x), found.z
        return found.z


@dataclass(frozen=True)
class GridThenAPGD(Attack):
    """A share w of the spatial budget by grid, then 1 - w of the ball's by gradients.

    The pose is the worst of a grid for the image by itself, so this is greedy; it does not climb
    the rugged landscape of poses, and cannot get stuck in it.

    Args:
        set: what lies between a RotationTranslation and a ball.
        share: w in (0, 1).
        steps: number of gradients in the ball, > 0.
        shifts: grid points along each axis.
        angles: grid points of the angle; one where no rotation is allowed.

    Raises: ValueError: if a number is unfit, or the first set is not a RotationTranslation.

    Source: Tramèr and Boneh 2019, section 4, for the adversary; the search is ours.
    """

    set: Affine
    share: float = 0.5
    steps: int = 25
    shifts: int = 5
    angles: int = 7
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        require_positive("GridThenAPGD", steps=self.steps, shifts=self.shifts, angles=self.angles)
        if not 0 < self.share < 1:
            raise ValueError(f"GridThenAPGD: share must lie in (0, 1), got {self.share}; try 0.5")
        if not isinstance(self.set.a, RotationTranslation):
            raise ValueError(
                f"GridThenAPGD: the first set must be a RotationTranslation, got {self.set.a!r}; "
                "between two balls take AffinePGD"
            )

    def find(self, problem: Problem) -> AttackResult:
        """The grid, then Auto-PGD around the image it found."""
        poses = self.set.a.scaled(self.share)
        assert isinstance(poses, RotationTranslation)
        angles = 1 if isinstance(poses.degrees, float | int) and not poses.degrees else self.angles
        turned = Grid(poses, self.shifts, angles, loss=self.loss).find(problem)
        ball = self.set.b.scaled(1 - self.share)
        top = APGD(ball, self.steps, self.loss).find(replace(problem, x=turned.image))
        z = (problem.x.new_full((len(problem.x),), self.share), turned.z, top.z)
        return AttackResult(self.set.apply(problem.x, z), z, top.score)
