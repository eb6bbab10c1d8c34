"""What does not need many images: projections that libraries offer, and radii that are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpkit.audit.conformance import brought_back, membership
from mpkit.audit.known_optima import misplaced
from mpkit.audit.protocol import Subject
from mpkit.models import QueryCounter
from mpkit.sets import L1, L2, Ball, Linf

Rows = Callable[[Tensor], Tensor]
BALLS: dict[str, Ball] = {"linf": Linf(0.3), "l2": L2(2.0), "l1": L1(10.0)}


def _of_mpkit(ball: Ball) -> dict[str, Rows]:
    return {f"{type(ball).__name__}.shrink": ball.shrink}


def _of_foolbox(ball: Ball) -> dict[str, Rows]:
    import eagerpy as ep
    from foolbox import attacks as fb

    eps = float(ball.eps)

    def around_zero(project: Callable[..., Any], radius: Any) -> Rows:
        def call(d: Tensor) -> Tensor:
            x = ep.astensor(d)
            return project(x, ep.zeros_like(x), radius(x)).raw

        return call

    every = lambda x: eps * ep.ones(x, len(x))  # noqa: E731
    if isinstance(ball, L1):
        return {
            "SparseL1DescentAttack.project": around_zero(
                fb.SparseL1DescentAttack().project, lambda x: eps
            ),
            "L1PGD.project": around_zero(fb.L1PGD().project, lambda x: eps),
            "L1FMNAttack.project": around_zero(fb.L1FMNAttack().project, every),
        }
    return {
        "L2PGD.project": around_zero(fb.L2PGD().project, lambda x: eps),
        "L2FMNAttack.project": around_zero(fb.L2FMNAttack().project, every),
    }


def _of_art(ball: Ball) -> dict[str, Rows]:
    from art.utils import projection

    eps, p = float(ball.eps), 1 if isinstance(ball, L1) else 2
    return {
        "projection": lambda d: torch.from_numpy(projection(d.numpy(), eps, p)),
        "projection(suboptimal=False)": lambda d: torch.from_numpy(
            projection(d.numpy(), eps, p, suboptimal=False)
        ),
    }


def _of_cleverhans(ball: Ball) -> dict[str, Rows]:
    from cleverhans.torch.utils import clip_eta

    eps = float(ball.eps)
    if isinstance(ball, L1):
        name = "Tensor.renorm, as in sparse_l1_descent"
        return {name: lambda d: d.renorm(p=1, dim=0, maxnorm=eps)}
    return {"clip_eta": lambda d: clip_eta(d, 2, eps)}


def _of_adv_lib(ball: Ball) -> dict[str, Rows]:
    from adv_lib.attacks import auto_pgd, fast_minimum_norm
    from adv_lib.utils.projections import l1_ball_euclidean_projection

    eps = float(ball.eps)
    if isinstance(ball, L2):
        every = lambda d: torch.full((len(d),), eps)  # noqa: E731
        return {"fmn l2_projection_": lambda d: fast_minimum_norm.l2_projection_(d, every(d))}

    def with_box(d: Tensor) -> Tensor:  # grey images scaled so that no wall is near
        scale = 1e-3
        grey = torch.full_like(d, 0.5)
        step = auto_pgd.l1_projection(grey, scale * d, torch.full((len(d),), scale * eps))
        return d + step / scale

    return {
        "l1_ball_euclidean_projection": lambda d: l1_ball_euclidean_projection(d, eps),
        "auto_pgd.l1_projection": with_box,
    }


PROJECTIONS = {
    "mpkit": _of_mpkit,
    "foolbox": _of_foolbox,
    "ART": _of_art,
    "cleverhans": _of_cleverhans,
    "adv-lib": _of_adv_lib,
}


def projections(library: str) -> dict[str, dict[str, dict[str, float]]]:
    """How far each projection of a library is from the exact one, by norm and name."""
    make = PROJECTIONS.get(library)
    if make is None:
        return {}
    return {
        norm: {name: misplaced(rows, ball)._asdict() for name, rows in make(ball).items()}
        for norm, ball in BALLS.items()
        if norm != "linf"
    }


def promises(
    candidates: list[Subject], budget: int, model: nn.Module, x: Tensor, y: Tensor
) -> dict[str, Any]:
    """Whether attacks that are given a radius keep it, by norm and name.

    For each: the share of results outside, the worst excess, accuracy as claimed and when results
    are brought back, and of the first images that a gradient is asked of the share outside and
    the mean length over the radius. A start outside is no error in itself: Auto-PGD begins in
    larger balls by design.
    """
    found: dict[str, Any] = {norm: {} for norm in BALLS}
    for one in candidates:
        norm = one.kind.__name__.lower()
        ball = BALLS[norm]
        if not one.keeps:
            continue
        seen = QueryCounter(model).eval()
        seed_everything(0)
        image = one.make(ball, budget)(seen, x.clone(), y.clone()).detach()
        back, first = brought_back(ball, x, image), x if seen.first is None else seen.first
        with torch.no_grad():
            claimed, robust = ((model(one).argmax(1) == y).double().mean() for one in (image, back))
        found[norm][one.name] = {
            **membership(ball, x, image)._asdict(),
            "claimed": float(claimed),
            "accuracy": float(robust),
            "start outside": membership(ball, x, first).outside,
            "start length": float(ball.norm(first - x).mean() / ball.eps),
        }
    return found


def seed_everything(seed: int) -> None:
    """Set the global generators, from which the other libraries draw."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
