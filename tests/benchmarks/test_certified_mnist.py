"""Certificates on MNIST: the committed record, its weights, and what the two say of an image."""

import pytest

from benchmarks.certify import mnist
from benchmarks.common.records import ROOT
from mpkit import data, models
from mpkit.certify import LinearRelaxation, Status, certified
from mpkit.core import records
from mpkit.core.files import DataError
from mpkit.sets import parse_threat

RECORD = ROOT / "book" / "results" / "certified.json"
KINDS = tuple(one.describe() for one in mnist.THREAT.sets)


def test_the_record_puts_every_image_in_one_of_three() -> None:
    record = records.read_record(RECORD)
    assert record["parameters"]["threat"] == mnist.THREAT.describe()
    rows = record["known"]
    each = [[int(one) for one in rows[kind]["status"]] for kind in KINDS]
    joint = [int(one) for one in rows["union"]["status"]]
    assert len(joint) == record["parameters"]["points"]
    for image, parts in zip(joint, zip(*each, strict=True), strict=True):
        broken, sure = Status.BROKEN in parts, set(parts) == {Status.CERTIFIED}
        want = Status.BROKEN if broken else Status.CERTIFIED if sure else Status.UNKNOWN
        assert image == want
    for kind in (*KINDS, "union"):
        shares = [rows[kind]["status"].count(str(int(s))) / len(joint) for s in Status]
        assert rows[kind]["certified"][0] == pytest.approx(shares[Status.CERTIFIED])
        assert rows[kind]["left"][0] == pytest.approx(1 - shares[Status.BROKEN])
    assert rows["union"]["certified"][1] > 0


def test_certificates_can_be_had_again_from_the_weights() -> None:
    """Of the first images, in every set; weights of another hash are refused."""
    record = records.read_record(RECORD)
    file = RECORD.with_suffix(".safetensors")
    with pytest.raises(DataError):
        models.read_weights(file, "0" * 64)
    model = models.read_weights(file, record["trained"]["sha256"])
    try:
        images = data.load("mnist", "test").first(4)
    except (FileNotFoundError, DataError):
        pytest.skip("needs the real images: set MPKIT_DATA")
    for part in parse_threat(record["parameters"]["threat"]).parts():
        sure = certified(model, images.x, images.y, part, LinearRelaxation(0, 10))
        told = record["known"][part.describe()]["status"][: len(images)]
        assert [one == "1" for one in told] == sure.tolist(), part.describe()
