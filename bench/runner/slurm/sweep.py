"""The files of a sweep: the submitted jobs, and the progress of each task.

A sweep is a folder ``.sweeps/<name>/`` in the results folder. ``sweep.json`` and ``jobs/<i>.json`` are written before
the submission and never changed. Task i rewrites its heartbeat ``tasks/<i>.json`` while it runs; the modification time
of the file is the time of the last heartbeat. All files are JSON, and any process that sees the folder can read them.
"""

from __future__ import annotations

import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ....registry import UserError, nearest
from ...records.provenance import Provenance
from ...records.record import RefusedFile, read_all
from ...records.store import sweeps_folder
from ...spec.suite import Suite
from ...tools.files import write_atomically, write_exclusively
from ...tools.machine import Machine
from ...tools.schema import Message, Strict, Text, Version, parse_json, read_text
from ...training.job import Job

_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]*", re.IGNORECASE)


class Task(Strict):
    """One element of the job array: a run."""

    model: Text
    seed: int


class Sweep(Strict):
    """One submission.

    Attributes:
        name: ``<suite>-<number>``.
        job_name: name of the job in the scheduler; unique, because other users' jobs are in the same queue.
        created: seconds since 1970.
        deadline_s, checkpoint_s: as in `Machine`.
        limit_s: the scheduler's time limit of a task in seconds; None for the partition's.
        calibrates: whether a job before the array measures step times and writes the jobs (T budgets).
        forgotten: models that this job calibrates again, because a run drifted.
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
        """The settings of a run on a node."""
        return Machine(
            self.device, threads=self.threads, deadline_s=self.deadline_s, checkpoint_s=self.checkpoint_s,
            data_root=self.data_root, includes=tuple(self.include), command=self.command,
        )  # fmt: skip


class Submitted(Strict):
    """The scheduler's job numbers: of the array, and of the calibration before it."""

    array: Text
    calibration: Text | None


class Heartbeat(Strict):
    """A heartbeat: the state that a running task writes regularly.

    Attributes:
        provenance: of its run; used for the record if the task is killed.
        started: time of this start in seconds since 1970. A task that is put back into the queue starts again.
        ended: status of the run, or ``stopped`` if the task was stopped before; empty while it runs.
        node: name of the node, for the user only. Records do not contain it.
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
    """A sweep's folder and its content."""

    path: Path
    sweep: Sweep

    @property
    def name(self) -> str:
        return self.sweep.name

    def job(self, index: int) -> Job | None:
        """The job of a task; None if it waits for a calibration, or its run was finished before."""
        path = self.path / "jobs" / f"{index}.json"
        return parse_json(Job, read_text(path), str(path)) if path.exists() else None

    def heartbeat_file(self, index: int) -> Path:
        return self.path / "tasks" / f"{index}.json"

    def heartbeat(self, index: int) -> tuple[Heartbeat, float] | None:
        """The last heartbeat of a task and its time (seconds since 1970); None before its start."""
        path = self.heartbeat_file(index)
        try:
            seen = path.stat().st_mtime
        except FileNotFoundError:
            return None
        return parse_json(Heartbeat, read_text(path), str(path)), seen

    @property
    def submitted(self) -> Submitted | None:
        """The scheduler's job numbers; None if the submission was interrupted."""
        path = self.path / "submitted.json"
        return parse_json(Submitted, read_text(path), str(path)) if path.exists() else None

    @property
    def calibrated(self) -> bool:
        """Whether the jobs of a sweep that calibrates have been written."""
        return (self.path / "calibrated").exists()

    def write(self, name: str, text: str) -> Path:
        """Write a file of the sweep; returns its path."""
        write_atomically(self.path / name, text.encode())
        return self.path / name

    def write_job(self, index: int, job: Job) -> None:
        self.write(f"jobs/{index}.json", job.canonical() + "\n")

    def write_heartbeat(self, index: int, heartbeat: Heartbeat) -> None:
        self.write(f"tasks/{index}.json", heartbeat.canonical() + "\n")

    def remove(self) -> None:
        """Remove a sweep that the scheduler refused."""
        shutil.rmtree(self.path, ignore_errors=True)


def new_name(root: Path, suite: str) -> tuple[str, str]:
    """The next free name of a sweep of `suite`, and a name for its jobs in the queue."""
    stem = re.sub(r"[^a-z0-9._+-]+", "-", suite.lower()).strip("-.+_")[:60] or "sweep"
    tails = [path.name.removeprefix(f"{stem}-") for path in sweeps_folder(root).glob(f"{stem}-*")]
    taken = [int(tail) for tail in tails if tail.isdecimal() and len(tail) < 10]
    name = f"{stem}-{max(taken, default=0) + 1}"
    return name, f"equibench-{name}-{secrets.token_hex(3)}"


def create(root: Path, sweep: Sweep, jobs: list[Job]) -> Folder:
    """Write a sweep. `jobs` may be empty if a calibration writes the jobs later."""
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
    """The sweep in a folder; a `UserError` if there is none, or a field is wrong."""
    file = path / "sweep.json"
    sweep = parse_json(Sweep, read_text(file), str(file))
    if sweep.name != path.name or not _NAME.fullmatch(sweep.name):
        raise UserError(f"{file}: the sweep's name {sweep.name!r} differs from the name of its folder")
    return Folder(path, sweep)


def all_sweeps(root: Path) -> tuple[list[Folder], list[RefusedFile]]:
    """The sweeps of a results folder, oldest first, and the unreadable ones."""
    folders = sorted(path.parent for path in sweeps_folder(root).glob("*/sweep.json"))
    found, refused = read_all(folders, read_sweep)
    return sorted(found, key=lambda f: (f.sweep.created, f.name)), refused


def find_sweeps(root: Path, name: str | None) -> list[Folder]:
    """The sweep of this name, or all sweeps of the suite of this name; all sweeps if `name` is None."""
    sweeps, refused = all_sweeps(root)
    if name is None:
        if not sweeps:
            raise UserError(f"there are no sweeps in {root}" + (f"; {refused[0].reason}" if refused else ""))
        return sweeps
    fits = [s for s in sweeps if s.name == name] or [s for s in sweeps if s.sweep.suite.name == name]
    if not fits:
        known = [s.name for s in sweeps] + [s.sweep.suite.name for s in sweeps]
        raise UserError(f"there is no sweep or suite {name[:80]!r} in {root}; {nearest(name, dict.fromkeys(known))}")
    return fits
