"""The audit of six libraries and of this package, as a record, with scripts that show each finding.

Needs the extra `compare`, in an environment of its own (torchattacks asks for an old version of
requests, which the book's tools do not accept). What is done is kept, attack by attack, as long as
the auditor stays the same, so a run can be stopped and goes on where it was:

    python -m benchmarks.peers.audit
    python -m benchmarks.peers.audit --libraries foolbox ART --keep parts
    python -m benchmarks.peers.audit --scripts        # what the scripts print, and no audit
    python -m benchmarks.peers.audit --new-scripts    # the record's audits, with scripts since then
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.common.records import ROOT, begin, options, write
from mpkit.audit import OBSERVATIONS, VIOLATIONS, Subject, audit
from mpkit.audit.libraries import PACKAGES, installed, subjects
from mpkit.core import records

SCRIPTS = Path(__file__).parent / "findings"
"""One script of about ten lines for each finding, which knows nothing of the auditor."""


def kept(subject: Subject, norm: str, given: Any) -> dict[str, Any] | None:
    """The report on an attack, from the folder of what is done, or made now, if that is asked."""
    texts = records.source_texts("mpkit.audit")
    version = metadata.version(PACKAGES[subject.library])
    asked = [subject.library, subject.name, norm, version, given.steps, given.seeds]
    file = given.keep / f"{records.digest(texts, asked)[:20]}.json"
    if file.is_file():
        return records.read_record(file)
    if given.done:
        return None
    begun = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        report = audit(subject, given.steps, given.seeds).describe()
    report["cpu seconds"] = round(time.process_time() - begun, 1)
    report["commit"] = records.Code.of(ROOT).commit
    records.write_record(file, report)
    names = ", ".join(one["check"] for one in report["findings"])
    print(f"{subject.library} {norm} {subject.name}: {names or 'nothing'}", flush=True)
    return report


def audited(library: str, given: Any) -> dict[str, Any]:
    """The attacks of a library, of variants in step length or start only the first."""
    norms, there = {"Linf": "linf", "L2": "l2", "L1": "l1"}, subjects(library)
    plain = {(one.name, one.kind) for one in there}
    told = {(n + end, kind) for n, kind in plain for end in (" 2.5/n", " across")}
    chosen = [one for one in there if (one.name, one.kind) not in told]
    reports = [kept(one, norms[one.kind.__name__], given) for one in chosen]
    there_are = [report for report in reports if report is not None]
    version = metadata.version(PACKAGES[library])
    return {"version": version, "known": len(chosen), "attacks": there_are}


def reproduced(known: dict[str, dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Text and output of every script, and of which library it shows what, by its name.

    Args:
        known: what is known already; scripts with the same text are not run again.
    """
    found = {}
    for script in sorted(SCRIPTS.glob("*.py")):
        text, heard = script.read_text(encoding="utf-8"), io.StringIO()
        if known and known.get(script.stem, {}).get("script") == text:
            found[script.stem] = known[script.stem]
            continue
        with contextlib.redirect_stdout(heard):
            exec(compile(text, script.name, "exec"), {"__name__": "__main__"})  # as a program
        shows = re.findall(r"^# shows: (.*)$", text, re.MULTILINE)[0].split(", ")
        told = {"shows": shows, "script": text, "prints": heard.getvalue().strip()}
        found[script.stem] = told | {"commit": records.Code.of(ROOT).commit}
    return found


def without_script(done: dict[str, Any], scripts: dict[str, dict[str, Any]]) -> list[str]:
    """The findings, as library and check, that no script shows."""
    shown = {one for script in scripts.values() for one in script["shows"]}
    found = {
        f"{library} {finding['check']}"
        for library, part in done.items()
        for attack in part["attacks"]
        for finding in attack["findings"]
    }
    return sorted(found - shown)


def main() -> None:
    """Audit what is not done, and write the record when all is."""
    parser = options(__doc__, "book/results/audit.json", 0)
    parser.add_argument("--libraries", nargs="+", default=list(PACKAGES), choices=PACKAGES)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--keep", type=Path, default=ROOT / ".benchmarks" / "audit")
    parser.add_argument("--scripts", action="store_true")
    parser.add_argument("--new-scripts", action="store_true")
    parser.add_argument("--done", action="store_true", help="write what is kept, audit nothing")
    given, _ = begin(parser, keep=False)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if given.scripts:
        for name, one in reproduced().items():
            print(f"{name}: {one['prints']}")
        return
    if given.new_scripts:
        record = records.read_record(given.output)
        scripts = reproduced(record["reproductions"])
        missing = without_script(record["libraries"], scripts)
        record |= {"reproductions": scripts, "without a script": missing}
        records.write_record(given.output, record)
        return
    there = [library for library in given.libraries if installed(library)]
    done = {library: audited(library, given) for library in there}
    if set(done) < set(PACKAGES):
        print("no record: it is written when all libraries are named and installed")
        return
    seconds = sum(one["seconds"] for each in done.values() for one in each["attacks"])
    scripts = reproduced()
    content = {
        "libraries": done,
        "checks": {"violations": VIOLATIONS, "observations": OBSERVATIONS},
        "reproductions": scripts,
        "without a script": without_script(done, scripts),
    }
    write(given, seconds, content, {})


if __name__ == "__main__":
    main()
