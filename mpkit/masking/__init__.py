"""A doctor for gradient masking: evidence, a verdict and advice for each perturbation set."""

from mpkit.masking.adaptive import Guided, Smoothed
from mpkit.masking.bpda import find_bypass
from mpkit.masking.case import Effort
from mpkit.masking.curves import landscape
from mpkit.masking.doctor import diagnose
from mpkit.masking.report import Evidence, Report, SetReport, Verdict, Weight
from mpkit.masking.wrappers import Averaged, Tame, judge

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
