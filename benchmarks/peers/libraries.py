"""The attacks of five other libraries, and ours, behind one plain function each.

Every candidate is called as its library's documentation shows. Steps are as many as fit in the
budget of gradients plus one (Auto-PGD takes a gradient before its first step). Step
lengths: the library's default as a share of the radius, and 2.5 radii over the number of steps,
as two candidates. Minimum-norm attacks that accept starting points are also given the nearest
other image that the model calls otherwise, as ours can. Attacks that need thousands of gradients
(elastic nets) are left out where the library has another one for the norm. Which candidate stands
for a library is decided on other images than those reported. Attacks with a seed of their own get
that of torch's default generator. Libraries are imported when their
candidates are asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.peers.candidates import Candidate, Make, P, neighbours
from benchmarks.peers.wrapping import of_art, of_foolbox, of_torchattacks
from mpbook.teaching.conformance import Search, ours
from mpkit import attacks
from mpkit.sets import L1, L2, Ball, Linf

PACKAGES = {
    "mpkit": "mpkit",
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "ART": "adversarial-robustness-toolbox",
    "cleverhans": "cleverhans",
    "adv-lib": "adv-lib",
}


def of_mpkit() -> list[Candidate]:
    """This package: projected gradients, Auto-PGD and a minimum-norm search."""

    def seeded(attack: attacks.Attack) -> Search:
        return ours(attack, torch.initial_seed())

    def pgd(ball: Ball, n: int) -> Search:
        return seeded(attacks.PGD(ball, n))

    def falling(ball: Ball, n: int) -> Search:
        return seeded(attacks.PGD(ball, n, loss=attacks.Margin(), schedule=attacks.Falling(0.01)))

    def apgd(ball: Ball, n: int) -> Search:
        return seeded(attacks.APGD(ball, n))

    def dlr(ball: Ball, n: int) -> Search:
        return seeded(attacks.APGD(ball, n, attacks.DLR()))

    def fmn(ball: Ball, n: int) -> Search:
        return seeded(attacks.FMN(ball, n))

    def across(ball: Ball, n: int) -> Search:
        return seeded(attacks.FMN(ball, n, start=attacks.BoundaryStart()))

    def slide(ball: Ball, n: int) -> Search:
        assert isinstance(ball, L1)
        return seeded(attacks.SLIDE(ball, n))

    made = {"PGD": pgd, "PGD margin, falling": falling, "APGD ce": apgd, "APGD dlr": dlr}
    every = [Candidate(name, kind, make) for kind in P for name, make in made.items()]
    every += [Candidate("FMN", kind, fmn) for kind in P]
    every += [Candidate("FMN across", kind, across) for kind in P]
    return [*every, Candidate("SLIDE", L1, slide)]


def of_cleverhans() -> list[Candidate]:
    """CleverHans: PGD in l_inf and l_2, sparse descent in l_1."""
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent
    from cleverhans.torch.attacks.sparse_l1_descent import sparse_l1_descent

    box = {"clip_min": 0.0, "clip_max": 1.0}

    def pgd(ball: Ball, n: int) -> Search:
        eps, norm = float(ball.eps), P[type(ball)]
        rest = {**box, "sanity_checks": False}  # they ask for eps ≤ 1 - 0 in every norm
        return lambda model, x, y: projected_gradient_descent(
            model, x, eps, 2.5 * eps / n, n, norm, y=y, **rest
        ).detach()

    def sparse(share: Callable[[int], float]) -> Make:
        def make(ball: Ball, n: int) -> Search:
            eps = float(ball.eps)
            rest = {**box, "clip_grad": True, "rand_init": True}
            return lambda model, x, y: sparse_l1_descent(
                model, x, eps, share(n) * eps, n, y=y, **rest
            )

        return make

    return [
        Candidate("PGD 2.5/n", Linf, pgd),
        Candidate("PGD 2.5/n", L2, pgd),
        Candidate("SparseL1Descent", L1, sparse(lambda n: 0.1)),
        Candidate("SparseL1Descent 2.5/n", L1, sparse(lambda n: 2.5 / n)),
    ]


def of_adv_lib() -> list[Candidate]:
    """Adversarial-library: PGD, Auto-PGD and minimum-norm attacks."""
    from adv_lib import attacks as al

    def pgd(loss: str, share: Callable[[int], float]) -> Make:
        return lambda ball, n: (
            lambda m, x, y: al.pgd_linf(
                m, x, y, float(ball.eps), steps=n, loss_function=loss, relative_step_size=share(n)
            )
        )

    def apgd(loss: str) -> Make:
        return lambda ball, n: (
            lambda m, x, y: al.apgd(
                m,
                x,
                y,
                float(ball.eps),
                P[type(ball)],
                n_iter=n - 2 * isinstance(ball, L1),  # each of its three stages takes one more
                loss_function=loss,
                use_large_reps=isinstance(ball, L1),
            )
        )

    def fmn(ball: Ball, n: int) -> Search:
        return lambda m, x, y: al.fmn(m, x, y, P[type(ball)], steps=n)

    def across(ball: Ball, n: int) -> Search:
        return lambda m, x, y: al.fmn(
            m, x, y, P[type(ball)], steps=n, starting_points=neighbours(m, ball, x, y)
        )

    def ddn(ball: Ball, n: int) -> Search:
        return lambda m, x, y: al.ddn(m, x, y, steps=n, levels=None)

    def alma(name: str) -> Make:
        return lambda ball, n: lambda m, x, y: al.alma(m, x, y, num_steps=n, distance=name)

    made = [Candidate(f"APGD {loss}", kind, apgd(loss)) for kind in P for loss in ("ce", "dlr")]
    made += [Candidate("FMN", kind, fmn, keeps=False) for kind in P]
    made += [Candidate("FMN across", kind, across, keeps=False) for kind in P]
    return [
        *made,
        Candidate("PGD ce", Linf, pgd("ce", lambda n: 0.01 / 0.3)),
        Candidate("PGD dl 2.5/n", Linf, pgd("dl", lambda n: 2.5 / n)),
        Candidate("DDN", L2, ddn, keeps=False),
        Candidate("ALMA", L2, alma("l2"), keeps=False),
        Candidate("ALMA", L1, alma("l1"), keeps=False),
    ]


CANDIDATES = {
    "mpkit": of_mpkit,
    "foolbox": of_foolbox,
    "torchattacks": of_torchattacks,
    "ART": of_art,
    "cleverhans": of_cleverhans,
    "adv-lib": of_adv_lib,
}
