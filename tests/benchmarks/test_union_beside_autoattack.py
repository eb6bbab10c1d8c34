"""The union beside AutoAttack: the table's arithmetic, and what the committed record must hold."""

import pytest

from benchmarks.common.records import ROOT
from benchmarks.peers import union
from mpkit.core import records

RECORD = ROOT / "book" / "results" / "bench" / "union.json"


def test_pieces_add_up_image_by_image() -> None:
    """Three norms that each leave half of the images may leave none in the union."""
    one = {"left": {"linf": [1, 1, 0], "l1": [1, 0, 1]}, "seconds": {"linf": 1.0, "l1": 2.0}}
    other = {"left": {"linf": [0], "l1": [1]}, "seconds": {"linf": 0.5, "l1": 0.25}}
    made = union.summed([row | {"forward": 10, "backward": 4} for row in (one, other)])
    assert {name: share[0] for name, share in made["accuracy"].items()} == {
        "linf": 0.5,
        "l1": 0.75,
        "union": 0.25,
    }
    assert made["cpu seconds"] == pytest.approx(3.8, abs=0.05) and made["by piece"] == [3.0, 0.75]
    assert (made["forward"], made["backward"]) == (20, 8) and "broken" not in made
    ours = {"left": {"union": [1, 0]}, "seconds": {"union": 1.0}, "forward": 1, "backward": 1}
    made = union.summed([ours | {"broken": {"pgd": 1}}, ours | {"broken": {"pgd": 2}}])
    assert made["broken"] == {"pgd": 3} and made["accuracy"]["union"][0] == 0.5


def test_screen_and_pilot_take_at_most_a_tenth_and_leave_no_more() -> None:
    record = records.read_record(RECORD)
    assert {"mnist-max", "mnist-tuned-on"} <= set(record["networks"])
    for name, row in record["networks"].items():
        theirs, ours = row["AutoAttack"], row["screen"]
        assert ours["cpu seconds"] <= theirs["cpu seconds"] / 10, name
        assert ours["accuracy"]["union"][0] <= theirs["accuracy"]["union"][0], name
        piloted = f"standard, pilot of {union.PILOT}"
        for suite in set(row) - {"AutoAttack", "screen", piloted}:
            assert row[suite]["accuracy"]["union"][0] <= ours["accuracy"]["union"][0], name
        pilot = row[piloted]
        assert pilot["cpu seconds"] <= theirs["cpu seconds"] / 10, name
        assert pilot["accuracy"]["union"][0] <= theirs["accuracy"]["union"][0], name
        for norm in union.NORMS:
            assert theirs["accuracy"]["union"][0] <= theirs["accuracy"][norm][0], name
