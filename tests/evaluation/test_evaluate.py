"""Evaluation: what it counts, what it refuses, and that a run can be cut anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from helpers.toys import Linear, generator, linear_problem
from mpkit.attacks import (
    PGD,
    Attack,
    AttackResult,
    CrossEntropy,
    Loss,
    Margin,
    Restarts,
    Square,
    Worst,
)
from mpkit.attacks.base import Problem
from mpkit.core.files import DataError
from mpkit.core.progress import Quiet
from mpkit.evaluation import (
    AfterPilot,
    Budget,
    EachSet,
    Goal,
    Ledger,
    OutsideSet,
    UnionOnly,
    evaluate,
    merged,
    quickest_first,
    standard,
)
from mpkit.evaluation.resume import ResumableLedger
from mpkit.evaluation.suites import BUDGETS, QUICKEST, SCREEN_LEAVES_OUT
from mpkit.sets import L1, L2, Linf, PerturbationSet, Union, parse_threat


class EveryAttack(Goal):
    """The full matrix: every attack on every example that is right when clean."""

    def open(self, broken, spent):
        return torch.ones_like(broken[0])

    def __repr__(self):
        return "EveryAttack()"


THREAT = "linf:0.1 + l2:0.3 + l1:0.6"
ATTACKS = {
    "pgd inf": PGD(Linf(0.1), 8),
    "pgd 2": PGD(L2(0.3), 8),
    "square inf": Square(Linf(0.1), 12),
    "worst": Worst((PGD(L1(0.6), 8), PGD(L2(0.3), 4))),
}


def problem(n: int = 40) -> tuple[Linear, Tensor, Tensor]:
    """A linear model with margins small enough that a part of the images breaks."""
    model, x, y = linear_problem(3, n, shape=(1, 3, 4), dtype=torch.float64)
    lead = model(x)[:, 1].detach()
    model.level = float(lead.median()) + 0.4
    y[: n // 8] = 1
    return model, x, y


def run(attacks=ATTACKS, seed: int = 0, n: int = 40, **options) -> Ledger:
    model, x, y = problem(n)
    return evaluate(model, x, y, attacks, generator(seed), **{"batch": 8, **options})


def test_the_full_matrix_equals_attacks_called_one_by_one() -> None:
    ledger = run(goal=EveryAttack())
    model, x, y = problem()
    clean = model(x).argmax(1) != y
    assert torch.equal(ledger.broken[0], clean)
    assert ledger.names == ("clean", *ATTACKS)
    assert ledger.sets == ("linf:0.1", "l2:0.3", "l1:0.6")
    assert torch.equal(ledger.tried[1:], (~clean).expand(4, -1))
    for row in (1, 2):  # first-order attacks on a linear model are exact, whatever they draw
        attack = list(ATTACKS.values())[row - 1]
        wrong = model(attack(model, x, y, generator(7)).image).argmax(1) != y
        assert torch.equal(ledger.broken[row] | clean, wrong | clean)
    assert torch.equal(ledger.margin[1:].isnan(), ~ledger.tried[1:])
    assert torch.equal(ledger.margin[1:] > 0, ledger.broken[1:])


def test_survivors_only_gives_the_same_accuracies_as_the_full_matrix() -> None:
    full, short = run(goal=EveryAttack()), run()
    union = run(goal=UnionOnly())
    for name in full.sets:
        assert full.accuracy(name) == short.accuracy(name)
        assert union.accuracy(name).value >= short.accuracy(name).value
    assert full.union_accuracy() == short.union_accuracy() == union.union_accuracy()
    assert full.tried.sum() > short.tried.sum() > union.tried.sum()
    assert 0 < full.union_accuracy().value < full.accuracy().value < 1


def test_an_example_leaves_its_set_once_broken_there() -> None:
    ledger = run()
    for row in range(1, len(ledger.names)):
        for name in ledger.sets:
            s = ledger.sets.index(name)
            mine = ledger.within[row] == s
            before = (ledger.broken[:row] & (ledger.within[:row] == s)).any(0)
            if row != 4:  # the worst of two sets goes on while one of them stands
                assert not (mine & before).any()


def test_cost_and_steps_are_counted() -> None:
    ledger = run({"pgd": PGD(Linf(1e-3), 6)}, goal=EveryAttack())
    tried = int(ledger.tried[1].sum())
    assert ledger.images[0].tolist() == [40, 0]
    assert ledger.images[1].tolist() == [tried * (6 + 1 + 1), tried * 6]
    assert torch.equal(ledger.steps[1], 6 * ledger.tried[1].int())


def test_an_example_that_breaks_early_has_fewer_steps() -> None:
    ledger = run({"pgd": PGD(Linf(0.1), 30)})
    stood = ledger.tried[1] & ~ledger.broken[1]
    assert (ledger.steps[1][stood] == 30).all()
    assert (ledger.steps[1][ledger.broken[1]] < 30).any()


@dataclass(frozen=True)
class Planted(Attack):
    """Returns a given perturbation, allowed or not."""

    set: PerturbationSet
    size: float
    loss: Loss = CrossEntropy()  # noqa: RUF009

    def find(self, problem: Problem) -> AttackResult:
        z = torch.full_like(problem.x, self.size)
        image = (problem.x + z).clamp(0, 1)
        return AttackResult(image, image - problem.x, problem.x.new_zeros(len(problem.x)))


def test_a_false_claim_stops_the_run_and_names_the_attack(tmp_path: Path) -> None:
    with pytest.raises(OutsideSet, match=r"liar: .* lies outside linf:0\.1"):
        run({"liar": Planted(Linf(0.1), 0.9)}, file=tmp_path / "kept")
    assert Ledger.load(tmp_path / "kept").facts["units done"] == 1


def test_an_attack_outside_its_set_that_breaks_nothing_stops_nothing() -> None:
    model, x, y = problem()
    calm = Linear(model.weight * 0, level=1.0)
    ledger = evaluate(calm, x, y * 0, [Planted(Linf(0.1), 0.9)], generator())
    assert ledger.union_accuracy().value == 1


class Odd(nn.Module):
    """Linear, but without an answer to images whose first pixel was raised."""

    def __init__(self, inner: Linear, level: float) -> None:
        super().__init__()
        self.inner, self.level = inner, level

    def forward(self, x: Tensor) -> Tensor:
        hole = torch.where(x[:, 0, 0, 0] > self.level, torch.nan, 0.0)
        return self.inner(x) * (1 + hole[:, None] * x.flatten(1).sum(1, keepdim=True))


def test_nan_logits_count_as_broken_and_are_marked() -> None:
    model, x, y = problem()
    x[:, 0, 0, 0] = torch.linspace(0, 1, len(x), dtype=x.dtype)
    for attack in ("standard", "quick"):
        suite = standard(Linf(0.05), Budget(5, 1, 5, 5, 1, (1, 1)), classes=5)
        ledger = evaluate(Odd(model, 0.8), x, y, suite, generator(), batch=16)
        hole = x[:, 0, 0, 0] > 0.8
        assert ledger.broken[0][hole].all(), attack
        assert ledger.unfit[hole].all()
        assert not ledger.unfit[x[:, 0, 0, 0] < 0.74].any()
        assert torch.isfinite(x).all()


class Cut(Quiet):
    """Interrupts after so many units."""

    def __init__(self, after: int) -> None:
        self.left = after

    def advance(self, steps: int, note: str) -> None:
        self.left -= steps
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("after", [1, 4, 5, 13, 24])
def test_a_run_cut_anywhere_ends_bit_identical(tmp_path: Path, after: int) -> None:
    whole, file = tmp_path / "whole", tmp_path / "cut"
    expected = run(file=whole)
    with pytest.raises(KeyboardInterrupt):
        run(file=file, progress=Cut(after))
    assert run(file=file) == expected
    assert file.read_bytes() == whole.read_bytes()
    assert run(file=file) == expected  # a finished file is simply read


def test_a_file_of_another_evaluation_is_refused_and_kept(tmp_path: Path) -> None:
    file = tmp_path / "kept"
    run(file=file)
    content = file.read_bytes()
    for other in ({"seed": 1}, {"batch": 10}, {"attacks": {"pgd": PGD(Linf(0.2), 2)}}, {"n": 32}):
        with pytest.raises(DataError, match="holds another evaluation"):
            run(file=file, **other)
    assert file.read_bytes() == content


def test_shards_merge_to_the_unsharded_ledger_exactly() -> None:
    model, x, y = problem()
    whole = run()
    shards = [
        evaluate(model, x[a:b], y[a:b], ATTACKS, generator(), batch=8, first=a)
        for a, b in ((16, 40), (0, 16))
    ]
    assert merged(shards) == whole


@pytest.mark.parametrize("goal", [EachSet(), UnionOnly()])
def test_after_a_pilot_only_attacks_that_broke_some_of_it_go_on(goal: Goal, tmp_path: Path) -> None:
    attacks = {"none": PGD(Linf(1e-9), 2), **ATTACKS, "late": PGD(L2(1e-9), 2)}
    whole, cut = run(attacks, goal=goal), run(attacks, goal=AfterPilot(goal, 16))
    idle = whole.tried[:, :16].any(1) & ~whole.broken[:, :16].any(1)
    names = [name for name, out in zip(whole.names, idle.tolist(), strict=True) if out]
    assert {"none", "late"} <= set(names) and cut.left_out(16) == ", ".join(names)
    assert not cut.tried[idle, 16:].any() and cut.tried[~idle, 16:].any(1).all()
    assert cut.tried[:, :16].equal(whole.tried[:, :16])
    assert cut.broken[:, :16].equal(whole.broken[:, :16]) and whole.left_out(16) == ""
    assert (cut.broken_at_all() <= whole.broken_at_all()).all()
    with pytest.raises(KeyboardInterrupt):
        run(attacks, goal=AfterPilot(goal, 16), file=tmp_path / "l", progress=Cut(17))
    assert run(attacks, goal=AfterPilot(goal, 16), file=tmp_path / "l") == cut


@pytest.mark.parametrize(
    ("pilot", "ends"),
    [(3, [3, 11, 19, 20]), (8, [8, 16, 20]), (11, [8, 11, 19, 20]), (99, [8, 16, 20])],
)
def test_a_pilot_ends_a_batch(pilot: int, ends: list[int]) -> None:
    ledger = run({"one": PGD(Linf(0.1), 1)}, goal=EveryAttack(), n=20)
    state = ResumableLedger(ledger, 8, pilot)
    assert [unit.columns.stop for unit in state.units_left()][1::2] == ends
    assert state.units == 2 * len(ends)


def test_a_shard_has_no_pilot() -> None:
    with pytest.raises(ValueError, match="the pilot's images are the first"):
        run(goal=AfterPilot(UnionOnly(), 8), first=8)


def test_one_radius_per_image_follows_its_images() -> None:
    model, x, y = problem()
    eps = torch.linspace(0.01, 0.2, len(x), dtype=x.dtype)
    together = evaluate(model, x, y, {"a": PGD(Linf(eps), 5)}, generator(), batch=8)
    for i in range(0, len(x), 7):
        alone = evaluate(
            model, x[i : i + 1], y[i : i + 1], {"a": PGD(Linf(float(eps[i])), 5)}, generator()
        )
        assert bool(alone.broken_at_all()) == bool(together.broken_at_all()[i])


def test_the_model_s_mode_and_gradients_are_left_as_they_were() -> None:
    model, x, y = problem()
    net = nn.Sequential(model, nn.Dropout(0.5)).train()
    evaluate(net, x, y, {"pgd": PGD(Linf(0.1), 3)}, generator())
    assert net.training
    assert net[1].training
    assert model.weight.grad is None


@pytest.fixture(scope="module")
def quick() -> Ledger:
    """What the quick suite finds on the linear model."""
    return run(standard(parse_threat(THREAT), "quick", classes=5))


def test_standard_covers_every_set_and_goes_deep_only_after_its_probe(quick: Ledger) -> None:
    threat = parse_threat(THREAT + " + l0:3 + rt:1px,10deg + affine(rt:1px,10deg & linf:0.1)")
    for budget in BUDGETS:
        suite = standard(threat, budget)
        covered = {part.describe() for entry in suite for part in entry.attack.set.parts()}
        assert covered == {one.describe() for one in threat.sets}
        deep = [entry for entry in suite if entry.after]
        assert [entry.after for entry in deep] == [
            re.sub("-deep|(?<=pixels)-more", "", entry.name) for entry in deep
        ]
    waits = {e.name: e.after for e in standard(parse_threat(THREAT), "quick") if e.after}
    for deep, probe in waits.items():
        if not quick.broken[quick.names.index(probe)].any():
            assert not quick.tried[quick.names.index(deep)].any()


def test_a_screen_is_a_part_of_standard_and_says_what_it_leaves_out() -> None:
    threat = parse_threat(THREAT + " + rt:1px,10deg + affine(rt:1px,10deg & linf:0.1)")
    for front in (None, 0.2):
        whole, screen = (standard(threat, b, front=front) for b in ("standard", "screen"))
        left = [entry for entry in whole if entry not in screen]
        assert [entry for entry in whole if entry in screen] == list(screen)
        kinds = {entry.name.removeprefix("straight ").partition(" ")[0] for entry in left}
        assert kinds <= set(SCREEN_LEAVES_OUT) and all(entry.after is None for entry in screen)
        covered = {part.describe() for entry in screen for part in entry.attack.set.parts()}
        assert covered == {one.describe() for one in threat.sets}


def test_where_only_the_union_counts_the_order_changes_and_no_survivor_is_spared() -> None:
    suite = standard(parse_threat(THREAT), "quick", classes=5)
    order = quickest_first(suite)
    assert sorted(entry.name for entry in order) == sorted(entry.name for entry in suite)
    kinds = [entry.name.partition(":")[0] for entry in order]
    known = [kind for kind in QUICKEST if kind in kinds]
    assert kinds[: len(known)] == known and known
    one, other = (run(entries, goal=UnionOnly()) for entries in (suite, order))
    assert one.union_accuracy() == other.union_accuracy()
    left = ~other.broken_at_all()
    assert left.any()
    for entry in (entry for entry in order if entry.after is None):
        assert other.tried[other.names.index(entry.name), left].all(), entry.name


def test_standard_is_exact_on_a_linear_model(quick: Ledger) -> None:
    best = run({"linf": PGD(Linf(0.1), 100), "l1": Restarts(PGD(L1(0.6), 200), 2)})
    for name in best.sets:
        assert quick.accuracy(name).value <= best.accuracy(name).value


BAD = {
    "no attack": ({"attacks": []}, "needs at least one attack"),
    "no attack at all": ({"attacks": ["pgd"]}, "must be attacks such as"),
    "batch": ({"batch": 0}, "batch must be positive"),
    "first": ({"first": 3}, "first must be a multiple of batch"),
}


@pytest.mark.parametrize(("options", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_named(options, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(
            **{"attacks": standard(Linf(0.1), "huge")}
            if options.get("attacks", 0) is None
            else options
        )


def test_an_unknown_budget_is_named() -> None:
    with pytest.raises(ValueError, match="unknown budget 'huge'; take quick, standard, thorough"):
        standard(Linf(0.1), "huge")


def test_names_are_unique_and_waiting_is_in_order() -> None:
    entry = standard(Union(Linf(0.1), L2(1)), "quick")[0]
    with pytest.raises(ValueError, match="two rows named"):
        run([entry, entry])
    with pytest.raises(ValueError, match="waits for"):
        run([entry._replace(after="later")])
    ledger = run([PGD(Linf(0.1), 2), PGD(Linf(0.1), 3, loss=Margin())])
    assert ledger.names == ("clean", "PGD linf:0.1", "PGD linf:0.1 (2)")
    with pytest.raises(ValueError, match="steps must be positive"):
        replace(BUDGETS["quick"], steps=0)
