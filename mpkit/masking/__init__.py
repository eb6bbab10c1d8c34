"""A doctor for gradient masking: evidence, a verdict and advice for each perturbation set."""

from mpkit.masking.bypass import find_bypass
from mpkit.masking.case import Effort
from mpkit.masking.curves import landscape
from mpkit.masking.doctor import diagnose
from mpkit.masking.report import Evidence, Report, SetReport, Verdict, Weight
from mpkit.masking.steered import Guided, Smoothed
from mpkit.masking.tame import Averaged, Tame, judge

__all__ = [
    "Averaged",
    "Effort",
    "Evidence",
    "Guided",
    "Report",
    "SetReport",
    "Smoothed",
    "Tame",
    "Verdict",
    "Weight",
    "diagnose",
    "find_bypass",
    "judge",
    "landscape",
]
