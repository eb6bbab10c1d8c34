"""A differentiable bilinear rotation and shift of images, with zeros outside."""

import torch
from torch import Tensor


def warp(x: Tensor, pose: Tensor) -> Tensor:
    """Rotate each image about its centre, then shift it, with bilinear interpolation.

    Pixels that come from outside the image are zero and nothing wraps round. The identity pose
    and shifts by whole pixels are exact. Gradients flow to the images and to the pose.

    Args:
        x: (B, C, H, W).
        pose: (B, 3): shift to the right and shift downwards in pixels, and the angle in degrees,
            positive anticlockwise as the image is looked at.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if the shapes do not fit.
    """
    if x.dim() != 4 or pose.shape != (len(x), 3):
        raise ValueError(
            f"warp: pose must be (B, 3) = (dx, dy, degrees) for images (B, C, H, W), got "
            f"{tuple(pose.shape)} for {tuple(x.shape)}; give one pose per image"
        )
    height, width = x.shape[-2:]
    across, down = _source(pose.to(x.dtype), height, width)
    left, top = across.detach().floor(), down.detach().floor()
    padded = torch.nn.functional.pad(x, (1, 2, 1, 2)).flatten(2)
    corner = (top.long() + 1) * (width + 3) + left.long() + 1
    right_part, low_part = (across - left).unsqueeze(1), (down - top).unsqueeze(1)

    def at(offset: int) -> Tensor:
        index = (corner + offset).unsqueeze(1).expand(-1, x.shape[1], -1)
        return padded.gather(2, index)

    upper = at(0) * (1 - right_part) + at(1) * right_part
    lower = at(width + 3) * (1 - right_part) + at(width + 4) * right_part
    return (upper * (1 - low_part) + lower * low_part).view_as(x)


def _source(pose: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Columns and rows (B, H*W) each pixel comes from, kept to [-1, W] and [-1, H]."""
    shift_x, shift_y, degrees = pose.unsqueeze(2).unbind(1)
    cosine, sine = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    rows = torch.arange(height, device=pose.device, dtype=pose.dtype) - middle_y
    columns = torch.arange(width, device=pose.device, dtype=pose.dtype) - middle_x
    v = rows.repeat_interleave(width).unsqueeze(0) - shift_y
    u = columns.repeat(height).unsqueeze(0) - shift_x
    across = cosine * u - sine * v + middle_x
    down = sine * u + cosine * v + middle_y
    return across.clamp(-1, width), down.clamp(-1, height)
