"""The attacks of foolbox, torchattacks and ART, which wrap the model in an object of their own."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpkit.audit.protocol import NORMS, Call, Subject, Task
from mpkit.sets import L1, L2, Ball, Linf


def globally(name: str, kind: type[Ball], call: Call, keeps: bool = True) -> Subject:
    """An attack that draws from the global generators: they are seeded before each call."""

    def seeded(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Any:
        torch.manual_seed(task.seed)
        np.random.seed(task.seed % 2**32)  # noqa: NPY002
        random.seed(task.seed)
        return call(model, x, y, task)

    return Subject(name, kind, seeded, keeps=keeps, own_seed=False)


def neighbours(model: nn.Module, ball: Ball, x: Tensor, y: Tensor) -> Tensor | None:
    """For each image the nearest of the others that the model calls otherwise: (B, C, H, W).

    What our ``BoundaryStart`` starts from, for libraries whose attacks accept starting points; None
    where an image has no such neighbour.
    """
    with torch.no_grad():
        same = model(x).argmax(1) == y.unsqueeze(1)
    if bool(same.all(1).any()):
        return None
    distance = torch.stack([ball.norm(x - image) for image in x])
    return x[distance.masked_fill(same, torch.inf).argmin(1)]


def _by_foolbox(attack: Callable[[int], Any], clipped: bool = False) -> Call:
    """What foolbox gives for one radius: what the attack made, or that clipped, with its flags."""

    def call(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Any:
        from foolbox.models.pytorch import PyTorchModel

        wrapped = PyTorchModel(model, bounds=(0, 1), device=x.device)
        raw, short, success = attack(task.steps)(wrapped, x, y, epsilons=task.eps)
        return (short, success) if clipped else raw

    return call


def of_foolbox() -> list[Subject]:
    """Foolbox: gradient descent in each norm, and minimum-norm attacks."""
    import foolbox
    from eagerpy.astensor import astensor
    from foolbox.criteria import Misclassification
    from foolbox.models.pytorch import PyTorchModel

    fb: Any = foolbox.attacks

    def across(attack: Callable[..., Any]) -> Call:
        def call(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Any:
            wrapped = PyTorchModel(model, bounds=(0, 1), device=x.device)
            near = neighbours(model, task.ball, x, y)
            begun = None if near is None else astensor(near)
            tool = attack(steps=task.steps)
            return tool.run(wrapped, x, Misclassification(y), starting_points=begun)

        return call

    def slide(n: int) -> Any:
        return fb.SparseL1DescentAttack(steps=n, rel_stepsize=2.5 / n, random_start=True)

    minimal = ("FMN", "DDN")
    made: list[tuple[str, type[Ball], Callable[[int], Any]]] = [
        ("PGD", Linf, lambda n: fb.LinfPGD(steps=n)),
        ("PGD 2.5/n", Linf, lambda n: fb.LinfPGD(steps=n, rel_stepsize=2.5 / n)),
        ("FMN", Linf, lambda n: fb.LInfFMNAttack(steps=n)),
        ("PGD", L2, lambda n: fb.L2PGD(steps=n)),
        ("PGD 2.5/n", L2, lambda n: fb.L2PGD(steps=n, rel_stepsize=2.5 / n)),
        ("DDN", L2, lambda n: fb.DDNAttack(steps=n)),
        ("FMN", L2, lambda n: fb.L2FMNAttack(steps=n)),
        ("PGD", L1, lambda n: fb.L1PGD(steps=n)),
        ("SLIDE", L1, lambda n: fb.SparseL1DescentAttack(steps=n)),
        ("SLIDE 2.5/n", L1, slide),
        ("FMN", L1, lambda n: fb.L1FMNAttack(steps=n)),
    ]
    every = [
        globally(name, kind, _by_foolbox(attack), keeps=name not in minimal)
        for name, kind, attack in made
    ]
    fmn: dict[type[Ball], Any] = {Linf: fb.LInfFMNAttack, L2: fb.L2FMNAttack, L1: fb.L1FMNAttack}
    every += [globally("FMN across", kind, across(one), keeps=False) for kind, one in fmn.items()]
    return every


def more_of_foolbox() -> list[Subject]:
    """Other attacks, and what foolbox clips to the radius, with its success flags."""
    import foolbox

    fb: Any = foolbox.attacks
    made: list[tuple[str, type[Ball], Callable[[int], Any]]] = [
        ("FGSM", Linf, lambda n: fb.LinfFastGradientAttack()),
        ("BIM", Linf, lambda n: fb.LinfBasicIterativeAttack(steps=n)),
        ("FGM", L2, lambda n: fb.L2FastGradientAttack()),
        ("BIM", L2, lambda n: fb.L2BasicIterativeAttack(steps=n)),
        ("FGM", L1, lambda n: fb.L1FastGradientAttack()),
        ("BIM", L1, lambda n: fb.L1BasicIterativeAttack(steps=n)),
    ]
    told: list[tuple[str, type[Ball], Callable[[int], Any]]] = [
        ("PGD", Linf, lambda n: fb.LinfPGD(steps=n)),
        ("FMN", Linf, lambda n: fb.LInfFMNAttack(steps=n)),
        ("DeepFool", Linf, lambda n: fb.LinfDeepFoolAttack(steps=n)),
        ("PGD", L2, lambda n: fb.L2PGD(steps=n)),
        ("DDN", L2, lambda n: fb.DDNAttack(steps=n)),
        ("FMN", L2, lambda n: fb.L2FMNAttack(steps=n)),
        ("DeepFool", L2, lambda n: fb.L2DeepFoolAttack(steps=n)),
        ("SLIDE", L1, lambda n: fb.SparseL1DescentAttack(steps=n)),
        ("FMN", L1, lambda n: fb.L1FMNAttack(steps=n)),
        ("EAD", L1, lambda n: fb.EADAttack(binary_search_steps=2, steps=max(1, n // 2))),
    ]
    every = [globally(name, kind, _by_foolbox(attack)) for name, kind, attack in made]
    return [
        *every,
        *(globally(f"{n}, clipped", k, _by_foolbox(one, clipped=True)) for n, k, one in told),
    ]


Tool = Callable[[nn.Module, float, int, int], Callable[..., Tensor]]


def _by_torchattacks(attack: Tool) -> Call:
    """An object made for each call from model, radius, steps and seed."""
    return lambda model, x, y, task: attack(model, task.eps, task.steps, task.seed)(x, y)


def of_torchattacks() -> list[Subject]:
    """Torchattacks: PGD, Auto-PGD, FAB and EAD."""
    import torchattacks as ta

    def apgd(norm: str, loss: str) -> Call:
        return _by_torchattacks(lambda m, e, n, s: ta.APGD(m, norm, e, steps=n, loss=loss, seed=s))

    def fab(norm: str) -> Call:  # a gradient for each class
        return _by_torchattacks(lambda m, e, n, s: ta.FAB(m, norm, e, steps=n // 10, seed=s))

    def ead(m: nn.Module, e: float, n: int, s: int) -> Any:
        rest = {"max_iterations": 20, "abort_early": False}
        return ta.EADL1(m, binary_search_steps=n // 20, **rest)

    made: list[tuple[str, type[Ball], Tool]] = [
        ("PGD", Linf, lambda m, e, n, s: ta.PGD(m, e, e / 4, n)),
        ("PGD 2.5/n", Linf, lambda m, e, n, s: ta.PGD(m, e, 2.5 * e / n, n)),
        ("PGDL2", L2, lambda m, e, n, s: ta.PGDL2(m, e, e / 5, n)),
        ("PGDL2 2.5/n", L2, lambda m, e, n, s: ta.PGDL2(m, e, 2.5 * e / n, n)),
    ]
    every = [globally(name, kind, _by_torchattacks(attack)) for name, kind, attack in made]
    for kind, norm in ((Linf, "Linf"), (L2, "L2")):
        every += [Subject(f"APGD {loss}", kind, apgd(norm, loss)) for loss in ("ce", "dlr")]
    every.append(Subject("FAB", L1, fab("L1"), keeps=False))
    return [*every, globally("EADL1", L1, _by_torchattacks(ead), keeps=False)]


def more_of_torchattacks() -> list[Subject]:
    """Single steps, momentum and other variants of PGD, and Square."""
    import torchattacks as ta

    made: list[tuple[str, type[Ball], Tool]] = [
        ("FGSM", Linf, lambda m, e, n, s: ta.FGSM(m, e)),
        ("FFGSM", Linf, lambda m, e, n, s: ta.FFGSM(m, e, 1.25 * e)),
        ("RFGSM", Linf, lambda m, e, n, s: ta.RFGSM(m, e, e / 4, n)),
        ("BIM", Linf, lambda m, e, n, s: ta.BIM(m, e, e / 4, n)),
        ("MIFGSM", Linf, lambda m, e, n, s: ta.MIFGSM(m, e, e / 4, n)),
        ("NIFGSM", Linf, lambda m, e, n, s: ta.NIFGSM(m, e, e / 4, n)),
        ("EOTPGD", Linf, lambda m, e, n, s: ta.EOTPGD(m, e, e / 4, n)),
        ("UPGD", Linf, lambda m, e, n, s: ta.UPGD(m, e, e / 4, n)),
        ("CW", L2, lambda m, e, n, s: ta.CW(m, steps=n)),
        ("DeepFool", L2, lambda m, e, n, s: ta.DeepFool(m, steps=n)),
    ]
    minimal = ("CW", "DeepFool")
    every = [
        globally(name, kind, _by_torchattacks(attack), keeps=name not in minimal)
        for name, kind, attack in made
    ]

    def square(norm: str) -> Call:
        return _by_torchattacks(lambda m, e, n, s: ta.Square(m, norm, e, 2 * n, seed=s))

    def fab(norm: str) -> Call:
        return _by_torchattacks(lambda m, e, n, s: ta.FAB(m, norm, e, steps=n // 10, seed=s))

    for kind, norm in ((Linf, "Linf"), (L2, "L2")):
        every.append(Subject("Square", kind, square(norm)))
        every.append(Subject("FAB", kind, fab(norm), keeps=False))
    return every


def _by_art(attack: Callable[[Any, Task, int], Any]) -> Call:
    """An object made for each call; images go in and come out as arrays."""

    def call(model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Any:
        from art.estimators.classification import PyTorchClassifier

        loss, shape = nn.CrossEntropyLoss(), tuple(x.shape[1:])
        rest: dict[str, Any] = {"clip_values": (0.0, 1.0), "device_type": "cpu"}
        wrapped = PyTorchClassifier(model, loss, shape, 10, **rest)
        tool = attack(wrapped, task, len(x))
        return torch.from_numpy(tool.generate(x.numpy(), y.numpy())).to(x.dtype)

    return call


def of_art() -> list[Subject]:
    """ART: PGD and Auto-PGD; its elastic net takes twenty gradients for a step."""
    from art.attacks import evasion as art

    def pgd(share: Callable[[int], float]) -> Call:
        def tool(wrapped: Any, t: Task, batch: int) -> Any:
            rest = {"num_random_init": 1, "batch_size": batch, "verbose": False}
            step = share(t.steps) * t.eps
            return art.ProjectedGradientDescent(wrapped, t.p, t.eps, step, max_iter=t.steps, **rest)

        return _by_art(tool)

    def apgd(loss: str) -> Call:
        def tool(wrapped: Any, t: Task, batch: int) -> Any:
            rest = {"nb_random_init": 1, "batch_size": batch, "loss_type": loss, "verbose": False}
            return art.AutoProjectedGradientDescent(
                wrapped, t.p, t.eps, 2 * t.eps, max_iter=t.steps, **rest
            )

        return _by_art(tool)

    both = {
        "PGD": pgd(lambda n: 1 / 3),
        "PGD 2.5/n": pgd(lambda n: 2.5 / n),
        "APGD ce": apgd("cross_entropy"),
        "APGD dlr": apgd("difference_logits_ratio"),
    }
    return [globally(name, kind, one) for kind in NORMS.values() for name, one in both.items()]


def more_of_art() -> list[Subject]:
    """One step, momentum, and Square."""
    from art.attacks import evasion as art

    def fgm(wrapped: Any, t: Task, batch: int) -> Any:
        return art.FastGradientMethod(wrapped, t.p, t.eps, batch_size=batch)

    def momentum(wrapped: Any, t: Task, batch: int) -> Any:
        rest = {"decay": 1.0, "max_iter": t.steps, "batch_size": batch, "verbose": False}
        return art.MomentumIterativeMethod(wrapped, t.p, t.eps, t.eps / 4, **rest)

    def square(wrapped: Any, t: Task, batch: int) -> Any:
        rest = {"max_iter": 2 * t.steps, "batch_size": batch, "verbose": False}
        return art.SquareAttack(wrapped, t.p, eps=t.eps, nb_restarts=1, **rest)

    kinds = list(NORMS.values())
    made = [globally("FGM", kind, _by_art(fgm)) for kind in kinds]
    made += [globally("MIM", kind, _by_art(momentum)) for kind in kinds]
    return [*made, *(globally("Square", kind, _by_art(square)) for kind in (Linf, L2))]
