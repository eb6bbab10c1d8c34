"""The page on scaling says what its commands print; memory does not grow; SLURM's script."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.cluster import plan
from helpers import ROOT
from helpers.toybook import toy_book
from mpkit.cli.main import main
from mpkit.core.records import read_record
from mpkit.core.workers import ClusterError, Slurm

OPTIONS = """
queue: gpu
account: vision
cores: 8
memory: 32GB
walltime: "04:00:00"
jobs: 16
gpus: 1
directives: ["--constraint=h100"]
before: ["source ~/mpkit/.venv/bin/activate"]
"""


def test_the_plan_on_the_page_is_what_the_command_prints() -> None:
    page = (ROOT / "book" / "scaling.md").read_text()
    table = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", page, re.MULTILINE)
    rows = plan.plan(plan.Assumed())
    assert [row for row in table if row in rows] == rows
    small = {what: much for what, much, _ in plan.plan(plan.Assumed(shard=250))}
    load, link = small["share of the scheduler's time"], small["share of the link"]
    assert f"{small['tasks that end in a second']} tasks a second" in page
    assert f"{load.replace('%', ' %')} of the scheduler" in page
    assert f"{link.replace('%', ' %')} of the link" in page


def test_the_network_of_the_plan_is_counted_right() -> None:
    """PreAct ResNet-18: 11.17 million parameters, 0.56 billion multiply-adds, as published."""
    assert plan.weights() == pytest.approx(11.17e6, rel=0.002)
    assert plan.multiplications() == pytest.approx(0.556e9, rel=0.002)


@pytest.mark.slow
def test_six_times_the_images_do_not_raise_the_peak() -> None:
    """All sets, all attacks, a few steps each; images that were held would be 23 MiB more.

    What the system counts moves with free memory that the C library keeps; what is held does not.
    """
    peaks = []
    code = (
        "import json, sys\nfrom benchmarks.memory import peak\n"
        "from mpkit.evaluation.suites import Budget\n"
        "short = Budget(5, 1, 5, 10, 1, (1, 3), 8)\n"
        "print(json.dumps(peak.measure(int(sys.argv[1]), 100, short)))"
    )
    for images in (400, 2400):
        call = [sys.executable, "-c", code, str(images)]
        done = subprocess.run(call, capture_output=True, text=True, check=True, cwd=ROOT)
        peaks.append(json.loads(done.stdout))
    small, large = peaks
    assert large["peak_mib"] - small["peak_mib"] < 40, peaks
    if large["held_mib"] is not None:
        assert large["held_mib"] - small["held_mib"] < 12, peaks


def test_the_page_has_the_memory_of_the_record() -> None:
    record = read_record(ROOT / "book" / "results" / "bench" / "memory.json")
    page = (ROOT / "book" / "scaling.md").read_text()
    for one in record["sizes"]:
        cells = (f"{one['images']:,}", *(one[k] for k in ("ledger_mib", "held_mib", "peak_mib")))
        assert f"| {' | '.join(map(str, cells))} |" in page
    for one in record["batches"]:
        assert f"| {one['batch']} | {one['held_mib']} | {one['peak_mib']} |" in page
    small, _, _, large = record["batches"]
    slope = (large["held_mib"] - small["held_mib"]) / (large["batch"] - small["batch"])
    assert f"{slope:.2f} MiB for every image of a batch" in page


def test_the_job_script_asks_for_what_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("dask_jobqueue", reason="pip install 'mpkit[distributed]'")
    root = toy_book(tmp_path, "print(radius)")
    (root / "slurm.yml").write_text(OPTIONS)
    monkeypatch.chdir(root)
    words = ["sweep", "toy", "--grid", "radius=0.1,0.2", "--slurm", "slurm.yml"]
    done = CliRunner().invoke(main, [*words, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "2 points" in done.output
    text = done.output
    for line in ("-p gpu", "-A vision", "--cpus-per-task=8", "--mem=30G", "-t 04:00:00"):
        assert f"#SBATCH {line}" in text
    assert "#SBATCH --gres=gpu:1" in text and "#SBATCH --constraint=h100" in text
    before, _, command = text.rpartition("source ~/mpkit/.venv/bin/activate\n")
    assert "export OMP_NUM_THREADS=8" in before
    assert "--nthreads 1" in command and "--resources GPU=1" in command
    monkeypatch.setenv("PATH", str(tmp_path))
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == 1
    assert "there is no sbatch on this machine" in refused.stderr


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[1", "cannot be read as YAML"),
        ("- 1", "unknown options"),
        ("memory: 1GB\nwalltme: 1", "unknown options ['walltme']; the options are memory"),
        ("memory: 32GB", "lacks walltime"),
        ("memory: 32\nwalltime: '1:00:00'", "memory is 32, expected text"),
        ("memory: 32GB\nwalltime: 4:00:00", "walltime is 14400, expected text (in quotes)"),
        ("memory: much\nwalltime: '1:00:00'", "memory is 'much', expected a size such as 32GB"),
        ("memory: 1GB\nwalltime: '1:00:00'\ngpus: 4", "gpus is 4, expected 0 or 1"),
        ("memory: 1GB\nwalltime: '1:00:00'\nbefore: [1]", "before is [1], expected a list"),
        ("memory: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_an_unfit_file_of_options_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "slurm.yml"
    file.write_text(text)
    with pytest.raises(ClusterError) as refusal:
        Slurm.read(file)
    assert told in str(refusal.value)
