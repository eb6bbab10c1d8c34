"""AttackBench's measures over attacks: radii that close in, the table, and the committed record."""

from __future__ import annotations

import json
from argparse import Namespace

import pytest
import torch

from benchmarks.peers.attackbench import before, compared, over_networks
from benchmarks.peers.minimizers import at_radii, least, minimizers, order, ours
from helpers import ROOT
from mpkit import attacks
from mpkit.audit.known_optima import Threshold
from mpkit.audit.optimality import followed, local_optimality
from mpkit.audit.protocol import NORMS
from mpkit.core.records import read_record

FILE = ROOT / "book" / "results" / "attackbench.json"
RECORD = read_record(FILE)


def problem():
    x = torch.full((3, 1, 1, 2), 0.5)
    x[1, 0, 0] = torch.tensor([0.4, 0.8])  # as far from the border in l_inf
    return Threshold(torch.tensor([[[3.0, 1.0]]]), 3.6).eval(), x, torch.tensor([0, 0, 1])


@pytest.mark.parametrize("norm", NORMS)
def test_radii_close_in_on_the_distance(norm: str) -> None:
    model, x, y = problem()
    search = at_radii(ours(lambda b, n: attacks.PGD(b, n, loss=attacks.Margin())), norm, 0.05)
    found = followed(lambda m, a, b: search(m, a, b, 2000), model, x, y, order(norm), 2000)
    exact = {"linf": 0.4, "l2": 0.5060, "l1": 0.6}[norm]
    assert found.least[0] == pytest.approx(exact, rel=0.05)
    assert found.least[2] == 0


@pytest.mark.parametrize("norm", NORMS)
def test_every_attack_of_ours_keeps_its_budget_and_breaks_something(norm: str) -> None:
    model, x, y = problem()
    for name, search in minimizers(norm, 0.2).items():
        if name.startswith("mpkit"):
            found = followed(
                lambda m, a, b, s=search: s(m, a, b, 240), model, x, y, order(norm), 240
            )
            assert found.spent <= 240, name
            assert bool(found.least[:2].isfinite().all()), name


def test_the_least_norm_attack_is_followed_to_what_it_returns() -> None:
    model, x, y = problem()
    search = least(attacks.LeastNorm, "linf")
    found = followed(lambda m, a, b: search(m, a, b, 500), model, x, y, order("linf"), 500)
    assert found.least[0] == pytest.approx(0.4, rel=1e-3)


@pytest.mark.parametrize("norm", NORMS)
def test_an_attack_finds_the_same_whether_it_is_followed_or_not(norm: str) -> None:
    """From black and white pixels too, where a clamp in the graph would leave it no slope."""
    model, _, _ = problem()
    x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 1, 2), torch.tensor([0, 0])
    attack = attacks.FMN(NORMS[norm](1.0).everything(x), 119)
    bare = attack(model, x, y, torch.Generator().manual_seed(0)).image
    assert (model(bare).argmax(1) != y).all()
    search = least(attacks.FMN, norm)
    found = followed(lambda m, a, b: search(m, a, b, 240), model, x, y, order(norm), 240)
    size = NORMS[norm](1.0).norm(bare - x)
    assert found.least.tolist() == pytest.approx(size.tolist(), rel=1e-5)


def test_means_and_intervals_over_networks() -> None:
    mean, low, high = over_networks([0.5, 0.7])
    assert mean == 0.6
    assert (low, high) == pytest.approx((0.6 - 1.27062, 0.6 + 1.27062), abs=1e-4)
    assert over_networks([0.5]) == [0.5, None, None]


def test_the_reference_is_shared_by_budgets_and_attacks() -> None:
    def run(*norms: float) -> dict:
        return {"least": list(norms), "propagations": 5, "cpu seconds": 0.1}

    runs = {"a|500|mpkit X": run(0, 2, 4), "a|500|adv-lib Y": run(0, 3, 4)}
    runs |= {"a|2000|mpkit X": run(0, 1, 4), "a|2000|adv-lib Y": run(0, 4, 4)}
    found = compared(runs)
    shares = {b: {r["attack"]: r["global"][0] for r in found[b]["attacks"]} for b in found}
    assert shares["500"] == {"mpkit X": pytest.approx(2 / 3, abs=1e-5), "adv-lib Y": 0.33333}
    assert shares["2000"] == {"mpkit X": 1, "adv-lib Y": 0}
    assert found["500"]["ours minus theirs"][0] == pytest.approx(1 / 3, abs=1e-4)


@pytest.mark.parametrize("norm", NORMS)
def test_the_table_of_the_record_follows_from_its_runs(norm: str) -> None:
    part = RECORD["norms"][norm]
    found = compared(part["runs"])
    for budget, told in found.items():
        assert part[budget] == told
        shares = [row["global"][0] for row in told["attacks"]]
        assert shares == sorted(shares, reverse=True)
        assert {"mpkit LeastNorm", "mpkit APGD", "adv-lib FMN", "adv-lib APGD targeted"} <= {
            row["attack"] for row in told["attacks"]
        }


def test_no_attack_of_the_record_spent_more_than_it_had() -> None:
    for part in RECORD["norms"].values():
        for where, run in part["runs"].items():
            assert run["propagations"] <= int(where.split("|")[1]) + 1


def test_the_record_agrees_with_the_benchmark_s_own_package() -> None:
    for row in RECORD["beside attackbenchlib"]["norms"].values():
        here, there = row["optimality here"], row["optimality there"]
        # of batches with several copies of an image it counts what is nearest to another one for
        # that one, and loses some of what LeastNorm found
        alone = row["attack"] != "mpkit LeastNorm"
        assert there == pytest.approx(here, abs=1e-4) if alone else here - 0.1 < there < here
        assert row["optimality there, with its box"] < there


def test_the_other_runs_are_kept_only_of_the_same_problem(tmp_path, monkeypatch) -> None:
    path = tmp_path / "attackbench.json"
    path.write_text(json.dumps(RECORD))
    given = {key: RECORD["parameters"][key] for key in ("points", "networks", "budgets", "deep")}
    given |= {"output": path, "again": ["mpkit LeastNorm"]}
    assert before(Namespace(**given))["norms"] == RECORD["norms"]
    with pytest.raises(ValueError, match="has --points 50, not 16"):
        before(Namespace(**given | {"points": 16}))
    with pytest.raises(ValueError, match="no attack is called"):
        before(Namespace(**given | {"again": ["LeastNorm"]}))


def test_it_says_where_it_comes_from() -> None:
    for field in ("parameters", "versions", "device", "commit", "commit_date", "duration_s"):
        assert RECORD[field]
    assert not RECORD["commit"].endswith("+")
    assert {"adv-lib", "attackbenchlib"} <= set(RECORD["versions of the others"])


def test_by_hand_in_the_shared_measure() -> None:
    assert local_optimality(torch.tensor([0.0, 2, 4]), torch.tensor([0.0, 1, 4])) == pytest.approx(
        2 / 3
    )
