"""A differentiable bilinear rotation and shift of images, with zeros outside."""

import torch
from torch import Tensor


def warp(x: Tensor, pose: Tensor) -> Tensor:
    """Rotate each image about its centre, then shift it, with bilinear interpolation.

    Pixels that come from outside the image are zero and nothing wraps round. The identity pose
    and shifts by whole pixels are exact, and no pixel leaves the range of the four it is mixed
    from. Gradients flow to the images and to the pose.

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
    wide = torch.promote_types(x.dtype, torch.float32)  # half numbers could not count the pixels
    across, down = _source(pose.to(wide), height, width)
    left, top = across.detach().floor(), down.detach().floor()
    rightwards = (across - left).to(x.dtype).unsqueeze(1)
    downwards = (down - top).to(x.dtype).unsqueeze(1)
    padded = torch.nn.functional.pad(x, (1, 2, 1, 2)).flatten(2)
    stride = width + 3
    corner = top.add_(1).mul_(stride).add_(left).add_(1).long().flatten(1).unsqueeze(1)
    corner = corner.expand(-1, x.shape[1], -1)

    def at(offset: int) -> Tensor:
        return padded[..., offset:].gather(2, corner).view_as(x)

    upper = at(0).lerp(at(1), rightwards)
    lower = at(stride).lerp(at(stride + 1), rightwards)
    return upper.lerp(lower, downwards)


def _source(pose: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Columns and rows (B, H, W) each pixel comes from, kept to [-1, W] and [-1, H]."""
    shift_x, shift_y, degrees = pose.unsqueeze(2).unbind(1)
    angle = torch.deg2rad(degrees)
    cosine, sine = torch.cos(angle), torch.sin(angle)
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    u = torch.arange(width, device=pose.device, dtype=pose.dtype) - middle_x - shift_x
    v = torch.arange(height, device=pose.device, dtype=pose.dtype) - middle_y - shift_y
    across = ((cosine * u).unsqueeze(1) - (sine * v).unsqueeze(2)).add_(middle_x)
    down = ((sine * u).unsqueeze(1) + (cosine * v).unsqueeze(2)).add_(middle_y)
    return across.clamp_(-1, width), down.clamp_(-1, height)
