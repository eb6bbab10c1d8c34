"""Attacks: how to search a set for an image that hurts a model, as frozen settings.

Every attack is called as ``attack(model, x, y, rng)``.
"""

from mpkit.attacks.affine import AffinePGD, GridThenAPGD
from mpkit.attacks.apgd import APGD
from mpkit.attacks.base import Attack, AttackResult
from mpkit.attacks.dead_zone import BehindZone, BelowRank, StraightThrough, WholePixels
from mpkit.attacks.decision import Boundary, HopSkipJump, Pointwise
from mpkit.attacks.fmn import FMN, BoundaryStart
from mpkit.attacks.gradients import input_gradient
from mpkit.attacks.greedy import GreedyPixels
from mpkit.attacks.least_norm import LeastNorm
from mpkit.attacks.losses import (
    DLR,
    AnyWrong,
    CrossEntropy,
    Loss,
    Margin,
    SoftMargin,
    Targeted,
    TargetedCrossEntropy,
    TargetedDLR,
    TargetedMargin,
)
from mpkit.attacks.pgd import MSD, PGD, SLIDE, Clean, Constant, Falling, Uniform
from mpkit.attacks.recorded import GraphedAttack, GraphedSteps
from mpkit.attacks.spatial import Grid, SpatialPGD
from mpkit.attacks.square import Square, WorstOfK
from mpkit.attacks.wrappers import Batched, MultiTargeted, Restarts, UntilBroken, Worst

__all__ = [
    "APGD",
    "DLR",
    "FMN",
    "MSD",
    "PGD",
    "SLIDE",
    "AffinePGD",
    "AnyWrong",
    "Attack",
    "AttackResult",
    "Batched",
    "BehindZone",
    "BelowRank",
    "Boundary",
    "BoundaryStart",
    "Clean",
    "Constant",
    "CrossEntropy",
    "Falling",
    "GraphedAttack",
    "GraphedSteps",
    "GreedyPixels",
    "Grid",
    "GridThenAPGD",
    "HopSkipJump",
    "LeastNorm",
    "Loss",
    "Margin",
    "MultiTargeted",
    "Pointwise",
    "Restarts",
    "SoftMargin",
    "SpatialPGD",
    "Square",
    "StraightThrough",
    "Targeted",
    "TargetedCrossEntropy",
    "TargetedDLR",
    "TargetedMargin",
    "Uniform",
    "UntilBroken",
    "WholePixels",
    "Worst",
    "WorstOfK",
    "input_gradient",
]
