"""The theory, executable: models, adversaries, bounds and frontiers of the paper's theorems.

Everything here is about points (N, d + 1) in float64, not images, except `spatial` (theorem 4).
Statements marked "ours" go beyond Tramèr and Boneh 2019.
"""

from mpkit.intervals import Estimate, mean_of, proportion
from mpkit.theory.adversaries import (
    Adversary,
    Erase,
    FlipStrong,
    FrankWolfe,
    Lie,
    Plant,
    PlantLie,
    ShiftIfTrue,
    ShiftWeak,
    WorstOf,
    WorstSwap,
    log_ratio,
    swap,
)
from mpkit.theory.affine import AffineInBox, shared_cost
from mpkit.theory.bounds import (
    NeymanPearson,
    SwapBound,
    attacked_distance,
    chi_square,
    hiding_distance,
    overlap,
    planted_over_shifted,
    selection_distance,
)
from mpkit.theory.ensembles import ThreeViews
from mpkit.theory.frontier import (
    Floor,
    Risks,
    floor,
    linear_frontier,
    linear_risks,
    lower_hull,
    proof_map_ends,
)
from mpkit.theory.gaussians import GaussianModel, StrongBit, StrongPixel
from mpkit.theory.linear import (
    Classifier,
    L1Ball,
    Linear,
    LinfBall,
    Nothing,
    OnSome,
    Reach,
    chance_of_error,
    mix,
    normal_cdf,
    spread,
)
from mpkit.theory.montecarlo import Tally, measure, two_sample
from mpkit.theory.programs import grid_noise, least_risk
from mpkit.theory.spatial import BrightPixel
from mpkit.theory.zoo import Network, simple_classifiers, train

__all__ = [
    "Adversary",
    "AffineInBox",
    "BrightPixel",
    "Classifier",
    "Erase",
    "Estimate",
    "FlipStrong",
    "Floor",
    "FrankWolfe",
    "GaussianModel",
    "L1Ball",
    "Lie",
    "Linear",
    "LinfBall",
    "Network",
    "NeymanPearson",
    "Nothing",
    "OnSome",
    "Plant",
    "PlantLie",
    "Reach",
    "Risks",
    "ShiftIfTrue",
    "ShiftWeak",
    "StrongBit",
    "StrongPixel",
    "SwapBound",
    "Tally",
    "ThreeViews",
    "WorstOf",
    "WorstSwap",
    "attacked_distance",
    "chance_of_error",
    "chi_square",
    "floor",
    "grid_noise",
    "hiding_distance",
    "least_risk",
    "linear_frontier",
    "linear_risks",
    "log_ratio",
    "lower_hull",
    "mean_of",
    "measure",
    "mix",
    "normal_cdf",
    "overlap",
    "planted_over_shifted",
    "proof_map_ends",
    "proportion",
    "selection_distance",
    "shared_cost",
    "simple_classifiers",
    "spread",
    "swap",
    "train",
    "two_sample",
]
