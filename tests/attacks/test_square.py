"""Square, where its arithmetic meets its limits."""

import torch

from mpkit.attacks import Square
from mpkit.sets import L1


def test_a_patch_of_one_pixel_may_cancel_what_it_held():
    """On the smallest images a new pixel and its old value can add up to nothing."""
    square = Square(L1(16.0), 400, share=0.05)
    z = torch.zeros(1, 1, 4, 4)
    z[0, 0, 1, 1] = -5.0
    into = z != 0
    for sign in (-1.0, 1.0):
        moved = square.moved(z, into, torch.zeros_like(into), sign * into.to(z.dtype))
        assert torch.isfinite(moved).all()
        assert float(moved.abs().sum()) <= 16 * (1 + 1e-6)
