"""Attacks made of attacks: restarts, the worst of several, many targets, behind a dead zone."""

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from mpkit.attacks.base import Attack, AttackResult, Best, OnceReached, Problem
from mpkit.attacks.gradients import climb, look
from mpkit.attacks.losses import AnyWrong, CrossEntropy, Loss
from mpkit.core import trees
from mpkit.core.checks import require_positive
from mpkit.core.memory import in_pieces
from mpkit.sets import L1, L2, Ball, BehindDeadZone, PerturbationSet, Union, dead_zone
from mpkit.sets.norms import per_row, positive


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
class BehindZone(Wrapper):
    """An attack run on the output of the dead zone in front of a network.

    There every pixel has a slope, while in front of the dead zone most have none. It needs no
    access to the network's layers: the ramp has an inverse.

    Args:
        attack: whose set is a ball in the output.
        a: the width of the dead zone, in [0, 1/2).
        within: an l_1 or l_2 ball around the images that the answer is brought into; whole pixels
            are kept, those that gain most for their cost, since each pays for the dead zone first.
            None for all that the attack's ball allows in front of the dead zone.
    """

    attack: Attack
    a: float
    within: L1 | L2 | None = None

    @property
    def set(self) -> BehindDeadZone | L1 | L2:  # type: ignore[override]
        """The ball ``within``, or what the attack's ball allows in front of the dead zone."""
        return self.within or BehindDeadZone(cast(Ball, self.attack.set), self.a)

    def find(self, problem: Problem) -> AttackResult:
        """Search the output, and return the nearest images that give what was found."""
        x, a = problem.x, self.a
        near = None if problem.donors is None else dead_zone.ramp(problem.donors, a)
        inner = replace(problem, x=dead_zone.ramp(x, a), donors=near)
        inner = replace(inner, model=lambda u: problem.model(dead_zone.back(u, a)))
        found = self.attack.find(inner)
        z = dead_zone.nearest(x, found.image, a) - x
        if isinstance(self.within, L1 | L2):
            slope = climb(inner.model, self.loss, found.image, problem.y).gradient
            gain = (slope * (found.image - inner.x)).sum(1, keepdim=True)
            z = _affordable(self.within, z, gain)
        z = self.set.project(x, z)
        best = Best.at(problem, self.loss, z, x + z)
        return AttackResult(x + z, z, best.score)


def _affordable(ball: L1 | L2, z: Tensor, gain: Tensor) -> Tensor:
    """The pixels of z with the most gain (B, 1, H, W) for their cost, as many as fit the ball."""
    power = 1 if isinstance(ball, L1) else 2
    cost = z.abs().pow(power).sum(1, keepdim=True).flatten(1)
    worth = torch.where(cost > 0, gain.flatten(1) / positive(cost), -torch.inf)
    order = worth.argsort(1, descending=True)
    fits = cost.gather(1, order).cumsum(1) <= per_row(ball.eps, z).reshape(-1, 1) ** power
    return z * torch.zeros_like(cost).scatter(1, order, fits.to(z.dtype)).view_as(gain)


@dataclass(frozen=True)
class StraightThrough(Wrapper):
    """An attack that is given the slope 1 / (1 - a) wherever a dead zone has none or another.

    Args:
        attack: on the images, in any set.
        a: the width of the dead zone, in [0, 1/2).

    Source: Athalye, Carlini and Wagner 2018, the backward pass differentiable approximation.
    """

    attack: Attack
    a: float

    def find(self, problem: Problem) -> AttackResult:
        """Run the attack; values are those of the network, slopes those of the straight line."""

        def model(x: Tensor) -> Tensor:
            line = x / (1 - self.a)
            u = line + (dead_zone.ramp(x, self.a) - line).detach()
            return problem.model(dead_zone.back(u, self.a))

        return self.attack.find(replace(problem, model=model))


@dataclass(frozen=True)
class UntilBroken(Wrapper):
    """An attack whose only goal is to break: examples leave it once their goal is reached.

    Robust accuracy is that of the attack itself; scores of broken examples may be smaller.

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
        return self.attack.find(replace(problem, stop=OnceReached(self.every)))


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
