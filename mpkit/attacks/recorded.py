"""Searches recorded on a GPU and replayed: steps of those that let examples go, or all at once."""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mpkit.attacks.base import Attack, AttackResult, Iterative, Problem
from mpkit.attacks.gradients import Model
from mpkit.core import cuda_graphs, trees
from mpkit.core.checks import unread
from mpkit.core.cuda_graphs import Recorder, plainly
from mpkit.models import QueryCounter
from mpkit.sets import fused

SHAPES = 8  # of batches, for which a recorded attack keeps its recordings
LANES = 256  # attacks and sizes, for which steps are kept: those of three suites
LEAST = 8  # rows; fewer take a GPU as long
OFTEN = 2 * (cuda_graphs.WARM + 1)  # steps of a kind in a search, for which a recording pays


class Lane:
    """One attack on so many rows of one network: memory of its own, and its recorded steps.

    Args:
        held: the attack, images (B, C, H, W), labels (B,) and state, whose tensors become its own.
        model: the network.
    """

    def __init__(self, held: Any, model: Model) -> None:
        self.held = held
        self.attack, x, y, self.state = held
        self.rng = torch.Generator(x.device)
        self.problem = Problem(model, x, y, self.rng)
        steps = range(self.attack.steps)
        self.paces = x.new_tensor([self.attack.pace(k) for k in steps])
        self.kinds = Counter(map(self.attack.kind, steps))
        self.works: dict[Hashable, Callable[..., Any]] = {}
        self.asked: dict[Hashable, tuple[int, int]] = {}
        self.counters = counters(model)
        self.pays = max(self.kinds.values()) >= OFTEN

    def step(self, k: int) -> None:
        """Take step k, in place."""
        self.works[self.attack.kind(k)](self.paces[k])

    def prepare(self, k: int, recorder: Recorder) -> None:
        """Record the kind of step k where it comes often, and try whether a replay does the same.

        Raises: RuntimeError: it cannot be recorded, or the network does something else each time.
        """
        kind = self.attack.kind(k)
        if kind in self.works:
            return
        made = work = self._work(k)
        if self.kinds[kind] >= OFTEN:
            state, pace = trees.leaves(self.state), self.paces[k]
            made = recorder(work, [pace], [self.rng], state)
            if not fused.alike(self._tried(made, pace), self._tried(work, pace)):
                raise RuntimeError("a replay gives something else than the step")
        self.works[kind] = made

    def _work(self, k: int) -> Callable[..., Any]:
        """Step k as work on the lane's memory."""
        own, kind = trees.leaves(self.state), self.attack.kind(k)

        def work(pace: Tensor) -> None:
            before = [(one.forwards, one.backwards) for one in self.counters]
            problem = replace(self.problem, pace=tuple(pace.unbind()))
            try:
                with unread():
                    new = trees.leaves(self.attack.advance(problem, self.state, k))
            finally:
                for one, was in zip(self.counters, before, strict=True):
                    self.asked[kind] = one.forwards - was[0], one.backwards - was[1]
                    one.forwards, one.backwards = was
            _written(own, new)

        return work

    def _tried(self, work: Callable[..., Any], pace: Tensor) -> tuple[Tensor, ...]:
        """The state after a step that is taken back."""
        own, numbers = trees.leaves(self.state), self.rng.get_state()
        before = [one.clone() for one in own]
        work(pace)
        after = tuple(one.clone() for one in own)
        _written(own, before)
        self.rng.set_state(numbers)
        return after

    def count(self, steps: range, share: float) -> None:
        """Tell the network's counters what some steps asked of that share of the rows."""
        for k in steps:
            forwards, backwards = self.asked.get(self.attack.kind(k), (0, 0))
            for one in self.counters:
                one.forwards += round(forwards * share)
                one.backwards += round(backwards * share)


def _written(own: list[Tensor], new: list[Tensor]) -> None:
    """Write tensors into others, some of which they may lie in."""
    places = {one.untyped_storage().data_ptr() for one in own}
    pairs = [(a, b) for a, b in zip(own, new, strict=True) if a is not b]
    safe = [b.clone() if b.untyped_storage().data_ptr() in places else b for _, b in pairs]
    for (a, _), b in zip(pairs, safe, strict=True):
        a.copy_(b)


def counters(model: Any) -> list[QueryCounter]:
    """What counts the passes through a network, which a replay does not call."""
    while is_dataclass(model) and hasattr(model, "model"):
        model = model.model
    modules = model.modules() if isinstance(model, nn.Module) else ()
    return [one for one in modules if isinstance(one, QueryCounter)]


@dataclass
class GraphedSteps:
    """Takes the steps of searches by replaying recordings of them; a ``Problem`` is given one.

    Examples leave a search, but a recording has one shape: rows are padded to a power of two by
    rows that come twice, and every kind of step is recorded once for each such size. Between two
    looks at who may leave, nothing waits for the device. Kinds of steps that come seldom, attacks
    that do not tell the kinds of their steps, and networks that cannot be recorded or do something
    else each time take their steps plainly.

    Rows do not depend on each other, so padding changes no result but by rounding; steps that draw
    random numbers draw them for all rows, so those are others by the same law.

    Args:
        recorder: what records; ``plainly`` for nothing, without padding.
    """

    recorder: Recorder
    lanes: dict[Hashable, Lane] = field(default_factory=dict)
    failed: set[type] = field(default_factory=set)

    @classmethod
    def usual(cls, device: torch.device) -> "GraphedSteps":
        """Recordings on a GPU, none elsewhere."""
        return cls(cuda_graphs.usual(device))

    def __call__(self, attack: Iterative, problem: Problem, state: Any, steps: range) -> Any:
        """The state after some steps of a search.

        Args:
            attack: with the state of all rows of the problem.
            problem: its generator is left where the last step leaves it.
            state: of ``attack``, before the first of the steps.
            steps: their numbers.
        """
        if self.recorder is plainly or type(attack) in self.failed or cuda_graphs.under_way():
            return attack.walk(problem, state, steps)
        given, count = (attack, problem.x, problem.y, state), len(problem.x)
        size = max(LEAST, 1 << (count - 1).bit_length())
        try:
            key = size, trees.outline(problem.model), trees.outline(given)
        except TypeError:  # of something by which a recording could not be found again
            return attack.walk(problem, state, steps)
        try:
            rows = torch.arange(size, device=problem.x.device) % count
            lane = self._lane(key, rows, problem.model, given)
            if lane.pays:
                return self._replayed(lane, problem, steps, count / size)
        except RuntimeError as error:
            warnings.warn(
                f"GraphedSteps: recording {type(attack).__name__} failed ({error}); "
                "running every step plainly",
                stacklevel=4,
            )
            self.failed.add(type(attack))
            self.lanes.clear()
        return attack.walk(problem, state, steps)

    def _lane(self, key: Hashable, rows: Tensor, model: Model, given: Any) -> Lane:
        """The lane of that key, with the given rows of attack, images, labels and state in it."""
        lane = self.lanes.pop(key, None)
        if lane is None:
            lane = Lane(trees.take(given, rows), model)
            while len(self.lanes) >= LANES:
                del self.lanes[next(iter(self.lanes))]  # whose last use is longest ago
        else:
            for own, new in zip(trees.leaves(lane.held), trees.leaves(given), strict=True):
                own.copy_(new[rows])
        self.lanes[key] = lane
        return lane

    def _replayed(self, lane: Lane, problem: Problem, steps: range, share: float) -> Any:
        lane.rng.set_state(problem.rng.get_state())
        for k in steps:
            lane.prepare(k, self.recorder)
        for k in steps:
            lane.step(k)
        lane.count(steps, share)
        problem.rng.set_state(lane.rng.get_state())
        return trees.mapped(lambda own: own[: len(problem.x)].clone(), lane.state)


class GraphedAttack:
    """An attack on one network, recorded whole for each shape of batches and replayed.

    The results are those of the attack. The network's weights may change in place between two
    calls, but not be replaced. On a CPU, within another recording, and with a message where
    recording fails, every call runs the attack itself.

    Args:
        attack: any attack that never waits for the device: not one that lets examples go.
        model: images (B, C, H, W) to logits (B, K).
        x: the first batch, (B, C, H, W); it is attacked once, with all checks, as is the first of
            any other shape later.
        y: its labels, (B,) int64.
        recorder: what records; a CUDA graph on a GPU where not given.

    Raises: ValueError: if an argument is unfit.
    """

    def __init__(
        self, attack: Attack, model: Model, x: Tensor, y: Tensor, recorder: Recorder | None = None
    ) -> None:
        self.attack, self.model = attack, model
        self.rng = torch.Generator(x.device).manual_seed(0)
        self.recorder = recorder or cuda_graphs.usual(x.device)
        self.works: dict[tuple[Any, ...], Callable[..., Any]] = {}
        self._work(x, y)

    def _work(self, x: Tensor, y: Tensor) -> Callable[..., Any]:
        """What attacks batches of this shape; of more than SHAPES the longest unused is let go."""
        key = x.shape, x.dtype
        work = self.works.pop(key, None)
        if work is None:
            work = self._recorded(x, y)
            while len(self.works) >= SHAPES:
                del self.works[next(iter(self.works))]
        self.works[key] = work
        return work

    def _recorded(self, x: Tensor, y: Tensor) -> Callable[..., Any]:
        self.attack(self.model, x, y, self.rng)
        try:
            return self.recorder(self._search, [x, y], [self.rng])
        except RuntimeError as error:
            warnings.warn(
                f"GraphedAttack: recording {type(self.attack).__name__} failed ({error}); "
                "running it step by step",
                stacklevel=4,
            )
            self.recorder, self.rng = cuda_graphs.plainly, torch.Generator(x.device)
            self.works.clear()  # which draw from the old generator
            return self._search

    def _search(self, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        with unread():
            return tuple(self.attack(self.model, x, y, self.rng))

    def __call__(self, x: Tensor, y: Tensor, rng: torch.Generator) -> AttackResult:
        """Attack a batch; on a GPU nothing is checked but its shape and type, and nothing waits.

        Args:
            x: (B, C, H, W), float32 or float64, in [0, 1].
            y: (B,) int64 labels.
            rng: a generator on the device of x.

        Returns: the worst allowed image seen for each example.
        """
        work = self._search if cuda_graphs.under_way() else self._work(x, y)
        self.rng.set_state(rng.get_state())
        found = trees.mapped(lambda part: part.clone(), work(x, y))
        rng.set_state(self.rng.get_state())
        return AttackResult(*found)
