"""Perturbation sets: what an adversary may do to an image, in each set's own coordinate z."""

from mpkit.sets.balls import L1, L2, Ball, Linf
from mpkit.sets.base import PerturbationSet
from mpkit.sets.combinations import Affine, Blend, Union
from mpkit.sets.dead_zone import BehindDeadZone
from mpkit.sets.sparse import L0
from mpkit.sets.spatial import RotationTranslation
from mpkit.sets.threat_model import parse_threat, usual

__all__ = [
    "L0",
    "L1",
    "L2",
    "Affine",
    "Ball",
    "BehindDeadZone",
    "Blend",
    "Linf",
    "PerturbationSet",
    "RotationTranslation",
    "Union",
    "parse_threat",
    "usual",
]
