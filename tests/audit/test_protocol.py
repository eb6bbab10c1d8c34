"""What may be audited: results and functions that cannot be are refused with a remedy."""

from __future__ import annotations

import math

import pytest
import torch

from mpbook.teaching.faulty import closed_form
from mpkit.audit import MalformedAttack, Subject, Task, audit, own
from mpkit.audit.checks import tolerance
from mpkit.audit.libraries import PACKAGES, subjects
from mpkit.audit.problems import SHAPES, Case
from mpkit.audit.protocol import NORMS
from mpkit.sets import L1, L2, Linf


def test_a_task_says_what_libraries_ask() -> None:
    task = Task(L1(10), 7, 3)
    assert (task.eps, task.norm, task.p, task.steps, task.seed) == (10.0, "l1", 1, 7, 3)
    assert (Task(Linf(0.3)).p, Task(L2(2)).norm) == (math.inf, "l2")


def returning(found: object) -> Subject:
    return Subject("mine", Linf, lambda model, x, y, task: found)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "mine: returned NoneType"),
        ([1, 2], "mine: returned list"),
        (torch.zeros(3), r"mine: returned \(3,\) for images \(10, 1, 2, 2\)"),
        ((torch.zeros(10, 1, 2, 2), torch.zeros(3).bool()), r"success is torch.bool \(3,\)"),
        ((torch.zeros(10, 1, 2, 2), torch.zeros(10)), "success is torch.float32"),
    ],
)
def test_malformed_results_are_refused(found: object, words: str) -> None:
    with pytest.raises(MalformedAttack, match=words):
        audit(returning(found))


def test_too_few_steps_or_seeds_are_refused() -> None:
    for wrong in ({"steps": 3}, {"seeds": 0}):
        with pytest.raises(ValueError, match="needs steps ≥ 10 and seeds ≥ 1"):
            audit(returning(None), **wrong)


def test_an_attack_of_ones_own_is_found(tmp_path, monkeypatch) -> None:
    (tmp_path / "mine_to_audit.py").write_text(
        "number = 3\ndef step(model, x, y, task): return x\ndef short(model, x): return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    subject = own("mine_to_audit:step", "l2")
    assert (subject.name, subject.kind, subject.library) == ("step", L2, "own")
    for spec, words in {
        "mine_to_audit": "is not package.module:function",
        "mine_to_audit:none": "no attribute 'none'.*write def none",
        "not_there:step": "No module named 'not_there'",
        "mine_to_audit:number": "is a int, not a function",
        "mine_to_audit:short": "cannot be called with model, x, y and task",
    }.items():
        with pytest.raises(MalformedAttack, match=words):
            own(spec, "l2")


def test_a_subject_as_a_search_draws_from_the_default_seed() -> None:
    seeds = []
    spy = Subject("spy", Linf, lambda model, x, y, task: seeds.append(task.seed) or x)
    model, x, y, _ = Case("linf", (1, 2, 2)).made()
    torch.manual_seed(5)
    spy.make(Linf(0.1), 10)(model, x, y)
    spy.make(Linf(0.1), 10, 8)(model, x, y)
    assert seeds == [5, 8]


def test_libraries_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'other' is none of mpkit, foolbox"):
        subjects("other")
    assert set(PACKAGES) == {"mpkit", *"foolbox torchattacks ART cleverhans".split()} | {
        "adv-lib",
        "autoattack",
    }


@pytest.mark.parametrize("norm", NORMS)
def test_problems_are_the_same_each_time_and_neither_lost_nor_won(norm: str) -> None:
    shares = []
    for shape in SHAPES:
        case = Case(norm, shape, seed=1)
        first, again = case.made(), case.made()
        assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
        assert first.x.min() == 0 and first.x.max() == 1
        right = first.model(first.x).argmax(1) == first.y
        assert right.tolist() == [True] * 8 + [False] * 2
        fallen = first.model(closed_form(*first)).argmax(1) != first.y
        shares.append(fallen[:-2].double().mean())
        assert tolerance(first.task, first.x[0].numel()) < 3e-5
    assert 0.1 < sum(shares) / len(shares) < 0.9


def test_an_easy_problem_is_crossed_by_a_fifth_of_what_is_possible() -> None:
    for norm in NORMS:
        made = Case(norm, (1, 4, 4), linear=True).made()
        assert (made.model(made.x).argmax(1) == 0).all()
        assert (made.model(closed_form(*made)).argmax(1) == 1).all()
        fifth = made.x + 0.15 * (closed_form(*made) - made.x)
        assert (made.model(fifth).argmax(1) == 0).all()
