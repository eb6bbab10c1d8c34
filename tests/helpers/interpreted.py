"""Triton's kernels on a CPU, by its interpreter, which must be asked for before Triton is there.

python tests/helpers/interpreted.py     # each kernel beside its plain function, as JSON
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import torch  # noqa: E402

from helpers.pretend import Claims  # noqa: E402
from helpers.toys import generator  # noqa: E402
from mpkit.attacks import apgd, base, pgd  # noqa: E402
from mpkit.attacks.base import Best  # noqa: E402
from mpkit.sets import L1, L2, Linf, fused, norms  # noqa: E402
from mpkit.sets.convex_hull import nearest_pair  # noqa: E402

fused.available.cache_clear()
fused.available = lambda: True  # on this CPU too


def images(rows=3, shape=(1, 6, 7), black=0.4):
    rng = generator(1)
    x = torch.rand(rows, *shape, generator=rng)
    x = torch.where(torch.rand(x.shape, generator=rng) < black, 0, x)
    return torch.where(torch.rand(x.shape, generator=rng) < 0.1, 1, x)


def laws(x, scale):
    d = torch.randn(x.shape, generator=generator(2)) * scale
    yield "normal", d
    yield "sparse", d * (torch.rand(x.shape, generator=generator(3)) < 0.1)
    yield "ties", d.sign() * scale


def values():
    """By case: how far the kernel is from the plain function in double precision, over the size."""
    x, found = images(), {}
    for name, ball in (("linf", Linf), ("l2", L2), ("l1", L1)):
        for eps in (0.05, 1.5, torch.tensor([0.1, 1.0, 30.0])):
            for scale in (0.3, 50.0):
                for law, d in laws(x, scale):
                    case = f"{name} {eps if isinstance(eps, float) else 'rows'} {scale} {law}"
                    found |= projected(case, ball(eps), x, d, scale)
    for law, g in laws(x, 1e-3):
        found |= stepped(law, x, g)
    found["row of zeros"] = float(norms.unit_direction(0 * x).abs().sum())
    return found


def projected(case, ball, x, d, scale):
    """The nearest points with the box and without: where, within, and again."""
    exact, short = ball.project(x.double(), d.double()), ball.shrink(d.double())
    with Claims():
        near, small = ball.project(x, d), ball.shrink(d)
        again = torch.equal(ball.project(x, near), near) and torch.equal(ball.shrink(small), small)
    allowed = 1e-5 * ball.eps + scale * 2**-22 * d[0].numel()
    far = torch.maximum(ball.norm(near - exact), ball.norm(small - short)) / allowed
    inside = bool(ball.contains(x, near).all() and ball.fits(x, small).all())
    return {case: float(far.max()) if inside and again else 1e9}


def stepped(law, x, g):
    """Steps, norms and the better of two points, against the plain functions."""
    rows = torch.tensor([0.3, 0.05, 1.0])
    one, each = torch.full((), 0.7), rows.view(-1, 1, 1, 1)
    old, new = (
        Best(x * k, torch.tensor(s), torch.tensor(r))
        for k, s, r in (
            (1.0, [1.0, float("nan"), -float("inf")], [True, False, False]),
            (2.0, [2.0, 1.0, -float("inf")], [False, False, False]),
        )
    )
    calls = {
        "direction": (norms.unit_direction, (g,)),
        "length": (norms.l2_norm, (1e4 * g,)),
        "movable": (pgd.movable, (x, g)),
        "filling": (norms.filling_step, (x, g, one)),
        "filling, rows": (norms.filling_step, (x, g, each)),
        "signs": (apgd.sparse_signs, (g, rows)),
        "slide": (pgd.sparse_step, (x, g, 0.9, one)),
        "slide, rows": (pgd.sparse_step, (x, g, 0.0, each)),
        "better": (base._better, (*old, *new)),
        "better, turned round": (base._better, (*new, *old)),
    }
    found = {}
    for name, (function, given) in calls.items():
        plain = function(*given)
        with Claims():
            quick = function(*given)
        if not isinstance(plain, tuple):
            plain, quick = (plain,), (quick,)
        told = 0.0
        for a, b in zip(plain, quick, strict=True):
            a, b = (torch.nan_to_num(t.double(), 7.0) for t in (a, b))
            told = max(told, float((a - b).abs().max() / (1e-5 * a.abs().max() + 1e-30)))
        found[f"{name} {law}"] = told
    return found


def pairs():
    """The share of two budgets and both parts, beside double precision."""
    x, rows = images(), torch.tensor([0.1, 1.0, 3.0])
    (_, g), *_ = laws(x, 0.1)
    pose, found = torch.randn(3, 3, generator=generator(5)), {}
    for a, b, p, q in (
        (L1(2.0), Linf(0.1), g, 2 * g),
        (L2(1.0), Linf(0.1), g, g),
        (L1(1.0), L2(0.5), g, g),
        (Linf(rows), L1(2.0), pose, g),
        (Linf(rows), L2(0.5), pose, g),
    ):
        exact = nearest_pair(a, b, p.double(), q.double())
        nearest_pair(a, b, p, q)
        with Claims():
            quick = nearest_pair(a, b, p, q)
        gaps = [float((e - k).abs().max()) for e, k in zip(exact, quick, strict=True)]
        found[f"pair {a} {b}"] = max(gaps) / 1e-5
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps({"far": values() | pairs(), "proven": fused.PROVEN}))
