"""mpkit: can one model be robust to several kinds of perturbation at once?"""

__version__ = "0.1.0"
