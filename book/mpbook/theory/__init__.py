"""The theory, executable: models, adversaries, bounds and frontiers of the paper's theorems.

Everything here is about points (N, d + 1) in float64, not images, except `spatial` (theorem 4).
Statements marked "ours" go beyond Tramèr and Boneh 2019.
"""

from mpbook.theory.adversaries import (
    Erase,
    FlipStrong,
    FrankWolfe,
    Lie,
    Plant,
    ShiftIfTrue,
    ShiftWeak,
    WorstOf,
    WorstSwap,
)
from mpbook.theory.affine import AffineInBox
from mpbook.theory.bounds import NeymanPearson, SwapBound, attacked_distance
from mpbook.theory.classifiers import Network, ThreeViews, simple_classifiers, train
from mpbook.theory.frontier import (
    Risks,
    floor,
    grid_noise,
    least_risk,
    linear_frontier,
    linear_risks,
)
from mpbook.theory.gaussians import StrongBit, StrongPixel
from mpbook.theory.hulls import hull_radius, union_radius, worst_weights
from mpbook.theory.linear import L1Ball, Linear, LinfBall, mix, normal_cdf, spread
from mpbook.theory.montecarlo import measure, two_sample
from mpbook.theory.spatial import BrightPixel

__all__ = [
    "AffineInBox",
    "BrightPixel",
    "Erase",
    "FlipStrong",
    "FrankWolfe",
    "L1Ball",
    "Lie",
    "Linear",
    "LinfBall",
    "Network",
    "NeymanPearson",
    "Plant",
    "Risks",
    "ShiftIfTrue",
    "ShiftWeak",
    "StrongBit",
    "StrongPixel",
    "SwapBound",
    "ThreeViews",
    "WorstOf",
    "WorstSwap",
    "attacked_distance",
    "floor",
    "grid_noise",
    "hull_radius",
    "least_risk",
    "linear_frontier",
    "linear_risks",
    "measure",
    "mix",
    "normal_cdf",
    "simple_classifiers",
    "spread",
    "train",
    "two_sample",
    "union_radius",
    "worst_weights",
]
