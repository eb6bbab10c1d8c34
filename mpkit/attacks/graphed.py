"""Attacks recorded once on a GPU and replayed: step by step, or whole for many batches."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mpkit.attacks.base import Attack, AttackResult, Iterative, Never, Problem
from mpkit.attacks.gradients import Model
from mpkit.attacks.losses import Loss
from mpkit.core import cuda_graphs, trees
from mpkit.core.checks import unread
from mpkit.core.cuda_graphs import Recorder, overwrite, plainly
from mpkit.sets import PerturbationSet


@dataclass(frozen=True)
class Captured(Attack):
    """An attack whose alike steps are recorded as one CUDA graph and replayed.

    Small networks spend most of a step launching kernels; a recorded step has none of that. The
    results are those of the attack itself. On a CPU, for attacks that are no loop of alike steps,
    and where examples may leave, it simply runs the attack; where recording fails it says so and
    does the same.

    Args:
        attack: any attack; APGD, PGD with constant steps and MSD gain from it.
    """

    attack: Attack
    set: PerturbationSet = field(init=False, repr=False)
    loss: Loss = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "set", self.attack.set)
        object.__setattr__(self, "loss", self.attack.loss)

    @property
    def classes(self) -> int:
        """Fewest classes the attack needs."""
        return self.attack.classes

    def find(self, problem: Problem) -> AttackResult:
        """Replay where that is possible, run the attack where not."""
        steps, recorder = self.attack.unrolled(), cuda_graphs.usual(problem.x.device)
        if steps is None or recorder is plainly or not isinstance(problem.stop, Never):
            return self.attack.find(problem)
        state = problem.rng.get_state()
        try:
            return replayed(steps, problem, recorder)
        except RuntimeError as error:
            warnings.warn(
                f"Captured: recording {type(self.attack).__name__} failed ({error}); "
                "running it step by step",
                stacklevel=2,
            )
        problem.rng.set_state(state)
        return self.attack.find(problem)


def replayed(attack: Iterative, problem: Problem, recorder: Recorder) -> AttackResult:
    """Run an iterative attack, each kind of alike steps recorded once.

    Args:
        attack: its ``sort`` tells which steps are alike.
        problem: one batch.
        recorder: what records a step.
    """
    state = trees.mapped(lambda t: t.clone(), attack.begin(problem))
    recordings: dict[str, Callable[[Tensor], None]] = {}
    for k in range(attack.steps):
        kind = attack.sort(k)
        if kind is not None and kind not in recordings:
            recordings[kind] = _recorded(attack, problem, state, k, recorder)
        if kind is None:
            overwrite(state, attack.advance(problem, state, k))
        else:
            recordings[kind](problem.y)
    return attack.found(problem, attack.finish(problem, state))


def _recorded(
    attack: Iterative, problem: Problem, state: Any, k: int, recorder: Recorder
) -> Callable[[Tensor], None]:
    """Step k, recorded, which overwrites the state; the state itself is left as it was."""
    leaves: list[Tensor] = []
    trees.mapped(lambda leaf: leaves.append(leaf) or leaf, state)  # type: ignore[func-returns-value]

    def step(y: Tensor) -> None:
        overwrite(state, attack.advance(replace(problem, y=y), state, k))

    return recorder(step, [problem.y], kept=leaves)


class GraphedAttack:
    """An attack on one network and batches of one shape, recorded whole and replayed for each.

    The results are those of the attack. The network's weights may change in place between two
    calls, but not be replaced. On a CPU, and with a message where recording fails, every call runs
    the attack itself.

    Args:
        attack: any attack that never waits for the device: not one that lets examples go.
        model: images (B, C, H, W) to logits (B, K).
        x: the first batch, (B, C, H, W); it is attacked once, with all checks.
        y: its labels, (B,) int64.
        recorder: what records; a CUDA graph on a GPU where not given.

    Raises:
        ValueError: if an argument is unfit.
    """

    def __init__(
        self,
        attack: Attack,
        model: Model,
        x: Tensor,
        y: Tensor,
        recorder: Recorder | None = None,
    ) -> None:
        self.attack, self.model = attack, model
        self.rng = torch.Generator(x.device).manual_seed(0)
        attack(model, x, y, self.rng)
        recorder = recorder or cuda_graphs.usual(x.device)
        try:
            self.work = recorder(self._search, [x, y], [self.rng])
        except RuntimeError as error:
            warnings.warn(
                f"GraphedAttack: recording {type(attack).__name__} failed ({error}); "
                "running it step by step",
                stacklevel=2,
            )
            self.rng = torch.Generator(x.device)
            self.work = self._search

    def _search(self, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        with unread():
            return tuple(self.attack(self.model, x, y, self.rng))

    def __call__(self, x: Tensor, y: Tensor, rng: torch.Generator) -> AttackResult:
        """Attack a batch; on a GPU nothing is checked but its shape and type, and nothing waits.

        Args:
            x: (B, C, H, W), float32 or float64, in [0, 1].
            y: (B,) int64 labels.
            rng: a generator on the device of x.

        Returns:
            the worst allowed image seen for each example.
        """
        self.rng.set_state(rng.get_state())
        found = trees.mapped(lambda part: part.clone(), self.work(x, y))
        rng.set_state(self.rng.get_state())
        return AttackResult(*found)
