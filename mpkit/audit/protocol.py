"""What is audited: an attack of any library as one plain function, with what it is asked and gives.

def my_pgd(model, x, y, task):
    torch.manual_seed(task.seed)
    attack = mylibrary.PGD(model, eps=task.eps, steps=task.steps)
    image = attack(x, y)
    return image, attack.success  # or the images alone
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mpkit.audit.conformance import Search
from mpkit.core.checks import imported
from mpkit.sets import L1, L2, Ball, Linf

NORMS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2, "l1": L1}
"""The balls that an audit knows."""
P: dict[type[Ball], float] = {Linf: math.inf, L2: 2, L1: 1}


class MalformedAttack(ValueError):
    """What is to be audited cannot be called, or returns something else than images."""


@dataclass(frozen=True)
class Task:
    """What an attack under audit is asked for.

    Args:
        ball: the set, whose box is [0, 1].
        steps: gradients that it may take for each image.
        seed: of all its random draws; the same seed must give the same images.
    """

    ball: Ball
    steps: int = 40
    seed: int = 0

    @property
    def eps(self) -> float:
        """The radius, in pixel units."""
        return float(self.ball.eps)

    @property
    def norm(self) -> str:
        """The name linf, l2 or l1."""
        return next(name for name, kind in NORMS.items() if isinstance(self.ball, kind))

    @property
    def p(self) -> float:
        """The order of the norm: infinity, 2 or 1."""
        return P[NORMS[self.norm]]


class Outcome(NamedTuple):
    """What an attack under audit returned.

    Attributes:
        image: (B, C, H, W), detached.
        success: (B,) bool, for which images it says that it succeeded; None if it does not say.
        graph: the images came with the graph of their gradients, and with all that it holds.
    """

    image: Tensor
    success: Tensor | None
    graph: bool


Call = Callable[[nn.Module, Tensor, Tensor, Task], Any]
"""Model, images (B, C, H, W) in [0, 1], labels (B,), task; returns images, or images and flags."""


@dataclass(frozen=True)
class Subject:
    """An attack under audit.

    Args:
        name: with what distinguishes it from others of its library.
        kind: the balls that it searches in.
        call: the plain function.
        library: where it comes from.
        keeps: it is given a radius and must keep it; otherwise it minimizes a norm.
        own_seed: it takes the task's seed itself; otherwise the global generators are seeded.
    """

    name: str
    kind: type[Ball]
    call: Call
    library: str = "own"
    keeps: bool = True
    own_seed: bool = True

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Outcome:
        """Run it once.

        Raises: MalformedAttack: it returned something else than images, or images and flags.
        """
        found = self.call(model, x, y, task)
        image, success = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(image, Tensor) or image.shape != x.shape:
            got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise MalformedAttack(
                f"{self.name}: returned {got} for images {tuple(x.shape)}; return the images as a "
                "tensor of their shape, or the pair (images, success)"
            )
        if success is not None:
            flags = torch.as_tensor(success)
            if flags.shape != y.shape or flags.dtype != torch.bool:
                raise MalformedAttack(
                    f"{self.name}: success is {flags.dtype} {tuple(flags.shape)}, expected one "
                    f"bool for each of {len(y)} images; leave it out if there is none"
                )
            success = flags.detach().to(y.device)
        return Outcome(image.detach().to(x.device), success, image.requires_grad)

    def make(self, ball: Ball, steps: int, seed: int | None = None) -> Search:
        """The same as a function of model, images and labels that returns images.

        Args:
            ball: its set.
            steps: gradients for each image.
            seed: None takes that of torch's default generator at every call.
        """

        def search(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            chosen = torch.initial_seed() if seed is None else seed
            return self(model, x, y, Task(ball, steps, chosen)).image

        return search

    def renamed(self, library: str) -> Subject:
        """The same, said to come from a library."""
        return replace(self, library=library)


def own(spec: str, norm: str) -> Subject:
    """Somebody's attack from a module of the current folder, or from an installed one.

    Args:
        spec: ``package.module:function``; the function takes model, x, y and task.
        norm: linf, l2 or l1.

    Raises: MalformedAttack: it cannot be found or called so.
    """
    if not all(spec.partition(":")):
        raise MalformedAttack(f"--attack: {spec!r} is not package.module:function")
    name = spec.partition(":")[2]
    try:
        call = imported("--attack", spec)
    except ValueError as error:
        raise MalformedAttack(f"{error}; write def {name}(model, x, y, task)") from error
    try:
        inspect.signature(call).bind(None, None, None, None)
    except ValueError:  # of a builtin, which does not tell
        pass
    except TypeError as error:
        raise MalformedAttack(
            f"--attack: {spec} cannot be called with model, x, y and task ({error}); write "
            f"def {name}(model, x, y, task)"
        ) from error
    return Subject(name, NORMS[norm], call)
