"""Certificates: lower bounds of robustness, complete decisions, and what lies between."""

from mpkit.certify.bounds import BallRegion, BoxRegion, LinearRelaxation, Region, intervals
from mpkit.certify.exact import Decisions, Exact, Status
from mpkit.certify.network import ReluNetwork
from mpkit.certify.poses import PoseCells
from mpkit.certify.program import IntegerProgram
from mpkit.certify.sandwich import Contradiction, Sandwich, certified, sandwich
from mpkit.certify.training import IntervalLoss

__all__ = [
    "BallRegion",
    "BoxRegion",
    "Contradiction",
    "Decisions",
    "Exact",
    "IntegerProgram",
    "IntervalLoss",
    "LinearRelaxation",
    "PoseCells",
    "Region",
    "ReluNetwork",
    "Sandwich",
    "Status",
    "certified",
    "intervals",
    "sandwich",
]
