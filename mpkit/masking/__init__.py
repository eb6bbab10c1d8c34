"""A doctor for gradient masking: evidence, a verdict and advice for each perturbation set."""

from mpkit.masking.active import Plant, Planted, active, plant
from mpkit.masking.adaptive import NES, TransferPGD
from mpkit.masking.bpda import find_bpda
from mpkit.masking.case import Effort
from mpkit.masking.curves import landscape
from mpkit.masking.detours import find_detours
from mpkit.masking.doctor import diagnose
from mpkit.masking.evidence import Cause, Evidence, Weight
from mpkit.masking.report import Report, SetReport, Verdict
from mpkit.masking.wrappers import EOT, Sanitized, assess

__all__ = [
    "EOT",
    "NES",
    "Cause",
    "Effort",
    "Evidence",
    "Plant",
    "Planted",
    "Report",
    "Sanitized",
    "SetReport",
    "TransferPGD",
    "Verdict",
    "Weight",
    "active",
    "assess",
    "diagnose",
    "find_bpda",
    "find_detours",
    "landscape",
    "plant",
]
