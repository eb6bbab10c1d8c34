"""The attacks of foolbox, torchattacks and ART, which wrap the model in an object of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.candidates import Candidate, Make, P, neighbours
from mpbook.teaching.conformance import Search
from mpkit.sets import L1, L2, Ball, Linf


def of_foolbox() -> list[Candidate]:
    """Foolbox: gradient descent in each norm, and minimum-norm attacks."""
    import eagerpy as ep
    import foolbox
    from foolbox import attacks as fb
    from foolbox.criteria import Misclassification

    def call(attack: Callable[[int], object]) -> Make:
        def make(ball: Ball, n: int) -> Search:
            def search(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
                wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
                tool: Any = attack(n)
                return tool(wrapped, x, y, epsilons=float(ball.eps))[0]

            return search

        return make

    def across(attack: Callable[..., object]) -> Make:
        def make(ball: Ball, n: int) -> Search:
            def search(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
                wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
                near = neighbours(model, ball, x, y)
                begun = None if near is None else ep.astensor(near)
                tool: Any = attack(steps=n)
                return tool.run(wrapped, x, Misclassification(y), starting_points=begun)

            return search

        return make

    made: list[tuple[str, type[Ball], Callable[[int], object], bool]] = [
        ("PGD", Linf, lambda n: fb.LinfPGD(steps=n), True),
        ("PGD 2.5/n", Linf, lambda n: fb.LinfPGD(steps=n, rel_stepsize=2.5 / n), True),
        ("FMN", Linf, lambda n: fb.LInfFMNAttack(steps=n), False),
        ("PGD", L2, lambda n: fb.L2PGD(steps=n), True),
        ("PGD 2.5/n", L2, lambda n: fb.L2PGD(steps=n, rel_stepsize=2.5 / n), True),
        ("DDN", L2, lambda n: fb.DDNAttack(steps=n), False),
        ("FMN", L2, lambda n: fb.L2FMNAttack(steps=n), False),
        ("PGD", L1, lambda n: fb.L1PGD(steps=n), True),
        ("SLIDE", L1, lambda n: fb.SparseL1DescentAttack(steps=n), True),
        (
            "SLIDE 2.5/n",
            L1,
            lambda n: fb.SparseL1DescentAttack(steps=n, rel_stepsize=2.5 / n, random_start=True),
            True,
        ),
        ("FMN", L1, lambda n: fb.L1FMNAttack(steps=n), False),
    ]
    every = [Candidate(name, kind, call(attack), keeps) for name, kind, attack, keeps in made]
    fmn = {Linf: fb.LInfFMNAttack, L2: fb.L2FMNAttack, L1: fb.L1FMNAttack}
    every += [Candidate("FMN across", kind, across(one), keeps=False) for kind, one in fmn.items()]
    return every


def of_torchattacks() -> list[Candidate]:
    """Torchattacks: PGD, Auto-PGD, FAB and EAD."""
    import torchattacks as ta

    def call(attack: Callable[[nn.Module, float, int], Callable[..., Tensor]]) -> Make:
        def make(ball: Ball, n: int) -> Search:
            def search(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
                return attack(model, float(ball.eps), n)(x, y)

            return search

        return make

    def fab(norm: str) -> Callable[[nn.Module, float, int], Callable[..., Tensor]]:
        return lambda m, e, n: ta.FAB(m, norm, e, steps=n // 10)  # a gradient for each class

    def apgd(norm: str, loss: str) -> Callable[[nn.Module, float, int], Callable[..., Tensor]]:
        return lambda m, e, n: ta.APGD(m, norm, e, steps=n, loss=loss, seed=torch.initial_seed())

    made: list[tuple[str, type[Ball], Callable[..., Callable[..., Tensor]], bool]] = [
        ("PGD", Linf, lambda m, e, n: ta.PGD(m, e, e / 4, n), True),
        ("PGD 2.5/n", Linf, lambda m, e, n: ta.PGD(m, e, 2.5 * e / n, n), True),
        ("APGD ce", Linf, apgd("Linf", "ce"), True),
        ("APGD dlr", Linf, apgd("Linf", "dlr"), True),
        ("PGDL2", L2, lambda m, e, n: ta.PGDL2(m, e, e / 5, n), True),
        ("PGDL2 2.5/n", L2, lambda m, e, n: ta.PGDL2(m, e, 2.5 * e / n, n), True),
        ("APGD ce", L2, apgd("L2", "ce"), True),
        ("APGD dlr", L2, apgd("L2", "dlr"), True),
        ("FAB", L1, fab("L1"), False),
        (
            "EADL1",
            L1,
            lambda m, e, n: ta.EADL1(
                m, binary_search_steps=n // 20, max_iterations=20, abort_early=False
            ),
            False,
        ),
    ]
    return [Candidate(name, kind, call(attack), keeps) for name, kind, attack, keeps in made]


def of_art() -> list[Candidate]:
    """ART: PGD and Auto-PGD; its elastic net takes twenty gradients for a step."""
    from art.attacks import evasion as art
    from art.estimators.classification import PyTorchClassifier

    def call(attack: Callable[..., object], share: Callable[[int], float]) -> Make:
        def make(ball: Ball, n: int) -> Search:
            def search(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
                loss, shape = nn.CrossEntropyLoss(), tuple(x.shape[1:])
                wrapped = PyTorchClassifier(
                    model, loss, shape, 10, clip_values=(0.0, 1.0), device_type="cpu"
                )
                eps, norm = float(ball.eps), P[type(ball)]
                tool: Any = attack(wrapped, norm, eps, share(n) * eps, n, len(x))
                return torch.from_numpy(tool.generate(x.numpy(), y.numpy()))

            return search

        return make

    def pgd(c: object, p: float, eps: float, step: float, n: int, batch: int) -> object:
        rest = {"num_random_init": 1, "batch_size": batch, "verbose": False}
        return art.ProjectedGradientDescent(c, p, eps, step, max_iter=n, **rest)

    def auto(kind: Callable[..., object], loss: str) -> Callable[..., object]:
        def tool(c: object, p: float, eps: float, step: float, n: int, batch: int) -> object:
            rest = {"nb_random_init": 1, "batch_size": batch, "loss_type": loss, "verbose": False}
            return kind(c, p, eps, step, max_iter=n, **rest)

        return tool

    ce, dlr = "cross_entropy", "difference_logits_ratio"
    apgd = art.AutoProjectedGradientDescent
    both: dict[str, tuple[Callable[..., object], Callable[[int], float]]] = {
        "PGD": (pgd, lambda n: 1 / 3),
        "PGD 2.5/n": (pgd, lambda n: 2.5 / n),
        "APGD ce": (auto(apgd, ce), lambda n: 2.0),
        "APGD dlr": (auto(apgd, dlr), lambda n: 2.0),
    }
    return [Candidate(name, kind, call(*one)) for kind in P for name, one in both.items()]
