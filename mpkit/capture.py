"""Steps of an attack recorded once on a GPU and replayed, without waiting for the host."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

from mpkit import trees
from mpkit.engine import Attack, Found, Iterative, Never, Problem
from mpkit.losses import Loss
from mpkit.perturbation import PerturbationSet


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

    def find(self, problem: Problem) -> Found:
        """Replay where that is possible, run the attack where not."""
        steps = self.attack.unrolled()
        if steps is None or not problem.x.is_cuda or not isinstance(problem.stop, Never):
            return self.attack.find(problem)
        state = problem.rng.get_state()
        try:
            return replayed(steps, problem)
        except RuntimeError as error:
            warnings.warn(
                f"Captured: recording {type(self.attack).__name__} failed ({error}); "
                "running it step by step",
                stacklevel=2,
            )
        problem.rng.set_state(state)
        return self.attack.find(problem)


def replayed(attack: Iterative, problem: Problem) -> Found:
    """Run an iterative attack with its alike steps as CUDA graphs.

    Args:
        attack: its ``sort`` tells which steps are alike.
        problem: on a GPU.
    """
    state = trees.mapped(lambda t: t.clone(), attack.begin(problem))
    graphs: dict[str, Any] = {}
    for k in range(attack.steps):
        kind = attack.sort(k)
        if kind is not None and kind not in graphs:
            graphs[kind] = _recorded(attack, problem, state, k)
        if kind is None:
            _write(state, attack.advance(problem, state, k))
        else:
            graphs[kind].replay()
    return attack.found(problem, attack.finish(problem, state))


def _recorded(attack: Iterative, problem: Problem, state: Any, k: int) -> Any:
    """A graph of step k that overwrites the state; the state itself is left as it was."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            attack.advance(problem, state, k)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _write(state, attack.advance(problem, state, k))
    return graph


def _write(state: Any, new: Any) -> None:
    """Overwrite the tensors of a state in place; parts of the new one may be parts of the old."""
    apart = trees.mapped(lambda value: value.clone(), new)
    trees.mapped(lambda old, value: old.copy_(value), state, apart)
