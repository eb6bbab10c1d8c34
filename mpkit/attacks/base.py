"""What all attacks share: the problem, the result, the best point so far, and the loop."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mpkit.attacks.gradients import Model, attacking, climb_through, guard, look
from mpkit.attacks.losses import Loss
from mpkit.core import checks, trees
from mpkit.sets import PerturbationSet, fused
from mpkit.sets.fused import by_kernel


class AttackResult(NamedTuple):
    """What an attack returns: the worst allowed image it saw, for each example.

    Attributes:
        image: (B, C, H, W) in [0, 1].
        z: the perturbation in the set's own coordinate; ``image`` is ``set.apply(x, z)``.
        score: (B,), the attack's loss at that image; larger is worse for the model.
    """

    image: Tensor
    z: Any
    score: Tensor


class Stop:
    """When an example may leave a search; here never, which is what a greatest loss needs."""

    def stretches(self, steps: int) -> Iterator[range]:
        """The steps of a search, in parts between which examples may leave."""
        yield range(steps)

    def staying(self, reached: Tensor, k: int | None = None) -> Tensor | None:
        """Indices of the rows that go on after step k, or None where all do.

        ``reached`` is (B,) bool; k is None between two attacks.
        """
        return None


@dataclass(frozen=True)
class OnceReached(Stop):
    """Examples leave as soon as the goal is reached, looked at every few steps.

    Args:
        every: steps between two looks; each look waits for the device once.
    """

    every: int = 5

    def __post_init__(self) -> None:
        checks.require_positive("OnceReached", every=self.every)

    def stretches(self, steps: int) -> Iterator[range]:
        """So many steps at a time, and what is left."""
        yield from (range(k, min(k + self.every, steps)) for k in range(0, steps, self.every))

    def staying(self, reached: Tensor, k: int | None = None) -> Tensor | None:
        """Rows whose goal is not reached, where any other row can leave."""
        not_due = k is not None and (k + 1) % self.every
        if not_due or not bool(reached.any()):
            return None
        return (~reached).nonzero().squeeze(1)


@dataclass(frozen=True)
class Problem:
    """One batch to attack: a guarded model in eval mode, images, labels and randomness.

    Attributes:
        model: images to checked logits.
        x: (B, C, H, W) in [0, 1].
        y: (B,) int64.
        rng: the only source of randomness.
        stop: when an example may leave.
        tally: (N,) int64, where each step of a search is counted for its examples; None for not.
        rows: (B,) the places of the examples in the tally.
        donors: (M, C, H, W), images near which a search may begin; None for x itself.
        stepping: takes steps of a search in place of its ``advance``, see ``GraphedSteps``.
        pace: the numbers of the present step, on the device; empty for those of the attack.
    """

    model: Model
    x: Tensor
    y: Tensor
    rng: torch.Generator
    stop: Stop = field(default_factory=Stop)
    tally: Tensor | None = None
    rows: Tensor | None = None
    donors: Tensor | None = None
    stepping: Callable[..., Any] | None = None
    pace: tuple[Tensor, ...] = ()

    def take(self, rows: Tensor | slice) -> "Problem":
        """The same problem for some of its examples."""
        places = None if self.rows is None else self.rows[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], rows=places)

    def count_steps(self, steps: int) -> None:
        """Add steps to the tally of the examples, if one is kept."""
        if self.tally is not None and self.rows is not None:
            self.tally[self.rows] += steps


class Attack(ABC):
    """A way to search in a perturbation set for images that hurt a model.

    Settings that most attacks have are the ``set``, such as a ball with its box, the ``loss``
    that is maximized, how many ``steps`` are made, and where to ``start``.
    """

    set: PerturbationSet
    loss: Loss

    @property
    def classes(self) -> int:
        """Fewest classes the attack's losses are defined for."""
        return self.loss.classes

    @torch.inference_mode(False)
    def __call__(
        self, model: Model, x: Tensor, y: Tensor, rng: torch.Generator, donors: Tensor | None = None
    ) -> AttackResult:
        """Search around each image; the model runs in eval mode and is left as it was.

        Args:
            model: images (B, C, H, W) to logits (B, K).
            x: (B, C, H, W), float32 or float64, in [0, 1].
            y: (B,) int64 labels.
            rng: a generator on the device of x.
            donors: (M, C, H, W), images near which a search may begin; None for x itself.

        Returns: the worst allowed image seen for each example.

        Raises: ValueError: if an argument is unfit, or the model gives non-finite scores.
        """
        x, y = checks.ordinary(x), checks.ordinary(y)
        checks.require_images(x)
        checks.require_labels(y, x)
        checks.require_device("rng", rng.device, x.device)
        checks.require_fitting(model, x)
        self.set.check(x)
        attack = trees.moved(self, x.device)
        with attacking(model), torch.no_grad():
            problem = Problem(guard(model, self.classes, y), x.detach(), y, rng, donors=donors)
            found = attack.find(problem)
        checks.require_finite(type(self).__name__, score=found.score)
        return found

    @abstractmethod
    def find(self, problem: Problem) -> AttackResult:
        """The search itself, on a problem already checked."""


class Best(NamedTuple):
    """The best point so far: z, its score (B,), and whether the goal is reached there (B,)."""

    z: Any
    score: Tensor
    reached: Tensor

    @classmethod
    def none_yet(cls, x: Tensor, z: Any) -> "Best":
        """Before anything was seen: any point beats it."""
        return cls(z, x.new_full((len(x),), -torch.inf), x.new_zeros(len(x), dtype=torch.bool))

    @classmethod
    def at(cls, problem: Problem, loss: Loss, z: Any, image: Tensor) -> "Best":
        """What one forward pass says of z and its image (B, C, H, W)."""
        logits, score = look(problem.model, loss, image, problem.y)
        return cls(z, score, loss.reached(logits, problem.y))

    @classmethod
    def with_slope(
        cls, problem: Problem, loss: Loss, z: Any, image: Tensor
    ) -> tuple["Best", Tensor]:
        """What one pass forward and back says of z and its image, and the image's gradient."""
        best, (gradient,) = cls.through(problem, loss, z, lambda image: image, image)
        return best, gradient

    @classmethod
    def through(
        cls, problem: Problem, loss: Loss, z: Any, render: Callable[..., Tensor], *variables: Tensor
    ) -> tuple["Best", tuple[Tensor, ...]]:
        """The same for a rendered image, with the gradients of what it is rendered from."""
        logits, score, gradients = climb_through(problem.model, loss, render, variables, problem.y)
        return cls(z, score, loss.reached(logits, problem.y)), gradients

    def beaten_by(self, other: "Best") -> Tensor:
        """Where another point is better, (B,): a goal reached first, then the greater score."""
        level = other.reached == self.reached
        greater = torch.le(other.score, self.score).logical_not_()
        return torch.where(level, greater, other.reached)

    def or_better(self, other: "Best") -> "Best":
        """Row by row the better of two points."""
        if isinstance(self.z, Tensor):
            return Best(*_better(*self, *other))
        return trees.where(self.beaten_by(other), other, self)


@by_kernel(fused.better)
def _better(
    z: Tensor, score: Tensor, reached: Tensor, other: Tensor, higher: Tensor, now: Tensor
) -> tuple[Tensor, ...]:
    old, new = Best(z, score, reached), Best(other, higher, now)
    return trees.where(old.beaten_by(new), new, old)


class Seen(NamedTuple):
    """State of a search that needs to know nothing but the best point so far."""

    best: Best


class Iterative(Attack):
    """An attack of a fixed number of alike steps; its state is a tree of rows.

    Examples that leave early are taken out of the state, the set and the loss together.

    Attributes:
        alike: whether steps differ by their ``pace`` alone, or by the ``kind`` that they have.
    """

    steps: int
    alike: ClassVar[bool] = False

    def begin(self, problem: Problem) -> Any:
        """The state before the first step; here that nothing was seen yet."""
        return Seen(Best.none_yet(problem.x, self.set.zero(problem.x)))

    @abstractmethod
    def advance(self, problem: Problem, state: Any, k: int) -> Any:
        """The state after step k."""

    def kind(self, k: int) -> Hashable:
        """What step k does: steps of one kind are recorded once. By itself each is another kind."""
        return 0 if self.alike else k

    def pace(self, k: int) -> tuple[float, ...]:
        """Numbers in which step k differs from its kind; ``problem.pace`` has them on a GPU."""
        return ()

    def walk(self, problem: Problem, state: Any, steps: range) -> Any:
        """The state after some steps more."""
        for k in steps:
            state = self.advance(problem, state, k)
        return state

    def finish(self, problem: Problem, state: Any) -> Best:
        """The best point once the steps are done."""
        best: Best = state.best
        return best

    def find(self, problem: Problem) -> AttackResult:
        """Run the steps; rows that the problem lets go are put aside and the others go on."""
        attack, part, state = self, problem, self.begin(problem)
        aside, rows = state.best, torch.arange(len(problem.x), device=problem.x.device)
        walk = problem.stepping or type(self).walk
        for steps in problem.stop.stretches(self.steps):
            state = walk(attack, part, state, steps)
            part.count_steps(len(steps))
            stay = problem.stop.staying(state.best.reached, steps[-1])
            if stay is None:
                continue
            aside, rows = trees.put(aside, rows, state.best), rows[stay]
            if not len(rows):
                return self.found(problem, aside)
            attack, part, state = trees.take(attack, stay), part.take(stay), trees.take(state, stay)
        best = attack.finish(part, state)
        return self.found(problem, best if part is problem else trees.put(aside, rows, best))

    def found(self, problem: Problem, best: Best) -> AttackResult:
        """The best points with their images."""
        return AttackResult(self.set.apply(problem.x, best.z), best.z, best.score)


class Climb(Iterative):
    """An iterative attack whose state stands at a point that the next step looks at."""

    def coordinate(self, x: Tensor, state: Any) -> Any:
        """The point as a coordinate of the set."""
        return state.z

    def finish(self, problem: Problem, state: Any) -> Best:
        """The best point, the last one included, which no step has looked at yet."""
        z = self.coordinate(problem.x, state)
        last = Best.at(problem, self.loss, z, self.set.apply(problem.x, z))
        return super().finish(problem, state).or_better(last)
