"""Which network this is: a hash of all that it computes with, and its answers on a probe.

Two networks may share their weights and differ in a number, an activation or a closure. What has
been measured on one must never be taken for the other's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mpkit.core.memory import in_pieces
from mpkit.models.anatomy import hash_of, leaves

Facts = dict[str, Any]
Model = Callable[[Tensor], Tensor]
WHO = ("model", "settings", "answers", "slopes")
ABSENT = -1e30  # in place of NaN, which records do not hold
CLOSE = 0.005
"""Answers of one network on two devices differ by less, as a share of the largest."""

VIEWS = 8  # random directions in which the slopes are told


def identity(model: Model, image: Tensor, ask: Model | None = None) -> Facts:
    """What tells a network from every other one, as plain data.

    Args:
        model: images to logits (B, K), in the mode that it is measured in.
        image: (1, C, H, W), one of those that it is made for; shape, type and device count.
        ask: what is asked in its place, such as the same model behind checks.

    Returns: ``model``, a hash of weights and code; ``settings``, a hash of all else that it holds
        and that being asked does not change; ``answers``, logits on a fixed probe, or None where
        two questions get two answers; ``slopes``, what flows back there, or None for nothing.
    """
    probe, before = _probe(image), leaves(model)
    first, again = (_asked(ask or model, probe) for _ in range(2))
    steady = torch.equal(first[0], again[0])
    if steady and not close(_asked(ask or model, probe[:2])[0], first[0][:2]):
        warnings.warn(
            "model: its answers depend on the other images of the batch; is that meant?",
            stacklevel=5,
        )
    after = leaves(model)
    told = {k: v for k, v in after.items() if before.get(k) == v}
    solid = {k: v for k, v in told.items() if k.endswith(" code") or "._parameters." in k}
    (answers, slopes), flows = first, first[1].shape == again[1].shape
    flows = flows and slopes.numel() > 0 and close(slopes, again[1])
    return {
        "model": hash_of(sorted(solid.items())),
        "settings": hash_of(sorted((k, v) for k, v in told.items() if k not in solid)),
        "answers": answers.tolist() if steady else None,
        "slopes": slopes.tolist() if steady and flows else None,
    }


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two identities are those of one network, asked on the same machine or on two."""
    if one["model"] != other["model"]:
        return False
    alike = one["settings"] == other["settings"]
    for name in ("answers", "slopes"):
        if (one[name] is None) != (other[name] is None):
            return False
        if one[name] is None:
            if name == "answers" and not alike:
                return False
            continue
        a, b = (torch.tensor(each[name], dtype=torch.float64) for each in (one, other))
        if a.shape != b.shape or not close(a, b):
            return False
        if name == "answers" and not alike and not torch.equal(a, b):
            return False
    return True


def close(a: Tensor, b: Tensor) -> bool:
    """Whether numbers are the same but for rounding, as a share of the largest."""
    a, b = a.detach().nan_to_num(), b.detach().nan_to_num()
    size = float(torch.maximum(a.abs().max(), b.abs().max())) if a.numel() else 0.0
    return float((a - b).abs().max()) <= CLOSE * size if size else True


def _probe(image: Tensor) -> Tensor:
    """Noise of several strengths, flat images and a ramp: (8, C, H, W), always the same."""
    rng = torch.Generator().manual_seed(0)
    noise = torch.rand(4, *image.shape[1:], generator=rng)
    flat = torch.tensor([0.0, 0.5, 1.0]).view(3, 1, 1, 1).expand(3, *image.shape[1:])
    ramp = torch.linspace(0, 1, image[0].numel()).view(1, *image.shape[1:])
    return torch.cat([noise, flat, ramp]).to(image)


def _asked(model: Model, probe: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and slopes, float64 on the CPU, NaN replaced; the global random numbers are put back.

    Slopes are the gradients of a fixed mix of the logits, seen in a few random directions; there
    are none where a network lets nothing flow back.
    """
    devices = [probe.device] if probe.device.type == "cuda" else []
    rng = torch.Generator().manual_seed(1)
    views = torch.randn(probe[0].numel(), VIEWS, generator=rng, dtype=torch.float64)

    def ask(rows: slice) -> tuple[Tensor, Tensor]:
        x = probe[rows].clone().requires_grad_()
        logits = model(x.view_as(x))
        mix = torch.randn(logits.shape[1:], generator=torch.Generator().manual_seed(2))
        (slope,) = torch.autograd.grad((logits * mix.to(logits)).sum(), x)
        return logits.detach().double().cpu(), slope.detach().double().cpu().flatten(1) @ views

    def only_ask(rows: slice) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return (logits := model(probe[rows].clone()).double().cpu()), logits.new_empty(0)

    with torch.random.fork_rng(devices), torch.enable_grad():
        pieces = []
        for way in (ask, only_ask):  # many a network works without a gradient alone
            torch.manual_seed(0)
            try:
                pieces = in_pieces("identity", way, n := len(probe), n)
                break
            except (RuntimeError, ValueError, NotImplementedError):
                if way is only_ask:
                    raise
    answers, slopes = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return answers.nan_to_num(ABSENT), slopes.nan_to_num(ABSENT)
