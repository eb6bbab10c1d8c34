"""What attacks made of other attacks share: run them in turn, keep the best point of each row."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mpkit import trees
from mpkit.engine import Attack, Best, Found, Problem


class Composite(Attack):
    """Runs attacks in turn on the same examples and judges all results by one loss.

    Where the problem lets examples go, those whose goal is reached skip the attacks that follow.
    """

    @abstractmethod
    def attacks_on(self, problem: Problem) -> Iterator[Attack]:
        """The attacks, for all examples of the problem."""

    def coordinate(self, i: int, found: Found, x: Tensor) -> Any:
        """What attack i found, as a coordinate of this attack's set."""
        return found.z

    def find(self, problem: Problem) -> Found:
        """Run the attacks and keep, for each example, the point that hurts most."""
        best = Best.none_yet(problem.x, self.set.nothing(problem.x))
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
        return Found(self.set.apply(problem.x, best.z), best.z, best.score)
