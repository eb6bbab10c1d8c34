"""The attacks on one set: frozen settings, called as ``attack(model, x, y, rng)``."""

from mpkit.across import Across
from mpkit.apgd import APGD
from mpkit.decision import Boundary, HopSkipJump, Pointwise
from mpkit.engine import Attack, Found
from mpkit.minimum_norm import FMN
from mpkit.msd import MSD
from mpkit.pgd import PGD, SLIDE, Clean, Constant, Falling, Uniform
from mpkit.square import Square

__all__ = [
    "APGD",
    "FMN",
    "MSD",
    "PGD",
    "SLIDE",
    "Across",
    "Attack",
    "Boundary",
    "Clean",
    "Constant",
    "Falling",
    "Found",
    "HopSkipJump",
    "Pointwise",
    "Square",
    "Uniform",
]
