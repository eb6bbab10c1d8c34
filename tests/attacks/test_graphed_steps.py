"""Steps that are replayed give what plain ones give, though rows are padded and examples leave."""

import warnings
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from helpers import every
from helpers.pretend import Claims, Count
from helpers.stand_ins import Taped
from helpers.toys import generator, relu_net
from mpkit.attacks import APGD, FMN, PGD, BehindZone, GraphedSteps, Margin, Square, UntilBroken
from mpkit.attacks import recorded as steps_of
from mpkit.attacks.base import Iterative, OnceReached, Problem, Seen
from mpkit.attacks.gradients import Guarded
from mpkit.core import cuda_graphs, trees
from mpkit.core.checks import unread
from mpkit.core.cuda_graphs import plainly
from mpkit.evaluation import evaluate
from mpkit.models import QueryCounter
from mpkit.sets import L1, L2, Linf, projections, thresholds


class Rowwise(nn.Module):
    """A linear layer that treats each row by itself: matrix products round by the whole batch."""

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, x):
        return (x.unsqueeze(1) * self.weight).sum(2) + self.bias


def rowwise(model):
    return nn.Sequential(*(Rowwise(one) if isinstance(one, nn.Linear) else one for one in model))


FREE = {name: row.attack for name, row in every.ATTACKS.items() if not row.waits}
FREE["transfer"] = replace(FREE["transfer"], guide=rowwise(every.GUIDE))
DRAWS = {"square linf", "square l2", "square l1", "worst of k", "nes", "whole pixels"}
"""Attacks that draw random numbers in their steps, not only where they begin."""
each = pytest.mark.parametrize("name", FREE)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The way of a GPU, whose values are not read; every kind of step is recorded at any size."""
    for module in (projections, thresholds):
        monkeypatch.setattr(module, "blind", lambda tensor: True)
    monkeypatch.setattr(steps_of, "OFTEN", 1)
    monkeypatch.setattr(steps_of, "LEAST", 1)


def unrecorded(work, *_):
    """No recording, but all that is done for one."""
    return work


def searched(attack, problem, recorder=plainly, every=2):
    steps = GraphedSteps(recorder)
    with torch.no_grad():
        return attack.find(replace(problem, stop=OnceReached(every), stepping=steps)), steps


def posed(n=every.IMAGES, seed=0):
    """A network that errs soon on some of its images and late on others."""
    if n == every.IMAGES:
        model, x, y = every.problem(seed)
    else:
        model = relu_net(seed, inputs=16, classes=4)
        x = torch.rand(n, 1, 4, 4, generator=generator(seed), dtype=torch.float64)
        with torch.no_grad():
            y = model(x).argmax(1)
    model = rowwise(model).eval().requires_grad_(False)
    return Problem(Guarded(model, 4), x, y, generator(1))


def alike(one, other):
    return all(map(torch.equal, trees.leaves(tuple(one)), trees.leaves(tuple(other))))


@each
def test_replayed_steps_are_plain_ones_to_the_bit(name):
    runs = []
    for recorder in (Taped, unrecorded):
        problem = posed()
        runs.append((searched(FREE[name], problem, recorder)[0], problem.rng.get_state()))
    assert alike(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])


@each
def test_rows_that_come_twice_change_no_other_row(name):
    """Not a bit where steps draw nothing; five images leave one by one, padded to four and two."""
    problem = posed()
    plain, _ = searched(FREE[name], problem)
    padded, steps = searched(FREE[name], posed(), unrecorded)
    assert steps.recorder is unrecorded
    if name in DRAWS:
        assert FREE[name].set.contains(problem.x, padded.z).all()
    else:
        assert alike(plain, padded)


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_padded_steps_draw_what_a_batch_of_that_size_draws(name):
    """Each row by its own law: the first rows are those of a plain search on the padded batch."""
    attack, problem, rows = FREE[name], posed(), torch.arange(8) % every.IMAGES
    with torch.no_grad():
        state, steps = attack.begin(problem), range(attack.steps)
        numbers = problem.rng.get_state()
        whole = attack.walk(problem.take(rows), trees.take(state, rows), steps)
        after = problem.rng.get_state()
        problem.rng.set_state(numbers)
        found = GraphedSteps(Taped)(attack, problem, state, steps)
    assert alike(found, trees.take(whole, slice(0, every.IMAGES)))
    assert torch.equal(problem.rng.get_state(), after)


MANY = {
    "pgd": PGD(Linf(0.1), 20, loss=Margin()),
    "fmn": FMN(L2(0.4), 20),
    "apgd linf": APGD(Linf(0.1), 25),
    "apgd l1": APGD(L1(0.8), 25),
    "square": Square(Linf(0.15), 40),
    "behind a zone": BehindZone(PGD(L2(0.4), 20), 0.2),
}


@pytest.mark.parametrize("name", MANY)
def test_recordings_are_at_most_one_for_each_kind_and_power_of_two(name):
    """For any number of batches, whose sizes and labels differ."""
    inner = getattr(MANY[name], "attack", MANY[name])
    inner = inner.unrolled() if isinstance(inner, APGD) else inner
    kinds = {inner.kind(k) for k in range(inner.steps)}
    steps, before = GraphedSteps(Taped), Taped.made
    model = posed().model
    for n in (24, 32, 19):
        problem = replace(posed(n, seed=n), model=replace(model, classes=2 + n % 3), stepping=steps)
        with torch.no_grad():
            MANY[name].find(replace(problem, stop=OnceReached(2)))
    sizes = {key[0] for key in steps.lanes}
    assert 2 <= len(sizes) <= 6 and sizes <= {1, 2, 4, 8, 16, 32}
    assert 0 < Taped.made - before <= len(kinds) * len(sizes) and len(steps.lanes) == len(sizes)
    assert len(kinds) <= 10


def test_a_kind_that_comes_seldom_is_not_recorded(monkeypatch):
    monkeypatch.setattr(steps_of, "OFTEN", 8)
    attack, before = APGD(Linf(0.01), 50), Taped.made
    plain, _ = searched(attack, posed())
    found, steps = searched(attack, posed(), Taped)
    kinds = [attack.unrolled().kind(k) for k in range(50)]
    often = {kind for kind in kinds if kinds.count(kind) >= 8}
    assert alike(plain, found)
    assert Taped.made - before == len(often) * len(steps.lanes) < len(set(kinds)) * len(steps.lanes)


@each
def test_nothing_waits_but_the_looks_at_who_may_leave(name):
    """Once everything is recorded; before that, whether a replay does the same is looked at."""
    problem, steps = posed(), GraphedSteps(unrecorded)
    problem = replace(problem, stop=OnceReached(2), stepping=steps)
    with Claims(), torch.no_grad(), unread():
        FREE[name].find(problem)
        with Count() as count:
            FREE[name].find(replace(problem, rng=generator(1)))
    assert steps.lanes and {line.split(":")[0] for _, line in count.waits} <= {"attacks/base.py"}


class Looking(OnceReached):
    """Notes after which steps it looks."""

    def staying(self, reached, k=None):
        seen.append((k, len(reached)))
        return super().staying(reached, k)


seen: list[tuple[int, int]] = []


def test_looks_come_every_few_steps_and_none_after_what_is_left():
    seen.clear()
    problem = replace(posed(24), stop=Looking(5), stepping=GraphedSteps(Taped))
    with torch.no_grad():
        PGD(Linf(0.05), 13, loss=Margin()).find(problem)
    assert [k for k, _ in seen] == [4, 9, 12]
    assert seen[0][1] == 24 > seen[1][1]


def test_a_recording_is_for_one_attack_on_one_network():
    """Radii of rows, targets and labels may change; a number, a loss or a network may not."""
    problem, steps, before = posed(), GraphedSteps(Taped), Taped.made
    other = replace(problem, model=replace(problem.model, model=posed(seed=2).model.model))
    aimed = [Margin().toward((problem.y + turn) % 4) for turn in (1, 2)]
    radii = [Linf(torch.full((every.IMAGES,), eps)) for eps in (0.1, 0.2)]
    made = []
    for attack, asked in [
        *((PGD(ball, 3), problem) for ball in radii),
        *((PGD(radii[0], 3, loss=loss), problem) for loss in aimed),
        (PGD(radii[0], 3, step=0.1), problem),
        (PGD(radii[0], 3), other),
        (PGD(radii[1], 3), problem),
    ]:
        with torch.no_grad():
            found = attack.find(replace(asked, rng=generator(1), stepping=steps))
            plain = attack.find(replace(asked, rng=generator(1)))
        assert alike(found, plain)
        made.append(Taped.made - before)
    assert made == [1, 1, 2, 2, 3, 4, 4]


def test_of_more_lanes_than_are_kept_the_longest_unused_leaves(monkeypatch):
    monkeypatch.setattr(steps_of, "LANES", 2)
    problem, steps, made = posed(), GraphedSteps(Taped), []
    for eps in (0.1, 0.2, 0.1, 0.3, 0.1, 0.2):
        before = Taped.made
        with torch.no_grad():
            PGD(Linf(eps), 2).find(replace(problem, stepping=steps))
        made.append(Taped.made - before)
    assert made == [1, 1, 0, 1, 0, 1]


def test_passes_are_counted_for_the_rows_that_are_no_padding():
    counted = []

    def cannot(work, inputs, rngs=(), kept=()):
        work(*inputs)
        raise RuntimeError("operation not permitted when stream is capturing")

    for recorder in (plainly, Taped, cannot):
        counter = QueryCounter(every.problem()[0]).eval()
        problem = replace(posed(), model=Guarded(counter, 4))
        with warnings.catch_warnings(action="ignore"):
            searched(PGD(L2(0.5), 6, loss=Margin()), problem, recorder)
        counted.append((counter.forwards, counter.backwards))
    assert counted[0] == counted[1] == counted[2] and counted[0][1] > 0


NOT_DRAWN = {name: attack for name, attack in FREE.items() if name not in DRAWS}


@pytest.mark.parametrize("name", NOT_DRAWN)
def test_an_evaluation_of_replayed_steps_gives_the_ledger_of_a_plain_one(name, monkeypatch):
    """Marks, margins, steps of each example and passes through the network."""
    model, x, y = every.problem()
    ledgers = []
    for recorder in (plainly, Taped):
        monkeypatch.setattr(cuda_graphs, "usual", lambda device, recorder=recorder: recorder)
        ledgers.append(evaluate(model, x, y, {"it": NOT_DRAWN[name]}, generator(3), batch=3))
    assert ledgers[0] == ledgers[1]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operation not permitted when stream is capturing"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB."),
        torch.AcceleratorError("CUDA error: out of memory", 2),
    ],
)
def test_what_cannot_be_recorded_is_said_and_searched_plainly(error):
    """So is what needs more memory than there is, with that of all recordings given back."""

    def cannot(work, inputs, rngs=(), kept=()):
        work(*inputs)
        raise error

    attack = PGD(L2(0.5), 6, loss=Margin())
    plain, _ = searched(attack, posed())
    with pytest.warns(UserWarning, match="GraphedSteps: recording PGD failed") as caught:
        found, steps = searched(attack, posed(), cannot)
    assert alike(found, plain) and len(caught) == 1
    assert steps.failed == {PGD} and not steps.lanes
    with torch.no_grad():
        other = FMN(L2(0.5), 3).find(posed())
        again = FMN(L2(0.5), 3).find(replace(posed(), stepping=replace(steps, recorder=Taped)))
    assert alike(again, other)  # other attacks are recorded all the same


class Moody(nn.Module):
    """Counts on the host, and answers by the count: a recording would freeze it."""

    def __init__(self, model):
        super().__init__()
        self.model, self.count = model, 0

    def forward(self, x):
        self.count += 1
        return self.model(x) * (1 + self.count % 7)


def test_a_network_that_answers_otherwise_each_time_is_not_recorded():
    problem = posed()
    problem = replace(problem, model=Guarded(Moody(problem.model.model), 4))
    with pytest.warns(UserWarning, match="a replay gives something else than the step"):
        _, steps = searched(PGD(L2(0.5), 6, loss=Margin()), problem, Taped)
    assert steps.failed == {PGD}


@dataclass(frozen=True)
class Stranger(Iterative):
    """An attack of one's own that says nothing about its steps, which use their number."""

    set: Linf
    steps: int = 9
    loss: Margin = field(default_factory=Margin)

    def advance(self, problem, state, k):
        x = problem.x
        z = torch.full_like(x, self.set.eps * k / self.steps)
        z = self.set.project(x, z)
        best = state.best._replace(z=z, score=state.best.score.clamp(min=k))
        return Seen(best)


def test_steps_that_tell_no_kind_are_not_recorded(monkeypatch):
    monkeypatch.setattr(steps_of, "OFTEN", 2)
    before = Taped.made
    plain, _ = searched(Stranger(Linf(0.2)), posed())
    found, _ = searched(Stranger(Linf(0.2)), posed(), Taped)
    assert alike(plain, found) and Taped.made == before


def test_until_broken_replays_its_steps_on_a_gpu(monkeypatch):
    problem, attack = posed(), UntilBroken(PGD(L2(0.5), 6, loss=Margin()), 2)
    with torch.no_grad():
        plain, before = attack.find(problem), Taped.made
        monkeypatch.setattr(cuda_graphs, "usual", lambda device: Taped)
        found = attack.find(replace(problem, rng=generator(1)))
    assert alike(plain, found) and Taped.made > before


def test_an_outline_refuses_what_may_change_unseen():
    with pytest.raises(TypeError, match="without rows"):
        trees.outline((torch.tensor(0.3),))
    with pytest.raises(TypeError, match="unhashable"):
        trees.outline(([1, 2],))
    for attack in (FMN(Linf(torch.tensor(0.3)), 2), PGD(L2(0.5), 2)):
        steps, before = GraphedSteps(Taped), Taped.made
        with torch.no_grad():
            attack.find(replace(posed(), stepping=steps))
        assert bool(steps.lanes) == (Taped.made > before) == isinstance(attack, PGD)
    one, other = (PGD(Linf(torch.rand(3)), 2) for _ in range(2))
    assert trees.outline(one) == trees.outline(other) != trees.outline(replace(one, steps=3))
