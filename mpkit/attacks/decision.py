"""Decision-based attacks of foolbox behind our interface: they see labels only.

These reveal gradient masking: a model that they break more often than gradient attacks hides its
gradients. They minimize a distance; what ends outside the set is projected onto it and looked at
again, so every result is allowed. foolbox is imported when an attack runs.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mpkit.attacks.base import Attack, AttackResult, Best, Problem
from mpkit.attacks.losses import Loss, Margin
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.sets import Ball


@dataclass(frozen=True)
class Decision(Attack):
    """An attack of foolbox that starts at a broken image and walks towards the clean one.

    Start points are other images of the batch, and noise; examples without one stay clean.

    Args:
        steps: iterations of the foolbox attack, > 0.
        loss: tells whether the goal is reached, and scores the result.
        tries: how many start points are tried for each example, > 0.

    Raises: ValueError: if a number is not positive.
    """

    set: Ball
    steps: int = 1000
    loss: Loss = field(default_factory=Margin)
    tries: int = 20

    def __post_init__(self) -> None:
        require_positive(type(self).__name__, steps=self.steps, tries=self.tries)

    @abstractmethod
    def tool(self) -> Any:
        """The attack of foolbox."""

    def find(self, problem: Problem) -> AttackResult:
        """Walk from a broken image towards each clean one."""
        x = problem.x
        clean = self.set.zero(x)
        best = Best.at(problem, self.loss, clean, x)
        far = self.starts(problem, best)
        rows = (far.reached & ~best.reached).nonzero().squeeze(1)
        if len(rows):
            walked = self.walk(problem.take(rows), trees.take(self.loss, rows), far.z[rows])
            z = self.set.project(x, clean.index_copy(0, rows, walked - x[rows]))
            best = best.or_better(Best.at(problem, self.loss, z, x + z))
        return AttackResult(self.set.apply(x, best.z), best.z, best.score)

    def starts(self, problem: Problem, best: Best) -> Best:
        """Broken images, far away as they may be, as the z of a best point."""
        x, shifts = problem.x, min(len(problem.x) - 1, self.tries // 2)
        far = best._replace(z=x)
        for i in range(self.tries):
            noise = torch.rand(x.shape, generator=problem.rng, dtype=x.dtype, device=x.device)
            image = x.roll(i + 1, 0) if i < shifts else noise
            far = far.or_better(Best.at(problem, self.loss, image, image))
        return far

    def walk(self, problem: Problem, loss: Loss, start: Tensor) -> Tensor:
        """The images (B, C, H, W) where foolbox ends."""
        x, foolbox = problem.x, _foolbox()
        criterion: Any = foolbox.criteria.Criterion

        class Reached(criterion):  # type: ignore[misc]
            """Whether the goal is reached, for foolbox."""

            def __repr__(self) -> str:
                return repr(loss)

            def __call__(self, perturbed: Any, outputs: Any) -> Any:
                astensor = import_module("eagerpy").astensor
                return astensor(loss.reached(astensor(outputs).raw, problem.y))

        network = _AsModule(problem).eval()
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device=x.device)
        with _borrowed_randomness(problem.rng, x.device):
            try:
                image: Tensor = self.tool().run(
                    model, x.float(), Reached(), starting_points=start.float()
                )
            except AssertionError as error:  # how foolbox finds that a start does not reach
                raise ValueError(
                    f"{type(self).__name__}: asked again, the model no longer errs on a start; "
                    "its answers must depend on the image alone: fix its draws and statistics"
                ) from error
        return image.to(x.dtype).clamp_(0, 1)


@dataclass(frozen=True)
class Boundary(Decision):
    """Boundary attack: a random walk along the decision boundary that shortens the l_2 distance.

    Source: Brendel, Rauber and Bethge 2018.
    """

    def tool(self) -> Any:
        """foolbox's BoundaryAttack."""
        return _foolbox().attacks.BoundaryAttack(steps=self.steps, tensorboard=False)


@dataclass(frozen=True)
class HopSkipJump(Decision):
    """HopSkipJump: estimates the boundary's normal from decisions; for l_2 and l_inf.

    Args:
        evaluations: decisions for the first estimate of a normal, > 0.

    Raises: ValueError: if the ball is an l_1 ball or a number is not positive.

    Source: Chen, Jordan and Wainwright 2020.
    """

    steps: int = 30
    evaluations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive("HopSkipJump", evaluations=self.evaluations)
        if self.set.order == 1:
            raise ValueError(
                "HopSkipJump: works for l_2 and l_inf balls, got an l_1 ball; use Pointwise"
            )

    def tool(self) -> Any:
        """foolbox's HopSkipJumpAttack for the ball's norm."""
        return _foolbox().attacks.HopSkipJumpAttack(
            steps=self.steps,
            initial_gradient_eval_steps=self.evaluations,
            tensorboard=False,
            constraint="linf" if self.set.order == math.inf else "l2",
        )


@dataclass(frozen=True)
class Pointwise(Decision):
    """Pointwise attack: resets one pixel after the other to its clean value; sparse results.

    It runs until no pixel can be reset; ``steps`` is not used.

    Source: Schott et al. 2019.
    """

    def tool(self) -> Any:
        """foolbox's PointwiseAttack."""
        return _foolbox().attacks.PointwiseAttack()


def _foolbox() -> Any:
    """The library, imported only when it is used.

    Raises: ImportError: with what to install, where it is missing.
    """
    try:
        return import_module("foolbox")
    except ImportError as error:
        raise ImportError(
            "mpkit.attacks.decision: these attacks need foolbox, which is not installed; "
            "pip install foolbox"
        ) from error


STUCK = 100
"""Times in a row that a search may ask about the very same images."""


class _AsModule(nn.Module):
    """A guarded model as the module that foolbox asks for, in its own precision.

    HopSkipJump halves a step until all images are broken, and where an answer changes with the
    other images of its batch it would do so for ever.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem, self.last, self.times = problem, torch.empty(0), 0

    def forward(self, x: Tensor) -> Tensor:
        self.times = self.times + 1 if x.equal(self.last.to(x)) else 0
        self.last = x
        if self.times >= STUCK:
            raise ValueError(
                f"a search by decisions asked about the same images {STUCK} times and cannot go "
                "on; answers must depend on the image alone: fix the model's draws and statistics"
            )
        with torch.no_grad():
            return self.problem.model(x.to(self.problem.x.dtype))


@contextmanager
def _borrowed_randomness(rng: torch.Generator, device: torch.device) -> Iterator[None]:
    """Let a library draw from the global generators, set from ours, and put them back after."""
    seed = int(torch.randint(0, 2**31, (), generator=rng, device=rng.device))
    state = np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002
