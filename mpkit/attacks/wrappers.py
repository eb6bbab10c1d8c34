"""Attacks made of attacks: restarts, the worst of several, many targets, in pieces."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mpkit.attacks.base import Attack, AttackResult, Best, OnceReached, Problem
from mpkit.attacks.gradients import look
from mpkit.attacks.losses import AnyWrong, CrossEntropy, Loss
from mpkit.attacks.recorded import GraphedSteps
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.core.memory import in_pieces
from mpkit.sets import PerturbationSet, Union


class Wrapper(Attack):
    """An attack around any other ``attack``, whose set and loss are its own."""

    attack: Attack

    @property
    def set(self) -> PerturbationSet:  # type: ignore[override]
        """The set of the attack."""
        return self.attack.set

    @property
    def loss(self) -> Loss:  # type: ignore[override]
        """The loss of the attack."""
        return self.attack.loss

    @property
    def classes(self) -> int:
        """Fewest classes the attack needs."""
        return self.attack.classes


class Composite(Attack):
    """Runs attacks in turn on the same examples and compares all results by one loss.

    Where the problem lets examples go, those whose goal is reached skip the attacks that follow.
    """

    @abstractmethod
    def attacks_on(self, problem: Problem) -> Iterator[Attack]:
        """The attacks, for all examples of the problem."""

    def coordinate(self, i: int, found: AttackResult, x: Tensor) -> Any:
        """What attack i found, as a coordinate of this attack's set."""
        return found.z

    def find(self, problem: Problem) -> AttackResult:
        """Run the attacks and keep, for each example, the point that hurts most."""
        best = Best.none_yet(problem.x, self.set.zero(problem.x))
        rows = torch.arange(len(problem.x), device=problem.x.device)
        for i, attack in enumerate(self.attacks_on(problem)):
            part = problem.take(rows)
            found = trees.take(attack, rows).find(part)
            z = self.coordinate(i, found, part.x)
            seen = Best.at(part, self.loss, z, found.image)
            best = trees.put(best, rows, trees.take(best, rows).or_better(seen))
            stay = problem.stop.staying(best.reached[rows])
            rows = rows if stay is None else rows[stay]
            if not len(rows):
                break
        return AttackResult(self.set.apply(problem.x, best.z), best.z, best.score)


@dataclass(frozen=True)
class Restarts(Wrapper, Composite):
    """The same attack several times, each time with fresh randomness; the best point is kept.

    Args:
        times: how often, > 0.

    Raises: ValueError: if times is not positive.
    """

    attack: Attack
    times: int

    def __post_init__(self) -> None:
        require_positive("Restarts", times=self.times)

    def attacks_on(self, problem: Problem) -> Iterator[Attack]:
        """The attack, again and again."""
        return iter([self.attack] * self.times)


@dataclass(frozen=True)
class Worst(Composite):
    """Per example the worst of several attacks, as one attack on the union of their sets.

    Args:
        attacks: at least one; their results are compared by ``loss``, whatever they climb.
        loss: by which results are compared, after a reached goal.

    Raises: ValueError: if there is no attack.

    Source: Tramèr and Boneh 2019, the max strategy and union accuracy.
    """

    attacks: tuple[Attack, ...]
    loss: Loss = field(default_factory=CrossEntropy)

    def __post_init__(self) -> None:
        object.__setattr__(self, "attacks", tuple(self.attacks))
        if not self.attacks:
            raise ValueError("Worst: needs at least one attack, got none; give a tuple of attacks")

    @property
    def set(self) -> Union:  # type: ignore[override]
        """The union of the attacks' sets."""
        return Union(*(attack.set for attack in self.attacks))

    @property
    def classes(self) -> int:
        """Fewest classes that the comparing loss and all attacks need."""
        return max(self.loss.classes, *(attack.classes for attack in self.attacks))

    def attacks_on(self, problem: Problem) -> Iterator[Attack]:
        """The attacks in order."""
        return iter(self.attacks)

    def coordinate(self, i: int, found: AttackResult, x: Tensor) -> Any:
        """Set i of the union, with what its attack found."""
        which, parts = self.set.zero(x)
        return torch.full_like(which, i), (*parts[:i], found.z, *parts[i + 1 :])


@dataclass(frozen=True)
class MultiTargeted(Wrapper, Composite):
    """An attack aimed in turn at the wrong classes that the model likes best on the clean image.

    Any wrong class counts as a success.

    Args:
        attack: an attack with a loss that has a targeted version.
        targets: how many wrong classes to try; all there are, where fewer.

    Raises: ValueError: if targets is not positive.

    Source: Croce and Hein 2020 (AutoAttack), the targeted attacks.
    """

    attack: Attack
    targets: int = 9

    def __post_init__(self) -> None:
        require_positive("MultiTargeted", targets=self.targets)

    @property
    def classes(self) -> int:
        """Fewest classes the targeted loss needs."""
        return max(self.loss.classes, self.loss.toward(0).classes)

    def attacks_on(self, problem: Problem) -> Iterator[Attack]:
        """The attack, with each of the best wrong classes as its target."""
        logits, _ = look(problem.model, self.loss, problem.x, problem.y)
        wrong = logits.scatter(1, problem.y.unsqueeze(1), -torch.inf)
        order = wrong.topk(min(self.targets, logits.shape[1] - 1), dim=1).indices
        for target in order.unbind(1):
            aim = AnyWrong(self.loss.toward(target))
            yield replace(self.attack, loss=aim)  # type: ignore[type-var]


@dataclass(frozen=True)
class UntilBroken(Wrapper):
    """An attack whose only goal is to break: examples leave it once their goal is reached.

    Robust accuracy is that of the attack itself; scores of broken examples may be smaller. On a GPU
    its steps are replayed, see ``GraphedSteps``.

    Args:
        every: steps between two looks at which examples are done.

    Raises: ValueError: if every is not positive.
    """

    attack: Attack
    every: int = 5

    def __post_init__(self) -> None:
        require_positive("UntilBroken", every=self.every)

    def find(self, problem: Problem) -> AttackResult:
        """Run the attack and let examples go."""
        stepping = problem.stepping or GraphedSteps.usual(problem.x.device)
        return self.attack.find(replace(problem, stop=OnceReached(self.every), stepping=stepping))


@dataclass(frozen=True)
class Batched(Wrapper):
    """An attack run on a few examples at a time, so that memory does not grow with their number.

    When the device runs out of memory the batch size is halved, with a warning, and the piece is
    run again with the same random numbers. Sets, losses and attacks with one value for each
    example are cut along.

    Args:
        size: examples at a time, > 0; about 128 is quickest on a CPU.

    Raises: ValueError: if size is not positive.
    """

    attack: Attack
    size: int = 128

    def __post_init__(self) -> None:
        require_positive("Batched", size=self.size)

    def find(self, problem: Problem) -> AttackResult:
        """Attack one piece after the other.

        Raises: NoMemory: if not even a single example fits.
        """

        def attack(piece: slice) -> AttackResult:
            rows = torch.arange(piece.start, piece.stop, device=problem.x.device)
            return trees.take(self.attack, rows).find(problem.take(rows))

        return trees.joined(in_pieces("Batched", attack, len(problem.x), self.size, problem.rng))
