"""A table of networks as work that can be done piece by piece: rows, seeds, order, what is missing.

Every job trains one named recipe with one seed and evaluates the network with the recommended
suite of attacks. Its record is written when both are done; everything else about it lies in a
work folder, from which an interrupted job is gone on with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mpkit.core.files import claimed, write_atomically
from mpkit.core.progress import Deadline, OutOfTime, Quiet
from mpkit.core.records import CHECKOUT, device_name, provenance, read_record, write_record
from mpkit.data import Images, load
from mpkit.evaluation import witnesses
from mpkit.studies.analysis import ROWS
from mpkit.studies.catalog import Plan, plan
from mpkit.studies.protocol import Protocol, examine, pictures
from mpkit.studies.recipe_run import FACTS, SHAPES, WEIGHTS, estimate, trained


@dataclass(frozen=True)
class Job:
    """One cell of the table: a named recipe and a seed."""

    name: str
    seed: int

    @property
    def id(self) -> str:
        """The name of its record and of its work folder."""
        return f"{self.name}-seed{self.seed}"


@dataclass(frozen=True)
class Study:
    """A table of networks on one data set.

    Args:
        data: "mnist", "cifar10" or "digits".
        folder: where the records go, one file for every job.
        work: where checkpoints, weights and ledgers go.
        scale: one of ``mpkit.studies.scales.SCALES``.
        seeds: how many, > 0.
        rows: schemes in order of value, such as those of :func:`mpkit.studies.catalog.rows_of`.
        protocol: how networks are evaluated.
        device: where to compute.
        root: folder of the data, see :func:`mpkit.data.load`.
    """

    data: str
    folder: Path
    work: Path
    scale: str = "cpu"
    seeds: int = 3
    rows: tuple[str, ...] = ROWS
    protocol: Protocol = field(default_factory=Protocol)
    device: str = "auto"
    root: Path | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise ValueError(f"Study: seeds must be at least 1, got {self.seeds}")

    def jobs(self) -> list[Job]:
        """All jobs in order of value: every row once before any row a second time."""
        return [Job(f"{self.data}-{row}", seed) for seed in range(self.seeds) for row in self.rows]

    def record_of(self, job: Job) -> Path:
        """Where the record of a job stands when the job is done."""
        return self.folder / f"{job.id}.json"

    def plan(self, name: str, train: Images) -> Plan:
        """The recipe of a name, with this table's scale and radii."""
        return plan(name, train.shape, self.scale, radii=self.protocol.radii)

    def place(self, job: Job, made: Plan) -> Path:
        """The work folder of a job; a recipe that changes gets another one."""
        return self.work / f"{job.id}-{made.key[:8]}"

    def done(self, job: Job, made: Plan) -> bool:
        """Whether the record is there and is that of this recipe and this protocol."""
        path = self.record_of(job)
        if not path.is_file():
            return False
        record = read_record(path)
        return (record.get("key"), record.get("examination")) == (made.key, self.protocol.key)


def outlook(study: Study) -> Iterator[str]:
    """A line for each network of the table, there or missing, with the work of its training.

    No data is needed. The last line sums up; evaluations come on top.
    """
    seconds = 0.0
    for job in study.jobs():
        made = plan(job.name, SHAPES[study.data], study.scale, radii=study.protocol.radii)
        if study.done(job, made):
            yield f"{job.id}: there"
            continue
        work = estimate(made, study.data, study.device)
        seconds += work.seconds
        yield f"{job.id}: {made.about}; training {work}"
    yield f"training about {seconds / 60:.1f} min in all on {device_name(study.device)}"


def work_on(
    study: Study,
    bar: Callable[[str], Quiet],
    end: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> int:
    """Do the missing jobs in order of value.

    Several processes with the same folders share the jobs.

    Args:
        study: the table.
        bar: makes the progress of one part of a job, from its label.
        end: when to stop, on the clock of time.monotonic; None for never.
        tell: is given a line whenever a job begins or ends.

    Returns: how many jobs of the table are not done.
    """
    train = load(study.data, "train", study.root)
    test = load(study.data, "test", study.root)
    plans = {job: study.plan(job.name, train) for job in study.jobs()}
    left = [job for job in plans if not study.done(job, plans[job])]
    tell(f"{len(plans) - len(left)} of {len(plans)} networks are there, {len(left)} missing")
    try:
        while left and (end is None or time.monotonic() < end):
            before = len(left)
            for job in left:
                _attempt(study, job, plans[job], train, test, bar, end, tell)
            left = [job for job in left if not study.done(job, plans[job])]
            if len(left) == before:  # all that is left is in other hands, or waits for it
                break
    except OutOfTime:
        pass
    return sum(not study.done(job, plans[job]) for job in left)


def _attempt(
    study: Study,
    job: Job,
    made: Plan,
    train: Images,
    test: Images,
    bar: Callable[[str], Quiet],
    end: float | None,
    tell: Callable[[str], None],
) -> None:
    """Do a job, unless another process has it or it waits for another job's network."""
    start = _start(study, job, made, train)
    with claimed(study.place(job, made) / "claim") as mine:
        if mine and not study.done(job, made) and (start is None or start.is_file()):
            work = estimate(made, study.data, study.device)
            tell(f"{job.id}: {made.about}; training {work}")
            record = do(study, job, made, train, test, lambda label: Deadline(bar(label), end))
            tell(f"{job.id}: {line(record)}")


def do(
    study: Study, job: Job, made: Plan, train: Images, test: Images, bar: Callable[[str], Quiet]
) -> dict[str, Any]:
    """Train and evaluate one network, and write its record; see :func:`work_on`."""
    folder, start = study.place(job, made), _start(study, job, made, train)
    with _timed(folder / "seconds.json") as spent:
        told = bar(f"{job.id} training")
        model = trained(made, train, job.seed, folder, study.device, told, start)
        told = bar(f"{job.id} evaluation")
        found = examine(model, test, study.protocol, folder, told)
    parameters = {
        "recipe": job.name,
        "scale": study.scale,
        "data": study.data,
        "seed": job.seed,
        "device": study.device,
        "threads": torch.get_num_threads(),
    }
    record = {
        **read_record(folder / FACTS),
        **provenance(parameters, CHECKOUT, spent(), "study"),
        "about": made.about,
        "examination": study.protocol.key,
        **found,
        "pictures": pictures(model, test, radii=study.protocol.radii),
    }
    shown = witnesses_of(study.record_of(job))
    shown.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(shown, lambda to: to.write((folder / witnesses.FILE).read_bytes()))
    write_record(study.record_of(job), record)
    return record


@contextmanager
def _timed(file: Path) -> Iterator[Callable[[], float]]:
    """Seconds until now, with those of runs that were stopped before the end, kept in a file."""
    begun = time.monotonic() - (read_record(file)["seconds"] if file.is_file() else 0.0)
    try:
        yield lambda: time.monotonic() - begun
    finally:
        write_record(file, {"seconds": time.monotonic() - begun})


def witnesses_of(record: Path) -> Path:
    """Where the witnesses of a record lie: beside it."""
    return record.with_suffix(".witnesses.safetensors")


def _start(study: Study, job: Job, made: Plan, train: Images) -> Path | None:
    """The weights that a recipe goes on from."""
    if not made.start:
        return None
    before = study.plan(made.start, train)
    return study.place(Job(before.name, job.seed), before) / WEIGHTS


def line(record: dict[str, Any]) -> str:
    """The accuracies of a record in one line."""
    shares = record["evaluation"]["accuracy"]
    return ", ".join(f"{key} {100 * value[0]:.1f} %" for key, value in shares.items())
