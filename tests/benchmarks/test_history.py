"""What was printed once: read from the history as it is, and tied to the page that tells it."""

import subprocess

import pytest

from benchmarks.training import history as bench
from helpers import ROOT
from mpkit.core import records

RECORD = records.read_record(ROOT / "book" / "results" / "history.json")


def known(commit: str) -> bool:
    """Whether the repository at hand reaches back so far."""
    command = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_suites_on_record_are_those_that_the_command_reads():
    assert {one["commit"]: one["has"] for one in RECORD["suites"]} == bench.SUITES
    assert not RECORD["commit"].endswith("+")


@pytest.mark.skipif(
    not all(map(known, (*bench.SUITES, bench.CHOSEN))), reason="a copy without its history"
)
def test_the_record_is_what_the_history_holds():
    assert RECORD["networks"] == bench.compared()
    assert RECORD["chosen"] == bench.chosen()


def test_every_row_has_two_suites_and_a_stronger_one_leaves_no_more_of_the_union():
    assert len({row["weights"] for row in RECORD["networks"]}) == len(RECORD["networks"]) > 9
    for row in RECORD["networks"]:
        assert set(row["accuracy"]) in (set(bench.SUITES), set(list(bench.SUITES)[1:]))
        met = [row["accuracy"][suite] for suite in bench.SUITES if suite in row["accuracy"]]
        unions = [one["union"][0] for one in met]
        assert unions == sorted(unions, reverse=True)
        for one in row["accuracy"].values():
            assert one["union"][0] <= min(one[key][0] for key in ("linf", "l2", "l1"))
            assert all(low <= value <= high for value, low, high in one.values())
