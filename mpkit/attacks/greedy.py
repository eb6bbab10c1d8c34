"""A sparse search: pixel after pixel is moved, the one that gains most for what it costs."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.base import Best, Iterative, Problem
from mpkit.attacks.gradients import climb, look
from mpkit.attacks.losses import Loss, Margin
from mpkit.core import trees
from mpkit.sets import L0, L1, L2, thresholds
from mpkit.sets.norms import l2_norm, per_row, positive, slack, unit_direction

NEAR = 0.7
"""A move goes to a wall, 0 or 1, or to this share of the way: past a threshold of a half."""

LEAST, CRUMB = 0.02, 1e-3
"""The least change of a pixel, and the least share of a move, that are worth a try."""

REFILL, TOUCHED = 3, 32
"""Moves that may spend what a swap has freed; pixels that it may take back, the costliest."""

PIECE = 256
"""Images in one forward pass on a CPU; sixteen times as many on a GPU."""

GOAL, FALL = 1e12, 1e9
"""A reached goal counts more than any gain; where none gains, the least loss is taken."""


class Standing(NamedTuple):
    """Where the search stands; n pixels, O kinds of moves.

    Attributes:
        best: the best point seen.
        z: (B, C, n), with its score (B,).
        gains: (B, O n), what each move gained when it was last tried.
        kept: (B, C, n), the point before the last swap, with its ``mark`` (B,), its score.
        barred: (B, n), pixels that the present swap has taken back; ``tried``, any in vain.
    """

    best: Best
    z: Tensor
    score: Tensor
    gains: Tensor
    kept: Tensor
    mark: Tensor
    barred: Tensor
    tried: Tensor


class Moves(NamedTuple):
    """Moves from a point: price, share of the way, promise (-inf: not allowed), (B, O n) each."""

    price: Tensor
    share: Tensor
    promise: Tensor


@dataclass(frozen=True)
class GreedyPixels(Iterative):
    """Moves one pixel after another to a wall, or most of the way, by exact gain over cost.

    A network that rounds its input shows no slope, and moving a pixel a little does nothing;
    moving it past the threshold does. So whole moves are tried, in forward passes, and the one
    that raises the loss most for its cost is made. Half of those tried are chosen by what they
    gained last time, half by the gradient beyond thresholds, at the image with every pixel raised
    and with every pixel lowered. Then swaps: the pixel that is missed least is taken back, and
    what it had cost is spent anew. Last, the chosen pixels are polished by projected ascent, then
    all pixels.

    Args:
        pixels: most moves before the swaps, at least 1.
        tries: forward passes of each move, at least 2.
        swaps: ≥ 0.
        level: by how much pixels are raised and lowered for the gradient, in (0, 1); None for a
            search without gradients.
        first: the first move tries every pixel of images that have at most so many.

    Raises: ValueError: a setting out of its range, or a set that this cannot keep.

    Source: ours; choosing pixels one by one, to the corners of colour space, is CornerSearch of
    Croce and Hein 2019.
    """

    set: L0 | L1 | L2
    pixels: int = 32
    tries: int = 96
    swaps: int = 12
    level: float | None = 0.35
    first: int = 1024
    polish: int = 20
    loss: Loss = field(default_factory=Margin)

    def __post_init__(self) -> None:
        if not isinstance(self.set, L0 | L1 | L2):
            raise ValueError(f"GreedyPixels: set must be L0, L1 or L2, got {self.set}; take APGD")
        for name, least in {"pixels": 1, "tries": 2, "swaps": 0, "first": 0, "polish": 0}.items():
            if (value := getattr(self, name)) < least:
                raise ValueError(f"GreedyPixels: {name} must be at least {least}, got {value}")
        if self.level is not None and not 0 < self.level < 1:
            raise ValueError(f"GreedyPixels: level must lie in (0, 1), got {self.level}; try 0.35")

    @property
    def steps(self) -> int:  # type: ignore[override]
        """Moves, and swaps with the moves that follow them."""
        return self.pixels + self.swaps * (1 + REFILL)

    def begin(self, problem: Problem) -> Standing:
        """The clean image; if it has few pixels, what each gains that goes to its far wall."""
        x = problem.x.flatten(2)
        zero, (rows, _, n) = torch.zeros_like(x), x.shape
        best = Best.at(problem, self.loss, self.set.zero(problem.x), problem.x)
        gains, none = x.new_zeros(rows, len(_targets(x)) * n), x.new_zeros(rows, n).bool()
        state = Standing(best, zero, best.score, gains, zero, best.score, none, none)
        if n <= self.first:
            where = (x.mean(1) > 0.5).long() * n + torch.arange(n, device=x.device)
            score, _ = self._ask(problem, zero, *_values(x, zero, where, torch.ones_like(gains)))
            gain = score - best.score.unsqueeze(1)
            gains = gains.scatter(1, where, gain).scatter(1, where + 2 * n, gain)
        return state._replace(gains=gains)

    def advance(self, problem: Problem, state: Standing, k: int) -> Standing:
        """One move more; or a pixel less, if the moves of the last swap are made."""
        return (self._take_back if self.kind(k) else self._move)(problem, state)

    def kind(self, k: int) -> Hashable:
        """Whether a pixel is taken back."""
        return k >= self.pixels and (k - self.pixels) % (1 + REFILL) == 0

    def finish(self, problem: Problem, state: Standing) -> Best:
        """The best point, polished first on the pixels that it has changed, then on all."""
        x, best = problem.x, state.best
        length = per_row(l2_norm(best.z), x) / 4
        for moving in ((best.z != 0).to(x.dtype), torch.ones_like(x)):
            z = best.z
            for k in range(self.polish if self.level is not None else 0):
                gradient = climb(problem.model, self.loss, x + z, problem.y).gradient
                step = unit_direction(gradient * moving) * length * (1 - k / self.polish)
                z = self.set.project(x, z + step)
                best = best.or_better(Best.at(problem, self.loss, z, x + z))
        return best

    def _move(self, problem: Problem, state: Standing) -> Standing:
        """Try the most promising moves and make the best, where one is allowed."""
        x = problem.x.flatten(2)
        moves = self._moves(x, state, self._slope(problem, state.z))
        barred = moves.promise.isinf()
        if not thresholds.blind(x) and bool((none := barred.all(1)).any()):
            rows = (~none).nonzero().squeeze(1)
            part = trees.take(self, rows), problem.take(rows), trees.take(state, rows)
            return trees.put(state, rows, part[0]._move(*part[1:])) if len(rows) else state
        known = torch.where(barred, -torch.inf, state.gains / moves.price)
        guided = self.level is not None
        half = min(self.tries // (1 + guided), known.shape[1])
        where = known.topk(half, dim=1).indices
        if guided:
            where = torch.cat([where, moves.promise.topk(half, dim=1).indices], 1)
        pixel, values = _values(x, state.z, where, moves.share)
        score, reached = self._ask(problem, state.z, pixel, values)
        gain = score - state.score.unsqueeze(1)
        worth = torch.where(gain > 0, gain / moves.price.gather(1, where), gain * FALL)
        worth = torch.where(reached, worth.clamp(min=0) + GOAL, worth)
        shut = barred.gather(1, where)
        pick = worth.masked_fill_(shut, -torch.inf).argmax(1, keepdim=True)
        made = ~shut.gather(1, pick)
        chosen = values.gather(1, pick.unsqueeze(2).expand(-1, 1, values.shape[2]))
        z = _placed(state.z, pixel.gather(1, pick), chosen)
        z = torch.where(made.unsqueeze(2), z, state.z)
        new = torch.where(made, score.gather(1, pick), state.score.unsqueeze(1)).squeeze(1)
        seen = Best(z.view_as(problem.x), new, (reached.gather(1, pick) & made).squeeze(1))
        gains = state.gains.scatter(1, where, gain)
        return state._replace(best=state.best.or_better(seen), z=z, score=new, gains=gains)

    def _take_back(self, problem: Problem, state: Standing) -> Standing:
        """Keep the last swap if it gained; then take back the pixel that is missed least."""
        better = state.score > state.mark
        z = torch.where(better[:, None, None], state.z, state.kept)
        mark = torch.where(better, state.score, state.mark)
        state = state._replace(z=z, score=mark, kept=z, mark=mark)
        x, cost, tried = problem.x.flatten(2), self._cost(z), state.tried & ~better.unsqueeze(1)
        most = TOUCHED if thresholds.blind(x) else max(1, int((cost > 0).sum(1).max()))
        most = min(most, TOUCHED, cost.shape[1])
        spent, pixel = cost.topk(most, dim=1)
        score, _ = self._ask(problem, state.z, pixel, x.new_zeros(*pixel.shape, x.shape[1]))
        missed = (state.score.unsqueeze(1) - score) / positive(spent)
        kept = (spent == 0) | tried.gather(1, pixel)
        pick = missed.masked_fill_(kept, torch.inf).argmin(1, keepdim=True)
        gone = ~kept.gather(1, pick)
        barred = torch.zeros_like(tried).scatter(1, pixel.gather(1, pick), gone)
        z = z.masked_fill(barred.unsqueeze(1), 0)
        score = torch.where(gone, score.gather(1, pick), mark.unsqueeze(1)).squeeze(1)
        return state._replace(z=z, score=score, barred=barred, tried=tried | barred)

    def _cost(self, z: Tensor) -> Tensor:
        """What each pixel takes of the budget, (B, n): their sum is at most eps, or its square."""
        if isinstance(self.set, L0):
            return (z != 0).any(1).to(z.dtype)
        return (z.abs() if isinstance(self.set, L1) else z.square()).sum(1)

    def _moves(self, x: Tensor, state: Standing, slope: tuple[Tensor, Tensor] | None) -> Moves:
        """Every kind of move of every pixel; promises are those of the slope, or 0."""
        z, count = state.z, isinstance(self.set, L0)
        power, found = 2 if isinstance(self.set, L2) else 1, []
        budget, spent = per_row(self.set.eps, x).reshape(-1, 1) ** power, self._cost(z)
        budget = budget if count else budget * (1 - slack(x.dtype))
        left = (budget - spent.sum(1, keepdim=True)).clamp(min=0)
        for kind, targets in zip(_kinds(x.shape[1]), _targets(x), strict=True):
            one = next(c for c, value in enumerate(kind) if value is not None)
            moving = slice(one, one + 1 if None in kind else None)
            way = (target := targets[moving].unsqueeze(1)) - x[:, moving]
            forward = torch.where(target > 0.5, way > LEAST, way < -LEAST)
            old, full = self._cost(z[:, moving]), self._cost(way)
            if count:
                share, price = torch.ones_like(full), (spent == 0).to(x.dtype)
                allowed = price <= left
            else:
                share = ((left + old) / positive(full)).clamp(max=1)
                price = share * full - old
                share = share if power == 1 else share.rsqrt().reciprocal()
                allowed = price > CRUMB * full
            allowed = allowed & forward.any(1) & ~state.barred
            promise = torch.zeros_like(price)
            if slope is not None:
                uphill = torch.where(way > 0, slope[0][:, moving], slope[1][:, moving])
                promise = ((share.unsqueeze(1) * way - z[:, moving]) * uphill).sum(1)
            price = price.clamp(min=1e-3)
            found.append((price, share, torch.where(allowed, promise / price, -torch.inf)))
        return Moves(*(torch.cat(parts, 1) for parts in zip(*found, strict=True)))

    def _slope(self, problem: Problem, z: Tensor) -> tuple[Tensor, Tensor] | None:
        """Gradients (B, C, n) at the image with all pixels raised, and with all lowered."""
        if self.level is None:
            return None
        image = problem.x + z.view_as(problem.x)
        both = torch.cat([image + self.level, image - self.level]).clamp_(0, 1)
        loss = trees.joined([self.loss, self.loss])
        gradient = climb(problem.model, loss, both, problem.y.repeat(2)).gradient
        up, down = gradient.flatten(2).chunk(2)
        return up, down

    def _ask(
        self, problem: Problem, z: Tensor, pixel: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Scores and success (B, M) where one pixel (B, M) of z takes other values (B, M, C)."""
        x, (rows, many) = problem.x, pixel.shape
        size = max(1, PIECE * (16 if x.is_cuda else 1) // many)
        told = []
        for start in range(0, rows, size):
            few = torch.arange(start, min(start + size, rows), device=x.device)
            of = few.repeat_interleave(many)
            image = _placed(z[of], pixel[few].view(-1, 1), values[few].view(len(of), 1, -1))
            image += x.flatten(2)[of]
            y, loss = problem.y[of], trees.take(self.loss, of)
            logits, score = look(problem.model, loss, image.view(-1, *x.shape[1:]), y)
            told.append((score, loss.reached(logits, y)))
        scores, reached = (torch.cat(parts).view(rows, many) for parts in zip(*told, strict=True))
        return scores, reached


def _values(x: Tensor, z: Tensor, where: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """The pixels (B, M) of moves, and what z becomes there, (B, M, C)."""
    pixel, target = where % x.shape[2], _targets(x)[where // x.shape[2]]
    at = pixel.unsqueeze(1).expand(-1, x.shape[1], -1)
    old_x, old_z = (t.gather(2, at).transpose(1, 2) for t in (x, z))
    way = share.gather(1, where).unsqueeze(2) * (target - old_x)
    return pixel, torch.where(target.isnan(), old_z, way)


def _placed(z: Tensor, pixel: Tensor, values: Tensor) -> Tensor:
    """A copy of z (B, C, n) with other values (B, 1, C) at one pixel (B, 1) each."""
    return z.scatter(2, pixel.unsqueeze(1).expand(-1, z.shape[1], 1), values.transpose(1, 2))


def _targets(x: Tensor) -> Tensor:
    """The kinds of moves as a table (O, C), NaN for channels that stay, without a copy to a GPU."""
    kinds = [[math.nan if v is None else v for v in kind] for kind in _kinds(x.shape[1])]
    return torch.stack([torch.stack([x.new_full((), v) for v in kind]) for kind in kinds])


@cache
def _kinds(channels: int) -> tuple[tuple[float | None, ...], ...]:
    """The kinds of moves: values that channels go to, None for those that stay.

    First all channels to 1, to 0, most of the way to 1, to 0; then other corners, and each alone.
    """
    kinds: list[tuple[float | None, ...]] = [(v,) * channels for v in (1.0, 0.0, NEAR, 1 - NEAR)]
    if 1 < channels <= 4:
        kinds += list(product((0.0, 1.0), repeat=channels))[1:-1]
        for c, value in product(range(channels), (1.0, 0.0)):
            kinds.append(tuple(value if c == i else None for i in range(channels)))
    return tuple(kinds)
