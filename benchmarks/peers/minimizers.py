"""Attacks that make perturbations small: ours, and the best ones of adversarial-library.

Each is a plain function of model, images, labels and propagations for each image, and uses up what
it is given. Attacks with a radius are run again and again at half way between the smallest norm
that broke an image and the largest radius that did not; this is done alike for all libraries.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpkit import attacks, sets
from mpkit.audit.protocol import NORMS, P
from mpkit.sets import Ball

Search = Callable[[nn.Module, Tensor, Tensor, int], object]
"""Model, images (B, C, H, W), labels (B,), propagations for each image."""
ROUNDS = 10
"""Radii that attacks with a radius try."""


def order(norm: str) -> float:
    """Infinity, 2 or 1."""
    return P[NORMS[norm]]


def at_radii(attack: Callable[[Ball, int], Any], norm: str, radius: float) -> Search:
    """An attack with a radius, at radii that close in on the smallest of each image.

    Args:
        attack: called with a ball of a radius for each image, and propagations; gives a function
            of model, images and labels that returns images.
        norm: linf, l2 or l1.
        radius: the first one; it is doubled as long as nothing breaks.
    """

    def search(model: nn.Module, x: Tensor, y: Tensor, budget: int) -> None:
        low, high = x.new_zeros(len(x)), x.new_full((len(x),), torch.inf)
        eps = torch.full_like(low, radius)
        for _ in range(ROUNDS):
            ball = NORMS[norm](eps)
            image = attack(ball, budget // ROUNDS)(model, x, y).detach()
            with torch.no_grad():
                broke = model(image).argmax(1) != y
            norms = torch.minimum(ball.norm(image - x), eps)
            high = torch.where(broke, torch.minimum(high, norms), high)
            low = torch.where(broke, low, torch.maximum(low, eps))
            eps = torch.where(high.isinf(), 2 * eps, (low + high) / 2).clamp(min=1e-6)

    return search


def ours(make: Callable[[Ball, int], attacks.Attack]) -> Callable[[Ball, int], Any]:
    """An attack of this package, made for a ball and a number of gradients."""

    def attack(ball: Ball, budget: int) -> Any:
        def call(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            rng = torch.Generator().manual_seed(0)
            return make(ball, budget // 2 - 1)(model, x, y, rng).image

        return call

    return attack


def least(make: Callable[[Ball, int], attacks.Attack], norm: str) -> Search:
    """A minimum-norm attack of this package, in a ball that holds the box."""

    def search(model: nn.Module, x: Tensor, y: Tensor, budget: int) -> None:
        ours(make)(NORMS[norm](1.0).everything(x), budget)(model, x, y)

    return search


def pixels(ball: Ball, n: int) -> attacks.Attack:
    """Whole pixels for about n gradients: a move asks for some tries and two gradients."""
    assert isinstance(ball, sets.L1 | sets.L2)
    tries = 24
    moves = max(2, (2 * n - 80) // (tries + 4))
    return attacks.GreedyPixels(ball, max(1, moves // 2), tries, moves // 8, first=0, polish=10)


def of_mpkit(norm: str, radius: float) -> dict[str, Search]:
    """Ours by name."""
    falling = attacks.Falling(0.01)
    with_radius: dict[str, Callable[[Any, int], attacks.Attack]] = {
        "PGD": lambda b, n: attacks.PGD(b, n, loss=attacks.Margin(), schedule=falling),
        "APGD": lambda b, n: attacks.APGD(b, n, attacks.DLR()),
    }
    if norm == "l1":
        with_radius["SLIDE"] = lambda b, n: attacks.SLIDE(b, n, loss=attacks.Margin())
    if norm != "linf":
        with_radius["GreedyPixels"] = pixels
    start = attacks.BoundaryStart()
    minimal: dict[str, Callable[[Any, int], attacks.Attack]] = {
        "FMN": attacks.FMN,
        "FMN from the border": lambda b, n: attacks.FMN(b, n - 6, start=start),
        "LeastNorm": attacks.LeastNorm,
    }
    found = {name: at_radii(ours(make), norm, radius) for name, make in with_radius.items()}
    return found | {name: least(make, norm) for name, make in minimal.items()}


def of_adv_lib(norm: str, radius: float) -> dict[str, Search]:
    """The best of adversarial-library in this norm, with the settings that AttackBench gives them.

    Empty where the library is not installed.
    """
    if importlib.util.find_spec("adv_lib") is None:
        return {}
    from adv_lib import attacks as al

    p = order(norm)

    def targeted(ball: Ball, budget: int) -> Any:
        rest = {"num_targets": 3, "use_large_reps": norm == "l1"}
        steps = max(5, budget // 6 - 3)
        return lambda m, x, y: al.apgd_targeted(m, x, y, ball.eps, p, n_iter=steps, **rest)

    def fmn(m: nn.Module, x: Tensor, y: Tensor, budget: int) -> Any:
        return al.fmn(m, x, y, p, steps=budget // 2, α_init=10.0 if norm == "linf" else 1.0)

    def alma(m: nn.Module, x: Tensor, y: Tensor, budget: int) -> Any:
        rate = {"l2": 0.1, "l1": 0.5}[norm]
        return al.alma(m, x, y, distance=norm, num_steps=budget // 2, init_lr_distance=rate)

    found: dict[str, Search] = {"APGD targeted": at_radii(targeted, norm, radius), "FMN": fmn}
    if norm == "l2":
        found["DDN"] = lambda m, x, y, budget: al.ddn(m, x, y, steps=budget // 2, levels=None)
        found["PDGD"] = lambda m, x, y, budget: al.pdgd(m, x, y, num_steps=budget // 2)
    else:
        found["PDPGD"] = lambda m, x, y, budget: al.pdpgd(m, x, y, p, num_steps=budget // 2)
    return found if norm == "linf" else {**found, "ALMA": alma}


def minimizers(norm: str, radius: float) -> dict[str, Search]:
    """All attacks, as ``library name``."""
    made = {f"mpkit {name}": one for name, one in of_mpkit(norm, radius).items()}
    peers = of_adv_lib(norm, radius)
    return made | {f"adv-lib {name}": one for name, one in peers.items()}
