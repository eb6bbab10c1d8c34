"""A toy network for masks, and whether a gradient is seen through one."""

from functools import cache

import torch

from helpers.toys import generator
from mpkit import data
from mpkit.attacks import Margin
from mpkit.attacks.gradients import input_gradient
from mpkit.masking import Sanitized
from mpkit.models import small_cnn


@cache
def toy():
    model = small_cnn((1, 8, 8), 10, generator(3)).eval()
    x = data.load("digits", "test").x[:16]
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def steep(model, x, y):
    """Whether each image has a gradient of the margin that is not zero."""
    found = input_gradient(Sanitized(model), Margin(), x, y).gradient
    return (found != 0).flatten(1).any(1)
