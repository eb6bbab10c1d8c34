"""Norms, dual norms, exact projections and the warp: pure tensor functions, row by row."""

from mpkit.norms import (
    coordinate_direction,
    filling_step,
    l1_norm,
    l2_norm,
    linf_norm,
    per_row,
    sign_direction,
    slack,
    sparse_direction,
    unit_direction,
)
from mpkit.projections import (
    clip_to_box,
    nearest_in_l1_ball,
    nearest_in_l1_ball_and_box,
    nearest_in_l2_ball,
    nearest_in_l2_ball_and_box,
    nearest_in_linf_ball,
    nearest_in_linf_ball_and_box,
)
from mpkit.warp import warp

__all__ = [
    "clip_to_box",
    "coordinate_direction",
    "filling_step",
    "l1_norm",
    "l2_norm",
    "linf_norm",
    "nearest_in_l1_ball",
    "nearest_in_l1_ball_and_box",
    "nearest_in_l2_ball",
    "nearest_in_l2_ball_and_box",
    "nearest_in_linf_ball",
    "nearest_in_linf_ball_and_box",
    "per_row",
    "sign_direction",
    "slack",
    "sparse_direction",
    "unit_direction",
    "warp",
]
