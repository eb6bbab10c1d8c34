"""What a record says comes out as it went in."""

import pytest
import torch

from mpkit.core.records import write_record
from mpkit.studies.analysis import accuracy, after, difference, pixels, records, seeds, standing
from mpkit.studies.protocol import bits_as_text, pixels_as_text


def record(stands, scheme="max"):
    bits = torch.tensor(stands)
    return {
        "recipe": f"mnist-{scheme}",
        "evaluation": {
            "points": len(stands),
            "accuracy": {"clean": [1.0, 0.5, 1.0], "linf": [0.5, 0.1, 0.9]},
            "standing": {"linf": bits_as_text(bits)},
            "attacks": [
                {"name": "pgd linf:0.3", "in_set": 1},
                {"name": "climb affine(linf:0.3 & l1:10)", "in_set": 3},
                {"name": "apgd-ce linf:0.3", "in_set": 2},
            ],
        },
    }


def test_bits_and_pixels_come_back():
    stands = [True, False, True, True, False, False, True, False, True, True]
    assert standing(record(stands), "linf").tolist() == stands
    x = torch.arange(24).reshape(2, 1, 3, 4) / 255
    assert torch.equal(pixels(pixels_as_text(x)), x)


def test_attacks_of_a_set_are_counted_in_order():
    one = record([True] * 10)
    assert [after(one, "linf", n) for n in range(4)] == pytest.approx([1.0, 0.9, 0.7, 0.7])
    assert [after(one, "l1", n) for n in range(3)] == [1.0] * 3  # mixtures are not of the ball
    assert accuracy(one, "linf") == (0.5, 0.1, 0.9)


def test_a_difference_is_paired():
    one, other = record([True] * 6 + [False] * 4), record([True] * 5 + [False] * 5)
    found = difference(one, other, "linf")
    assert found.value == pytest.approx(0.1) and found.low < 0.1 < found.high
    assert difference(one, one, "linf").value == 0


def test_records_come_in_the_order_of_the_study(tmp_path):
    with pytest.raises(ValueError, match=r"no record of seed 0; run mpkit reproduce mnist"):
        records(tmp_path)
    for scheme in ("new", "avg", "natural"):
        write_record(tmp_path / f"mnist-{scheme}-seed0.json", record([True], scheme))
    write_record(tmp_path / "mnist-max-seed1.json", record([True]))
    assert list(records(tmp_path)) == ["natural", "avg", "new"]
    assert list(records(tmp_path, 1)) == ["max"]
    (tmp_path / "notes.txt").write_text("no record")
    assert seeds(tmp_path) == [0, 1]


def test_records_of_several_editions_are_not_read_together(tmp_path):
    for scheme, way in (("natural", "a"), ("avg", "a"), ("max", "b")):
        kept = record([True], scheme) | {"examination": way}
        write_record(tmp_path / f"mnist-{scheme}-seed0.json", kept)
    with pytest.raises(ValueError, match=r"evaluated in 2 ways.*mpkit reproduce"):
        records(tmp_path)
