"""Handing a suite to a cluster's scheduler: what is neither finished nor on its way, as one array of tasks.

Nothing here loads torch or data, so that a login node does no work.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ....registry import UserError
from ...boards.board import load_board
from ...records.calibration import TrainingFailed, read_calibrations
from ...records.store import board_names, sweeps_folder
from ...spec.suite import RunSpec, Suite, plan
from ...tools.files import ensure_writable, write_atomically
from ...tools.machine import Machine
from ...training.job import Job
from ..admission import counts_seconds, one_kind, refuse_cpu, refuse_declared, refuse_names
from ..agenda import agenda_of
from ..device_seconds import TimedBoard
from ..no_result import write_unmeasured
from .scheduler import Request, cancel, script, submit
from .status import ACTIVE, look, settle
from .sweep import (
    Folder,
    Submitted,
    Sweep,
    Task,
    all_sweeps,
    create,
    new_name,
    now,
)


@dataclass
class Submission:
    """What `submit_suite` did.

    Attributes:
        folder: the new sweep; None if nothing had to be submitted.
        finished: runs that were finished before.
        active: runs that are in the queue or running, by the sweep that they belong to.
        settled: runs of earlier sweeps that were found killed.
        stale: as in `head_to_head.Outcome`.
        note: what else has to be said.
    """

    folder: Folder | None = None
    submitted: Submitted | None = None
    finished: int = 0
    active: dict[str, int] = field(default_factory=dict)
    settled: int = 0
    stale: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Wish:
    """What is to be submitted.

    Attributes:
        asked: how runs are executed; where, and on how many threads, says the request.
        hardware: part of the hardware key of the board that is meant, where there are several (T budgets).
        calibrate: calibrate on the partition's nodes although there are calibrations.
    """

    suite: Suite
    request: Request
    asked: Machine = field(default_factory=Machine)
    hardware: str = ""
    calibrate: bool = False

    @property
    def machine(self) -> Machine:
        """A node, as every run gets it."""
        return replace(self.asked, device="cuda:0" if self.request.gpus else "cpu", threads=self.request.threads)


def submit_suite(wish: Wish, root: Path) -> Submission:
    """Submit what is missing of a suite, and neither finished nor on its way.

    Raises:
        UserError: something that the user gave is wrong, or the scheduler refuses; nothing was submitted.
    """
    from filelock import FileLock, Timeout

    refuse_names(wish.suite, wish.machine)
    refuse_declared(wish.suite)
    if not shutil.which("sbatch"):
        raise UserError(
            "there is no sbatch on this machine's PATH; --engine slurm works on the login node of a cluster"
        )
    refuse_cpu(wish.suite.budget, wish.machine.device, "--gpus-per-run 1")
    timed = counts_seconds(wish.suite.budget)
    ensure_writable(root)
    sweeps_folder(root).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(sweeps_folder(root) / ".lock", timeout=120):
            return _submit_timed(wish, root) if timed else _submit(wish, root, plan(wish.suite, root=root))
    except Timeout:
        raise UserError(f"another process has been submitting to {root} for two minutes; try again later") from None


def _submit(
    wish: Wish, root: Path, specs: list[RunSpec], failed: Mapping[str, TrainingFailed] | None = None
) -> Submission:
    views, silence = look(root, all_sweeps(root)[0])
    done = Submission(settled=settle(views))
    agenda = agenda_of(wish.suite, root, wish.machine, specs)
    done.finished, done.stale = len(specs) - len(agenda.pending), agenda.stale
    pending, _ = write_unmeasured(agenda.pending, failed or {})
    done.note = "; ".join(f"not submitted: {model}: {why.reason}" for model, why in (failed or {}).items())
    busy = {
        job.spec.digest(): view.name
        for view in views
        for job, state in zip(view.jobs, view.states, strict=True)
        if job is not None and state.kind in ACTIVE
    }
    names = [busy[job.spec.digest()] for job in pending if job.spec.digest() in busy]
    done.active = {name: names.count(name) for name in dict.fromkeys(names)}
    jobs = [job for job in pending if job.spec.digest() not in busy]
    if silence and done.active:
        unknown = f"whether they still run is unknown, as no squeue answers ({silence})"
        done.note = f"{done.note}; {unknown}" if done.note else unknown
    if jobs:
        sweep = _sweep(wish, root, [Task(model=j.spec.model, seed=j.spec.seed) for j in jobs])
        _send(root, done, sweep, jobs, wish.request)
    return done


def _submit_timed(wish: Wish, root: Path) -> Submission:
    fitting: list[TimedBoard] = []
    for board in board_names(root):
        for key in dict.fromkeys(c.hardware_key for c in read_calibrations(root, board)):
            if wish.suite.board(key) == board and wish.hardware.lower() in key.lower():
                fitting.append(_timed(wish, root, key))
    if len(fitting) > 1 and not wish.calibrate:
        keys = " or ".join(repr(t.hardware_key) for t in fitting)
        raise UserError(f"the budget was calibrated on several kinds of device: {keys}; choose with --hardware TEXT")
    if wish.hardware and not fitting:
        raise UserError(f"--hardware {wish.hardware!r}: no calibration of this suite is of such a device; leave it out")
    if not wish.calibrate and fitting:
        known = fitting[0]
        drifted = known.forget_drifted(load_board(root, known.board))
        if not drifted and not known.missing():
            return _submit(wish, root, known.plan(), known.failed)
        return _submit_with_calibration(wish, root, sorted(known.forgotten))
    return _submit_with_calibration(wish, root, [])


def _timed(wish: Wish, root: Path, key: str) -> TimedBoard:
    # Nothing is measured on this node.
    return TimedBoard(wish.suite, root, {}, wish.machine, key)


def _submit_with_calibration(wish: Wish, root: Path, forgotten: list[str]) -> Submission:
    views, _ = look(root, all_sweeps(root)[0])
    done = Submission(settled=settle(views))
    for view in views:
        waits = view.folder.sweep.calibrates and not view.folder.calibrated
        if waits and view.active and view.folder.sweep.suite.board() == wish.suite.board():
            done.active[view.name] = len(view.states)
            done.note = "its calibration comes first; what it leaves out can be submitted when that has ended"
            return done
    tasks = [Task(model=model, seed=seed) for seed in wish.suite.seed_list for model in wish.suite.models]
    sweep = _sweep(wish, root, tasks, calibrates=True, forgotten=forgotten)
    _send(root, done, sweep, [], wish.request)
    return done


def _sweep(
    wish: Wish, root: Path, tasks: list[Task], calibrates: bool = False, forgotten: list[str] | None = None
) -> Sweep:
    name, job_name = new_name(root, wish.suite.name)
    node = wish.machine
    return Sweep(
        name=name, job_name=job_name, created=now(), suite=wish.suite, tasks=tasks,
        device=node.device, threads=node.threads, deadline_s=node.deadline_s, checkpoint_s=node.checkpoint_s,  # type: ignore[arg-type]
        limit_s=wish.request.limit_s, calibrates=calibrates, forgotten=forgotten or [], data_root=node.data_folder,
        include=node.files, command=node.command, sbatch=wish.request.options(),
    )  # fmt: skip


def _send(root: Path, done: Submission, sweep: Sweep, jobs: list[Job], request: Request) -> None:
    """Write a sweep and hand it to the scheduler; nothing is left of one that it refuses."""
    folder = create(root, sweep, jobs)
    calibration = None
    # The scheduler fills in what follows a per cent sign in the name of a log.
    logs = str(folder.path / "logs").replace("%", "%%")
    try:
        options = [*sweep.sbatch, f"--chdir={Path.cwd()}"]
        if sweep.calibrates:
            own = [f"--job-name={sweep.job_name}-calibration", f"--output={logs}/calibration.log"]
            calibration = submit([*options, *own], _write_script(folder, "calibrate.sh", True))
            options += [f"--dependency=afterok:{calibration}", "--kill-on-invalid-dep=yes"]
        array = f"--array=0-{len(sweep.tasks) - 1}" + (f"%{request.at_once}" if request.at_once else "")
        own = [f"--job-name={sweep.job_name}", f"--output={logs}/%a.log", array]
        number = submit([*options, *own], _write_script(folder, "task.sh", False))
    except BaseException:
        if calibration is not None:
            cancel(calibration)
        folder.remove()
        raise
    done.folder, done.submitted = folder, Submitted(array=number, calibration=calibration)
    folder.write_submitted(done.submitted)


def _write_script(folder: Folder, name: str, calibrate: bool) -> Path:
    path = folder.path / name
    write_atomically(path, script(folder.path, calibrate).encode())
    return path


def write_timed_jobs(folder: Folder) -> None:
    """On the node: calibrate what is missing, then write the jobs of the runs that are not finished."""
    sweep, root = folder.sweep, folder.path.parents[1]
    key, devices = one_kind([sweep.device])
    # The scheduler chooses other devices for the runs: no other calibration is confirmed on this one.
    timed = TimedBoard(sweep.suite, root, dict.fromkeys(devices, ""), sweep.machine, key)
    timed.forgotten |= set(sweep.forgotten)
    specs = timed.plan()
    numbers = {(task.model, task.seed): index for index, task in enumerate(sweep.tasks)}
    pending = agenda_of(sweep.suite, root, sweep.machine, specs).pending
    for job in write_unmeasured(pending, timed.failed)[0]:
        folder.write_job(numbers[job.spec.model, job.spec.seed], job)
    folder.write_calibrated()
