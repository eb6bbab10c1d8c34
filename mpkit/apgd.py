"""Auto-PGD: gradient attacks that choose their own step lengths, for l_inf, l_2 and l_1."""

from dataclasses import dataclass, field

from mpkit.apgd_momentum import MomentumAPGD
from mpkit.apgd_sparse import SparseAPGD
from mpkit.checks import require_positive
from mpkit.engine import Attack, Found, Problem
from mpkit.losses import CrossEntropy, Loss
from mpkit.pgd import Start, Uniform
from mpkit.sets import L1, Ball


@dataclass(frozen=True)
class APGD(Attack):
    """Auto-PGD: no step length to choose; it is halved where an example makes no progress.

    For l_inf and l_2: momentum, and at checkpoints a return to the best point with half the step.
    In l_2, steps of the first half are cut at the walls of the box before they are projected.
    For l_1: sparse steps whose sparsity follows that of the best perturbation, first in larger
    balls, with the exact projection onto ball ∩ box.

    Args:
        set: the ball, with its box.
        steps: number of gradients, > 0.
        loss: what is maximized; with DLR() and MultiTargeted this is AutoAttack's gradient part.
        start: where to begin.

    Raises:
        ValueError: if steps is not positive.

    Source: Croce and Hein 2020, algorithm 1; for l_1 Croce and Hein 2021, algorithm 1. The
        order of cut and projection is that of the code of ART (Nicolae et al. 2018); to keep it
        to the first half is ours.
    """

    set: Ball
    steps: int = 100
    loss: Loss = field(default_factory=CrossEntropy)
    start: Start = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        require_positive("APGD", steps=self.steps)

    def unrolled(self) -> MomentumAPGD | SparseAPGD:
        """The version for the ball's norm."""
        rest = (self.steps, self.loss, self.start)
        if isinstance(self.set, L1):
            return SparseAPGD(self.set, *rest)
        return MomentumAPGD(self.set, *rest)

    def find(self, problem: Problem) -> Found:
        """Run the version for the ball's norm."""
        return self.unrolled().find(problem)
