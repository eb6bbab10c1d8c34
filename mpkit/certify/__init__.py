"""Certificates: lower bounds of robustness, complete decisions, and what lies between."""

from mpkit.certify.bounds import BallRegion, BoxRegion, LinearRelaxation, Region, intervals
from mpkit.certify.exact import Decisions, Exact, Status
from mpkit.certify.network import ReluNetwork
from mpkit.certify.poses import PoseCells
from mpkit.certify.program import IntegerProgram

__all__ = [
    "BallRegion",
    "BoxRegion",
    "Decisions",
    "Exact",
    "IntegerProgram",
    "LinearRelaxation",
    "PoseCells",
    "Region",
    "ReluNetwork",
    "Status",
    "intervals",
]
