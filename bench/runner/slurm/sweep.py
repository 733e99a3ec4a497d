"""The files of a sweep: what was submitted to a cluster, and how far each of its tasks has come.

A sweep is a folder ``.sweeps/<name>/`` under the results. ``sweep.json`` and ``jobs/<i>.json`` are written before
anything is submitted and never changed; ``tasks/<i>.json`` is rewritten by task i while it runs, so that its time of
change is the last sign of life. All is JSON: any process that sees the folder knows what there is to know.
"""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ....registry import UserError, nearest
from ...records.provenance import Provenance
from ...records.store import sweeps_folder
from ...spec.suite import Suite
from ...tools.files import write_atomically, write_exclusively
from ...tools.machine import Machine
from ...tools.schema import Message, Strict, Text, Version, parse_json, read_text
from ...training.job import Job

_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*", re.IGNORECASE)


class Task(Strict):
    """One element of the array: a run."""

    model: Text
    seed: int


class Sweep(Strict):
    """What was submitted at once.

    Attributes:
        name: ``<suite>-<number>``.
        job_name: what the scheduler calls it; unique, as other people's jobs stand in the same queue.
        created: seconds since 1970.
        tasks: one for every element of the array.
        deadline_s: seconds after which a task ends its run as ``timeout``.
        checkpoint_s: seconds from one checkpoint to the next.
        limit_s: seconds that the scheduler gives a task; None where the partition decides.
        calibrates: whether a job before the array measures step times and writes the jobs (T budgets).
        forgotten: models whose calibration that job makes anew, because a run drifted.
    """

    schema_version: Version = 1
    name: Text
    job_name: Text
    created: float
    suite: Suite
    tasks: list[Task]
    device: Literal["cpu", "cuda:0"]
    threads: int
    deadline_s: float | None
    checkpoint_s: float
    limit_s: float | None
    calibrates: bool
    forgotten: list[str]
    data_root: str | None
    include: list[str]
    command: str
    sbatch: list[str]

    @property
    def machine(self) -> Machine:
        """A node, as every run gets it."""
        return Machine(
            self.device, threads=self.threads, deadline_s=self.deadline_s, checkpoint_s=self.checkpoint_s,
            data_root=self.data_root, includes=tuple(self.include), command=self.command,
        )  # fmt: skip


class Submitted(Strict):
    """What the scheduler answered: the numbers of the array and of the calibration before it."""

    array: Text
    calibration: Text | None


class Beat(Strict):
    """What a task says of itself, again and again.

    Attributes:
        provenance: of its run, for a record if the task is killed before it can write one.
        started: seconds since 1970, of this start; a task that was put back into the queue starts again.
        restarts: how often that happened.
        ended: status of the run, ``stopped`` if the task was asked to end before; empty while it runs.
        node: name of the node, for its users; no record has it.
    """

    schema_version: Version = 1
    provenance: Provenance
    job: Text
    pid: int
    started: float
    restarts: int
    step: int = 0
    steps: int
    ended: Text = ""
    reason: Message = ""
    node: Text = ""


@dataclass(frozen=True)
class Folder:
    """A sweep's folder and what stands in it."""

    path: Path
    sweep: Sweep

    @property
    def name(self) -> str:
        return self.sweep.name

    def job_file(self, index: int) -> Path:
        return self.path / "jobs" / f"{index}.json"

    def job(self, index: int) -> Job | None:
        """The job of a task; None if it has none, because it waits for a calibration or was finished before.

        Raises:
            UserError: the file is wrong.
        """
        path = self.job_file(index)
        return parse_json(Job, read_text(path), str(path)) if path.exists() else None

    def beat_file(self, index: int) -> Path:
        return self.path / "tasks" / f"{index}.json"

    def beat(self, index: int) -> tuple[Beat, float] | None:
        """What a task last said, and when (seconds since 1970); None before it started.

        Raises:
            UserError: the file is wrong.
        """
        path = self.beat_file(index)
        try:
            seen = path.stat().st_mtime
        except FileNotFoundError:
            return None
        return parse_json(Beat, read_text(path), str(path)), seen

    @property
    def submitted(self) -> Submitted | None:
        """The scheduler's answer; None if the submission was interrupted."""
        path = self.path / "submitted.json"
        return parse_json(Submitted, read_text(path), str(path)) if path.exists() else None

    @property
    def calibrated(self) -> bool:
        """Whether the jobs of a sweep that calibrates have been written."""
        return (self.path / "calibrated").exists()

    def write_job(self, index: int, job: Job) -> None:
        write_atomically(self.job_file(index), job.canonical().encode() + b"\n")

    def write_beat(self, index: int, beat: Beat) -> None:
        write_atomically(self.beat_file(index), beat.canonical().encode() + b"\n")

    def write_submitted(self, submitted: Submitted) -> None:
        write_exclusively(self.path / "submitted.json", submitted.canonical().encode() + b"\n")

    def write_calibrated(self) -> None:
        write_atomically(self.path / "calibrated", b"")

    def remove(self) -> None:
        """Remove a sweep that the scheduler did not take."""
        shutil.rmtree(self.path, ignore_errors=True)


def new_name(root: Path, suite: str) -> tuple[str, str]:
    """The next free name of a sweep of `suite`, and a name for its jobs in the queue."""
    stem = re.sub(r"[^a-z0-9._+-]+", "-", suite.lower()).strip("-.+_")[:60] or "sweep"
    taken = [_number(p.name, stem) for p in sweeps_folder(root).glob(f"{stem}-*")]
    name = f"{stem}-{max(taken, default=0) + 1}"
    return name, f"equibench-{name}-{secrets.token_hex(3)}"


def _number(name: str, stem: str) -> int:
    tail = name.removeprefix(f"{stem}-")
    return int(tail) if tail.isdecimal() and len(tail) < 10 else 0


def create(root: Path, sweep: Sweep, jobs: list[Job]) -> Folder:
    """Write a sweep; its jobs may be left out where a calibration writes them."""
    folder = Folder(sweeps_folder(root) / sweep.name, sweep)
    folder.path.mkdir(parents=True)
    try:
        for index, job in enumerate(jobs):
            folder.write_job(index, job)
        for part in ("jobs", "tasks", "logs"):
            (folder.path / part).mkdir(exist_ok=True)
        write_exclusively(folder.path / "sweep.json", sweep.model_dump_json(by_alias=True, indent=1).encode() + b"\n")
    except BaseException:
        folder.remove()
        raise
    return folder


def read_sweep(path: Path) -> Folder:
    """The sweep in a folder.

    Raises:
        UserError: there is none, or a field is wrong.
    """
    file = path / "sweep.json"
    sweep = parse_json(Sweep, read_text(file), str(file))
    if sweep.name != path.name or not _NAME.fullmatch(sweep.name):
        raise UserError(f"{file}: the sweep is called {sweep.name!r}, unlike its folder")
    return Folder(path, sweep)


def all_sweeps(root: Path) -> tuple[list[Folder], list[str]]:
    """The sweeps of a results folder, oldest first, and why others cannot be read."""
    found, refused = [], []
    for path in sorted(sweeps_folder(root).glob("*/sweep.json")):
        try:
            found.append(read_sweep(path.parent))
        except UserError as error:
            refused.append(str(error))
    return sorted(found, key=lambda f: (f.sweep.created, f.name)), refused


def find_sweeps(root: Path, name: str | None) -> list[Folder]:
    """The sweep of this name, or all of a suite of this name, or all there are.

    Raises:
        UserError: there is none.
    """
    sweeps, refused = all_sweeps(root)
    if name is None:
        if not sweeps:
            raise UserError(f"there are no sweeps in {root}" + (f"; {refused[0]}" if refused else ""))
        return sweeps
    fits = [s for s in sweeps if s.name == name] or [s for s in sweeps if s.sweep.suite.name == name]
    if not fits:
        known = [s.name for s in sweeps] + [s.sweep.suite.name for s in sweeps]
        raise UserError(f"there is no sweep or suite {name[:80]!r} in {root}; {nearest(name, dict.fromkeys(known))}")
    return fits


def now() -> float:
    """Seconds since 1970."""
    return datetime.now(UTC).timestamp()
