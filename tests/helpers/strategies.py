"""Inputs that Hypothesis draws: small batches with ties, zeros, walls of the box and extremes."""

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import strategies as st

from mpkit.sets import L1, L2, Linf

DTYPES = {torch.float32: np.float32, torch.float64: np.float64}
SHAPES = [(1, 1, 1, 1), (2, 1, 2, 3), (3, 3, 2, 2), (1, 1, 5, 4)]

dtypes = st.sampled_from(list(DTYPES))
shapes = st.sampled_from(SHAPES)


def tensors(dtype, shape, low, high):
    width = 32 if dtype == torch.float32 else 64
    low, high = (float(np.float32(v)) for v in (low, high))
    entries = st.one_of(
        st.sampled_from([0.0, low, high]), st.floats(low, high, width=width, allow_subnormal=False)
    )
    drawn = arrays.arrays(DTYPES[dtype], shape, elements=entries)
    return drawn.map(lambda a: torch.from_numpy(a.copy()))


@st.composite
def radii(draw, rows, least=1e-3, most=30.0):
    """A number, or one radius for each row."""
    number = st.floats(least, most)
    if draw(st.booleans()):
        return draw(number)
    return torch.tensor(draw(st.lists(number, min_size=rows, max_size=rows)))


@st.composite
def balls(draw, rows):
    kind = draw(st.sampled_from([Linf, L2, L1]))
    return kind(draw(radii(rows)))


@st.composite
def ball_cases(draw, most=100.0):
    """A ball, images, a perturbation of any size and a gradient, of one dtype and shape."""
    dtype, shape = draw(dtypes), draw(shapes)
    x = draw(tensors(dtype, shape, 0, 1))
    z = draw(tensors(dtype, shape, -most, most))
    g = draw(tensors(dtype, shape, -1e3, 1e3))
    return draw(balls(shape[0])), x, z, g
