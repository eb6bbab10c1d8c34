"""The record of the audit: pinned versions, nothing on ours, a script for every violation."""

from __future__ import annotations

import re
import tomllib

from helpers import ROOT
from mpkit.audit import OBSERVATIONS, VIOLATIONS
from mpkit.audit.libraries import PACKAGES
from mpkit.core.records import read_record

RECORD = read_record(ROOT / "book" / "results" / "audit.json")
SCRIPTS = ROOT / "benchmarks" / "peers" / "findings"


def findings() -> list[tuple[str, dict]]:
    return [
        (library, finding)
        for library, part in RECORD["libraries"].items()
        for attack in part["attacks"]
        for finding in attack["findings"]
    ]


def test_it_covers_the_libraries_at_versions_that_the_extra_allows() -> None:
    assert set(RECORD["libraries"]) == set(PACKAGES)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for name, package in PACKAGES.items():
        pins = [p for p in project["optional-dependencies"]["compare"] if p.startswith(package)]
        allowed = {re.split(r"==|;", pin)[1].strip() for pin in pins if "==" in pin}
        assert name == "mpkit" or RECORD["libraries"][name]["version"] in allowed


def test_nothing_is_said_of_ours() -> None:
    ours = RECORD["libraries"]["mpkit"]["attacks"]
    assert ours and all(attack["findings"] == [] for attack in ours)


def test_every_finding_has_its_input_and_every_violation_a_script() -> None:
    shown = {one for script in RECORD["reproductions"].values() for one in script["shows"]}
    for library, finding in findings():
        assert finding["check"] in VIOLATIONS | OBSERVATIONS
        assert finding["smallest input"] and finding["input"]["norm"]
        assert 1 <= finding["shown"] <= finding["runs"]
        if finding["kind"] == "violation":
            assert f"{library} {finding['check']}" in shown


def test_scripts_are_short_know_nothing_of_the_auditor_and_are_those_of_the_record() -> None:
    texts = {path.stem: path.read_text() for path in SCRIPTS.glob("*.py")}
    assert texts == {name: one["script"] for name, one in RECORD["reproductions"].items()}
    for name, text in texts.items():
        code = [line for line in text.splitlines() if line and not line.startswith(("#", '"""'))]
        lines = [line for line in code if not line.startswith(("import", "from"))]
        assert len(lines) <= 16, name
        assert "mpkit" not in text
        assert RECORD["reproductions"][name]["prints"], name


def test_it_says_where_it_comes_from() -> None:
    for field in ("parameters", "versions", "device", "commit", "commit_date", "duration_s"):
        assert RECORD[field]
    for part in RECORD["libraries"].values():
        for attack in part["attacks"]:
            assert attack["commit"] and not attack["commit"].endswith("+")
            assert attack["measures"] and attack["seconds"] >= 0
