"""The ledger's tables against a slow, obvious count; files and merging."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mpkit.core.files import DataError
from mpkit.evaluation import Ledger, merged
from mpkit.evaluation.ledger import CLEAN

SETS = ("linf:0.3", "l2:2", "l1:10")


@st.composite
def ledgers(draw, attacks: int | None = None, examples: int | None = None) -> Ledger:
    """Any matrix whatever, consistent in itself; no attack ever made it."""
    a = draw(st.integers(1, 5)) if attacks is None else attacks
    n = draw(st.integers(1, 12)) if examples is None else examples
    cells = st.integers(-1, len(SETS) - 1)
    rows = draw(st.lists(st.lists(cells, min_size=n, max_size=n), min_size=a, max_size=a))
    clean = draw(st.lists(st.booleans(), min_size=n, max_size=n))
    within = torch.tensor([[-1] * n, *rows], dtype=torch.int8)
    broken = within >= 0
    broken[0] = torch.tensor(clean)
    tried = broken | torch.tensor(draw(st.booleans()))
    return Ledger(
        names=(CLEAN, *(f"attack {i}" for i in range(a))),
        sets=SETS,
        facts={"seed": 3},
        examples=torch.arange(n),
        labels=torch.arange(n) % 10,
        prints=torch.arange(n) + 100,
        broken=broken,
        within=within,
        tried=tried,
        margin=torch.where(tried, broken.float() - 0.5, torch.nan),
        steps=tried.int() * 7,
        images=tried.sum(1, keepdim=True) * torch.tensor([7, 6]),
        unfit=torch.zeros(n, dtype=torch.bool),
    )


def obvious(ledger: Ledger) -> tuple[dict[str, set[int]], set[int]]:
    """Which examples are lost in which set, one cell after the other."""
    lost: dict[str, set[int]] = {name: set() for name in ledger.sets}
    clean = {e for e in range(len(ledger)) if ledger.broken[0, e]}
    for row in range(1, len(ledger.names)):
        for e in range(len(ledger)):
            if ledger.broken[row, e]:
                lost[ledger.sets[int(ledger.within[row, e])]].add(e)
    return {name: one | clean for name, one in lost.items()}, clean


@given(ledgers())
@settings(deadline=None)
def test_accuracies_equal_an_obvious_count(ledger: Ledger) -> None:
    lost, clean = obvious(ledger)
    n = len(ledger)
    assert ledger.accuracy().value == pytest.approx(1 - len(clean) / n)
    for name, one in lost.items():
        assert ledger.accuracy(name).value == pytest.approx(1 - len(one) / n)
    union = set().union(*lost.values())
    assert ledger.union_accuracy().value == pytest.approx(1 - len(union) / n)
    if n > 1:
        mean = sum(1 - len(one) / n for one in lost.values()) / len(SETS)
        assert ledger.average_accuracy().value == pytest.approx(mean)


@given(ledgers())
@settings(deadline=None)
def test_laws_between_the_accuracies(ledger: Ledger) -> None:
    each = [ledger.accuracy(name).value for name in ledger.sets]
    union = ledger.union_accuracy().value
    assert union <= min(each) <= max(each) <= ledger.accuracy().value
    assert union >= 1 - sum(1 - value for value in each) - 1e-12


@given(ledgers())
@settings(deadline=None)
def test_gains_equal_an_obvious_count(ledger: Ledger) -> None:
    clean = obvious(ledger)[1]
    seen_in: dict[int, set[int]] = {s: set(clean) for s in range(len(SETS))}
    seen = set(clean)
    for row, gain in enumerate(ledger.gains(), start=1):
        mine = {e for e in range(len(ledger)) if ledger.broken[row, e]}
        others = [r for r in range(len(ledger.names)) if r != row]
        assert gain.name == ledger.names[row]
        assert gain.broken == len(mine)
        assert gain.in_union == len(mine - seen)
        assert gain.in_set == sum(e not in seen_in[int(ledger.within[row, e])] for e in mine)
        assert gain.alone == sum(not any(ledger.broken[r, e] for r in others) for e in mine)
        seen |= mine
        for e in mine:
            seen_in[int(ledger.within[row, e])].add(e)


@given(ledgers())
@settings(deadline=None)
def test_broken_by_is_the_first_row(ledger: Ledger) -> None:
    for e, row in enumerate(ledger.broken_by().tolist()):
        column = ledger.broken[:, e].tolist()
        assert row == (column.index(True) if any(column) else -1)
    for s, name in enumerate(SETS):
        for e, row in enumerate(ledger.broken_by(name).tolist()):
            column = (ledger.broken[:, e] & (ledger.within[:, e] == s)).tolist()
            column[0] = bool(ledger.broken[0, e])
            assert row == (column.index(True) if any(column) else -1)


@given(ledgers(), st.data())
@settings(deadline=None)
def test_shards_merge_to_the_whole_in_any_order(ledger: Ledger, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(ledger) - 1)), max_size=3)))
    edges = [0, *(c for c in cuts if c < len(ledger)), len(ledger)]
    shards = [part(ledger, slice(a, b)) for a, b in pairwise(edges)]
    whole = merged(data.draw(st.permutations(shards)))
    assert whole == whole_of(ledger, whole.images)


def part(ledger: Ledger, columns: slice) -> Ledger:
    cut = {k: v[..., columns] for k, v in ledger.tensors().items() if k != "images"}
    return Ledger(ledger.names, ledger.sets, ledger.facts, images=ledger.images * 0 + 1, **cut)


def whole_of(ledger: Ledger, images: torch.Tensor) -> Ledger:
    rest = {k: v for k, v in ledger.tensors().items() if k != "images"}
    return Ledger(ledger.names, ledger.sets, ledger.facts, images=images, **rest)


@given(ledgers(attacks=2, examples=6), ledgers(attacks=3, examples=6))
@settings(deadline=None)
def test_restarts_of_the_same_examples_stack(one: Ledger, other: Ledger) -> None:
    other.broken[0] = one.broken[0]
    both = merged([one, other])
    assert both.names == (CLEAN, "attack 0", "attack 1", "attack 0 (2)", "attack 1 (2)", "attack 2")
    for name in SETS:
        assert torch.equal(both.broken_in(name), one.broken_in(name) | other.broken_in(name))
    assert torch.equal(both.broken_at_all(), one.broken_at_all() | other.broken_at_all())


@given(ledgers())
@settings(deadline=None, max_examples=20)
def test_a_file_gives_back_what_was_saved(tmp_path_factory, ledger: Ledger) -> None:
    path = tmp_path_factory.mktemp("ledger") / "deep" / "one.safetensors"
    ledger.save(path)
    assert Ledger.load(path) == ledger
    content = path.read_bytes()
    Ledger.load(path).save(path)
    assert path.read_bytes() == content


def a_ledger() -> Ledger:
    return ledgers(attacks=2, examples=4).example()


@pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")
def test_bad_files_and_bad_merges_are_named(tmp_path: Path) -> None:
    ledger = a_ledger()
    path = tmp_path / "broken.safetensors"
    ledger.save(path)
    path.write_bytes(path.read_bytes()[:-9])
    for file in (path, tmp_path / "missing"):
        with pytest.raises(DataError, match="is no ledger that can be read"):
            Ledger.load(file)
    with pytest.raises(ValueError, match="at least one ledger"):
        merged([])
    with pytest.raises(ValueError, match="an example is in two ledgers"):
        merged([part(ledger, slice(0, 3)), part(ledger, slice(2, 4))])
    other = whole_of(ledger, ledger.images)
    other.prints[0], other.facts["seed"] = -1, 4
    with pytest.raises(ValueError, match="same attacks, model and seed"):
        merged([ledger, Ledger(**{**vars(other), "prints": other.prints + 1, "facts": {}})])
    with pytest.raises(ValueError, match=r"no set 'l7'; there are linf:0\.3"):
        ledger.accuracy("l7")
