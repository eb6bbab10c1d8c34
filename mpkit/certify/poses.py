"""Decisions for rotations and shifts: cells of poses, bounded whole and halved where that fails."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mpkit.attacks import Grid, Margin
from mpkit.certify.bounds import BoxRegion, Interval, before_relus, linear_bound, margins
from mpkit.certify.exact import Decisions, Status, enter, undecided
from mpkit.certify.leaves import MARGIN
from mpkit.certify.network import ReluNetwork
from mpkit.core.checks import require_images, require_labels, require_positive
from mpkit.sets import RotationTranslation
from mpkit.sets.norms import root

BATCH = 256
"""Cells that are bounded at a time."""

WIDEST = 0.5
"""How far a pixel's source may move within a cell from its middle to be bounded, in pixels."""


@dataclass(frozen=True)
class PoseCells:
    """A complete search over all poses of a RotationTranslation, but for a stated width.

    Every cell of shifts and angles gives each pixel an interval, exactly the values that bilinear
    interpolation takes over a rectangle in which its source stays; linear relaxation bounds the
    margins over these intervals. A cell that is not proved is halved, and the pose in its middle
    is tried as a witness.

    Args:
        shifts: poses along each shift in a first grid, which finds the easy witnesses.
        angles: the same for the angle.
        cells: at most for each example, after which it is unknown.
        width: a cell is not halved once no source in it moves further than this from the middle's,
            in pixels; an example with such a cell is unknown.

    Raises: ValueError: if a number is not positive.
    """

    shifts: int = 5
    angles: int = 21
    cells: int = 100_000
    width: float = 1e-4

    def __post_init__(self) -> None:
        require_positive("PoseCells", **vars(self))

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, poses: RotationTranslation
    ) -> Decisions:
        """Decide every example.

        Args:
            model: what ``ReluNetwork`` takes; its weights are used in float64.
            x: (B, C, H, W) in [0, 1].
            y: (B,) int64.
            poses: the set, with numbers as bounds.

        Raises: ValueError: if an argument is unfit, or the network has a layer of another kind.
        """
        require_images(x)
        require_labels(y, x)
        if not isinstance(poses, RotationTranslation) or isinstance(poses.pixels, Tensor):
            raise ValueError(
                f"PoseCells: poses must be a RotationTranslation with numbers, got {poses!r}; "
                "balls are decided by Exact"
            )
        x = x.double()
        network = ReluNetwork.exactly(model, x.shape[1:])
        found = undecided(network, poses, x, y)
        rows = found.which(Status.UNKNOWN)
        if len(rows):
            grid = Grid(poses, self.shifts, self.angles, loss=Margin())
            rng = torch.Generator().manual_seed(0)
            enter(found, network, poses, x, y, rows, grid(network, x[rows], y[rows], rng).z)
            self._search(found, network, x, y, poses)
        return found

    def _search(
        self,
        found: Decisions,
        network: ReluNetwork,
        x: Tensor,
        y: Tensor,
        poses: RotationTranslation,
    ) -> None:
        rows = found.which(Status.UNKNOWN)
        spec, doubtful = margins(y, network.classes), torch.zeros(len(x), dtype=torch.bool)
        bounds = poses.bounds(x[rows])
        example, middle, half = rows, torch.zeros_like(bounds), bounds
        while len(example):
            here = slice(max(0, len(example) - BATCH), len(example))  # the newest first
            at, pose, far = example[here], middle[here], half[here]
            enter(found, network, poses, x, y, at, pose)
            found.work.add_(torch.bincount(at, minlength=len(x)))
            reach, region = pixels_over(x[at], pose, far)
            failed = reach > WIDEST
            small = (~failed).nonzero().squeeze(1)
            if len(small):
                part = BoxRegion(region.low[small], region.high[small])
                before = before_relus(network, part)
                least = linear_bound(network, part, spec[at[small]], before)
                failed[small] = (least <= MARGIN).any(1)
            doubtful[at[failed & (reach <= self.width)]] = True
            doubtful |= found.work >= self.cells
            on = failed & (reach > self.width)
            halves = _halved(at[on], pose[on], far[on], max(x.shape[2:]) / 2)
            left = slice(0, here.start)
            example, middle, half = (
                torch.cat([old[left], new])
                for old, new in zip((example, middle, half), halves, strict=True)
            )
            still = ((found.status == Status.UNKNOWN) & ~doubtful)[example]
            example, middle, half = example[still], middle[still], half[still]
        proved = rows[(found.status[rows] == Status.UNKNOWN) & ~doubtful[rows]]
        found.status[proved] = int(Status.CERTIFIED)


def _halved(
    example: Tensor, middle: Tensor, half: Tensor, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Cells cut in two along the coordinate that moves the pixels most."""
    moved = half * half.new_tensor([1.0, 1.0, radius * torch.pi / 180])
    along = moved.argmax(1, keepdim=True)
    less = half.scatter(1, along, half.gather(1, along) / 2)
    step = torch.zeros_like(half).scatter(1, along, less.gather(1, along))
    return example.repeat(2), torch.cat([middle - step, middle + step]), less.repeat(2, 1)


def pixels_over(x: Tensor, middle: Tensor, half: Tensor) -> tuple[Tensor, Interval]:
    """The values that each pixel takes over a cell of poses, as ``sets.spatial.warp`` gives them.

    Args:
        x: (B, C, H, W).
        middle: (B, 3), pose in the middle of the cell: pixels, pixels, degrees.
        half: (B, 3), half the cell's widths.

    Returns: how far a pixel's source moves at most, (B,) in pixels, and the bounds, which hold
    where that is at most 1.
    """
    height, width = x.shape[-2:]
    shift_x, shift_y, degrees = middle.view(-1, 3, 1, 1).unbind(1)
    by_x, by_y, turn = half.view(-1, 3, 1, 1).unbind(1)
    angle, turn = torch.deg2rad(degrees), torch.deg2rad(turn)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    u = torch.arange(width, dtype=x.dtype) - middle_x - shift_x
    v = torch.arange(height, dtype=x.dtype).unsqueeze(1) - middle_y - shift_y
    across, down = cosine * u - sine * v, sine * u + cosine * v
    # f(angle) = R cos(angle + c) leaves its tangent by at most R turn² / 2.
    curved = root(u.square() + v.square()) * turn.square() / 2
    mostly, partly = (cosine.abs() + turn).clamp(max=1), (sine.abs() + turn).clamp(max=1)
    far_x = down.abs() * turn + curved + mostly * by_x + partly * by_y + 1e-9
    far_y = across.abs() * turn + curved + partly * by_x + mostly * by_y + 1e-9
    columns = _stops(across + middle_x, far_x, width)
    lines = _stops(down + middle_y, far_y, height)
    values = torch.stack([_sampled(x, a, b) for a in columns for b in lines])
    reach = torch.maximum(far_x, far_y).flatten(1).amax(1)
    return reach, Interval(values.amin(0), values.amax(0))


def _stops(where: Tensor, far: Tensor, size: int) -> list[Tensor]:
    """Where a piecewise linear function can be extreme: an interval's ends and whole numbers."""
    low, high = (where - far).clamp(-1, size), (where + far).clamp(-1, size)
    between = [low.ceil(), high.floor()]
    return [low, high, *(torch.minimum(torch.maximum(one, low), high) for one in between)]


def _sampled(x: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Bilinear interpolation with zeros outside: places (B, H, W) in [-1, W] and [-1, H]."""
    padded = nn.functional.pad(x, (1, 2, 1, 2))
    left, top = across.floor(), down.floor()
    a, b = (across - left).unsqueeze(1), (down - top).unsqueeze(1)
    stride = padded.shape[-1]
    corner = ((top + 1) * stride + left + 1).long().flatten(1).unsqueeze(1)
    corner, flat = corner.expand(-1, x.shape[1], -1), padded.flatten(2)
    upper_left, upper_right, lower_left, lower_right = (
        flat.gather(2, corner + offset).view_as(x) for offset in (0, 1, stride, stride + 1)
    )
    upper = upper_left + a * (upper_right - upper_left)
    lower = lower_left + a * (lower_right - lower_left)
    return upper + b * (lower - upper)
