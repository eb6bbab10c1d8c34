"""The attacks of six other libraries, and ours, each called as its library's documentation shows.

Steps are as many as fit in the task's gradients plus one (Auto-PGD takes a gradient before its
first step). Step lengths: the library's default as a share of the radius, and 2.5 radii over the
number of steps, as two attacks. Minimum-norm attacks that accept starting points are also given the
nearest other image that the model calls otherwise, as ours can. Libraries are imported when their
attacks are asked for.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mpkit import attacks
from mpkit.audit.protocol import NORMS, Call, Subject, Task
from mpkit.audit.wrapped import (
    globally,
    more_of_art,
    more_of_foolbox,
    more_of_torchattacks,
    neighbours,
    of_art,
    of_foolbox,
    of_torchattacks,
)
from mpkit.sets import L1, L2, Linf

PACKAGES = {
    "mpkit": "mpkit",
    "foolbox": "foolbox",
    "torchattacks": "torchattacks",
    "ART": "adversarial-robustness-toolbox",
    "cleverhans": "cleverhans",
    "adv-lib": "adv-lib",
    "autoattack": "pyautoattack",
}
"""The distributions, by the name of the library."""
MODULES = {"ART": "art", "adv-lib": "adv_lib", "autoattack": "pyautoattack"}
"""The modules, where they are called otherwise than the library."""


def of_mpkit() -> list[Subject]:
    """This package: projected gradients, Auto-PGD and a minimum-norm search."""
    made: dict[str, Callable[[Any, int], attacks.Attack]] = {
        "PGD": attacks.PGD,
        "PGD margin, falling": lambda ball, n: attacks.PGD(
            ball, n, loss=attacks.Margin(), schedule=attacks.Falling(0.01)
        ),
        "APGD ce": attacks.APGD,
        "APGD dlr": lambda ball, n: attacks.APGD(ball, n, attacks.DLR()),
        "FMN": attacks.FMN,
        "FMN across": lambda ball, n: attacks.FMN(ball, n, start=attacks.BoundaryStart()),
    }
    every = [Subject(n, k, by_ours(one)) for n, one in made.items() for k in NORMS.values()]
    return [*every, Subject("SLIDE", L1, by_ours(attacks.SLIDE))]


def more_of_mpkit() -> list[Subject]:
    """Square, and pixels one by one."""
    every = [Subject("Square", kind, by_ours(attacks.Square)) for kind in NORMS.values()]
    pixels = by_ours(lambda ball, n: attacks.GreedyPixels(ball, max(1, n // 4), 24, 2, polish=n))
    return [*every, *(Subject("GreedyPixels", kind, pixels) for kind in (L2, L1))]


def by_ours(make: Callable[[Any, int], attacks.Attack]) -> Call:
    """An attack of this package, made for a ball and a number of steps."""

    def call(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
        rng = torch.Generator(x.device).manual_seed(task.seed)
        return make(task.ball, task.steps)(model, x, y, rng).image

    return call


def of_cleverhans() -> list[Subject]:
    """CleverHans: PGD in l_inf and l_2, sparse descent in l_1."""
    from cleverhans.torch.attacks.projected_gradient_descent import projected_gradient_descent
    from cleverhans.torch.attacks.sparse_l1_descent import sparse_l1_descent

    box = {"clip_min": 0.0, "clip_max": 1.0}

    def pgd(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Any:
        eps, n = task.eps, task.steps
        rest = {**box, "sanity_checks": False}  # they ask for eps ≤ 1 - 0 in every norm
        return projected_gradient_descent(model, x, eps, 2.5 * eps / n, n, task.p, y=y, **rest)

    def sparse(share: Callable[[int], float]) -> Call:
        rest = {**box, "clip_grad": True, "rand_init": True}
        return lambda model, x, y, task: sparse_l1_descent(
            model, x, task.eps, share(task.steps) * task.eps, task.steps, y=y, **rest
        )

    return [
        globally("PGD 2.5/n", Linf, pgd),
        globally("PGD 2.5/n", L2, pgd),
        globally("SparseL1Descent", L1, sparse(lambda n: 0.1)),
        globally("SparseL1Descent 2.5/n", L1, sparse(lambda n: 2.5 / n)),
    ]


def more_of_cleverhans() -> list[Subject]:
    """One step of the gradient, and a search by labels alone."""
    from cleverhans.torch.attacks.fast_gradient_method import fast_gradient_method

    def step(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Any:
        return fast_gradient_method(model, x, task.eps, task.p, clip_min=0.0, clip_max=1.0, y=y)

    return [globally("FGM", kind, step) for kind in (Linf, L2, L1)]


def of_adv_lib() -> list[Subject]:
    """Adversarial-library: PGD, Auto-PGD and minimum-norm attacks."""
    from adv_lib import attacks as al

    def pgd(loss: str, share: Callable[[int], float]) -> Call:
        return lambda m, x, y, t: al.pgd_linf(
            m, x, y, t.eps, steps=t.steps, loss_function=loss, relative_step_size=share(t.steps)
        )

    def apgd(loss: str) -> Call:
        def call(m: nn.Module, x: Tensor, y: Tensor, t: Task) -> Any:
            sparse = isinstance(t.ball, L1)
            n = t.steps - 2 * sparse  # each of its three stages takes one more
            rest = {"loss_function": loss, "use_large_reps": sparse}
            return al.apgd(m, x, y, t.eps, t.p, n_iter=n, **rest)

        return call

    def fmn(m: nn.Module, x: Tensor, y: Tensor, t: Task) -> Any:
        return al.fmn(m, x, y, t.p, steps=t.steps)

    def across(m: nn.Module, x: Tensor, y: Tensor, t: Task) -> Any:
        near = neighbours(m, t.ball, x, y)
        return al.fmn(m, x, y, t.p, steps=t.steps, starting_points=near)

    def ddn(m: nn.Module, x: Tensor, y: Tensor, t: Task) -> Any:
        return al.ddn(m, x, y, steps=t.steps, levels=None)

    def alma(name: str) -> Call:
        return lambda m, x, y, t: al.alma(m, x, y, num_steps=t.steps, distance=name)

    kinds = list(NORMS.values())
    made = [globally(f"APGD {loss}", k, apgd(loss)) for k in kinds for loss in ("ce", "dlr")]
    made += [globally("FMN", kind, fmn, keeps=False) for kind in kinds]
    made += [globally("FMN across", kind, across, keeps=False) for kind in kinds]
    return [
        *made,
        globally("PGD ce", Linf, pgd("ce", lambda n: 0.01 / 0.3)),
        globally("PGD dl 2.5/n", Linf, pgd("dl", lambda n: 2.5 / n)),
        globally("DDN", L2, ddn, keeps=False),
        globally("ALMA", L2, alma("l2"), keeps=False),
        globally("ALMA", L1, alma("l1"), keeps=False),
    ]


def more_of_adv_lib() -> list[Subject]:
    """Primal-dual proximal descent and FAB."""
    from adv_lib import attacks as al

    def proximal(m: nn.Module, x: Tensor, y: Tensor, t: Task) -> Any:
        return al.pdpgd(m, x, y, norm=t.p, num_steps=t.steps)

    def fab(m: nn.Module, x: Tensor, y: Tensor, t: Task) -> Any:
        return al.fab(m, x, y, t.p, n_iter=max(2, t.steps // 10), ε=t.eps)

    made = [globally("PDPGD", kind, proximal, keeps=False) for kind in NORMS.values()]
    return [*made, *(globally("FAB", kind, fab, keeps=False) for kind in NORMS.values())]


def more_of_autoattack() -> list[Subject]:
    """AutoAttack by its authors, its parts one by one; labels that it returns are its flags."""
    from pyautoattack import AutoAttack

    def part(name: str) -> Call:
        def call(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Any:
            norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[task.norm]
            how = {"norm": norm, "eps": task.eps, "seed": task.seed, "version": "custom"}
            tool: Any = AutoAttack(model, attacks=[name], device=x.device, **how)
            tool.verbose = False
            for each in (tool.apgd, tool.apgd_targeted, tool.fab):
                each.n_restarts = 1
            tool.apgd.use_largereps = tool.apgd_targeted.use_largereps = task.norm == "l1"
            tool.apgd.n_iter = tool.apgd.n_iter_orig = task.steps
            tool.apgd_targeted.n_iter = tool.apgd_targeted.n_iter_orig = max(10, task.steps // 3)
            tool.apgd_targeted.n_target_classes = 3
            tool.fab.n_iter, tool.fab.n_target_classes = max(2, task.steps // 6), 3
            tool.square.n_queries = 2 * task.steps
            image, labels = tool.run_standard_evaluation(x, y, batch_size=len(x))
            return image, labels != y

        return call

    parts = ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square")
    return [Subject(name, kind, part(name)) for kind in NORMS.values() for name in parts]


CANDIDATES: dict[str, Callable[[], list[Subject]]] = {
    "mpkit": of_mpkit,
    "foolbox": of_foolbox,
    "torchattacks": of_torchattacks,
    "ART": of_art,
    "cleverhans": of_cleverhans,
    "adv-lib": of_adv_lib,
}
"""The attacks that are compared in strength."""
MORE: dict[str, Callable[[], list[Subject]]] = {
    "mpkit": more_of_mpkit,
    "foolbox": more_of_foolbox,
    "torchattacks": more_of_torchattacks,
    "ART": more_of_art,
    "cleverhans": more_of_cleverhans,
    "adv-lib": more_of_adv_lib,
    "autoattack": more_of_autoattack,
}
"""Others, which are only audited."""


def installed(library: str) -> bool:
    """Whether a library can be imported here."""
    return importlib.util.find_spec(MODULES.get(library, library)) is not None


def subjects(library: str) -> list[Subject]:
    """All attacks of a library that an audit knows.

    Args:
        library: a key of PACKAGES.

    Raises: ValueError: an unknown library, or one that is not installed.
    """
    if library not in PACKAGES:
        raise ValueError(f"library: {library!r} is none of {', '.join(PACKAGES)}")
    if not installed(library):
        raise ValueError(
            f"library: {library} is not installed; pip install {PACKAGES[library]}, or all of them "
            "with pip install 'mpkit[compare]'"
        )
    made = [make for table in (CANDIDATES, MORE) if (make := table.get(library))]
    return [one.renamed(library) for make in made for one in make()]
