"""Training: schemes that make attacks into losses, recipes, and one reproducible loop."""

from mpkit.training.checkpoints import Checkpoints
from mpkit.training.costs import Passes, passes
from mpkit.training.curricula import Balanced, RadiusWarmup
from mpkit.training.fit import Epoch, fit
from mpkit.training.recipes import SGD, Adam, Constant, RandomPose, Recipe, Steps, Triangle
from mpkit.training.run import Diverged
from mpkit.training.schemes import Average, LogitPairing, Max, Natural, Random, Scheme, Single
from mpkit.training.validation import Validation, accuracy

__all__ = [
    "SGD",
    "Adam",
    "Average",
    "Balanced",
    "Checkpoints",
    "Constant",
    "Diverged",
    "Epoch",
    "LogitPairing",
    "Max",
    "Natural",
    "Passes",
    "RadiusWarmup",
    "Random",
    "RandomPose",
    "Recipe",
    "Scheme",
    "Single",
    "Steps",
    "Triangle",
    "Validation",
    "accuracy",
    "fit",
    "passes",
]
