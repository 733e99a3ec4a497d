"""Submits a suite to a cluster's scheduler, as one job array of the runs that are missing.

Nothing here loads torch or data, so the login node does no heavy work.
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
from ..admission import common_hardware_key, counts_seconds, refuse_cpu, refuse_declared, refuse_names
from ..agenda import agenda_of
from ..device_seconds import TimedBoard
from ..no_result import write_unmeasured
from .scheduler import Request, cancel, script, submit
from .status import ACTIVE, record_killed_tasks, sweep_states
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
    """The result of `submit_suite`.

    Attributes:
        folder: the new sweep; None if nothing had to be submitted.
        finished: number of runs that were finished before.
        active: number of queued or running runs, by sweep.
        settled: number of runs of earlier sweeps that turned out to be killed.
        stale: as in `head_to_head.Outcome`.
        note: a note for the user; may be empty.
    """

    folder: Folder | None = None
    submitted: Submitted | None = None
    finished: int = 0
    active: dict[str, int] = field(default_factory=dict)
    settled: int = 0
    stale: dict[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class SubmissionInput:
    """The input of `submit_suite`.

    Attributes:
        asked: how runs are executed; `request` replaces its device and number of threads.
        hardware: part of the hardware key that selects one of several boards (T budgets).
        calibrate: calibrate on the partition's nodes although there are calibrations.
    """

    suite: Suite
    request: Request
    asked: Machine = field(default_factory=Machine)
    hardware: str = ""
    calibrate: bool = False

    @property
    def machine(self) -> Machine:
        """The settings of a run on a node."""
        return replace(self.asked, device="cuda:0" if self.request.gpus else "cpu", threads=self.request.threads)


def submit_suite(given: SubmissionInput, root: Path) -> Submission:
    """Submit the runs of a suite that are not finished, queued or running.

    Raises:
        UserError: the input is wrong, or the scheduler refuses; nothing was submitted.
    """
    from filelock import FileLock, Timeout

    refuse_names(given.suite, given.machine)
    refuse_declared(given.suite)
    if not shutil.which("sbatch"):
        raise UserError(
            "there is no sbatch on this machine's PATH; --engine slurm works on the login node of a cluster"
        )
    refuse_cpu(given.suite.budget, given.machine.device, "--gpus-per-run 1")
    timed = counts_seconds(given.suite.budget)
    ensure_writable(root)
    sweeps_folder(root).mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(sweeps_folder(root) / ".lock", timeout=120):
            return _submit_timed(given, root) if timed else _submit(given, root, plan(given.suite, root=root))
    except Timeout:
        raise UserError(f"another process has been submitting to {root} for two minutes; try again later") from None


def _submit(
    given: SubmissionInput, root: Path, specs: list[RunSpec], failed: Mapping[str, TrainingFailed] | None = None
) -> Submission:
    views, silence = sweep_states(root, all_sweeps(root)[0])
    done = Submission(settled=record_killed_tasks(views))
    agenda = agenda_of(given.suite, root, given.machine, specs)
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
        unknown = f"it is unknown whether they still run, because squeue does not answer ({silence})"
        done.note = f"{done.note}; {unknown}" if done.note else unknown
    if jobs:
        sweep = _sweep(given, root, [Task(model=j.spec.model, seed=j.spec.seed) for j in jobs])
        _send(root, done, sweep, jobs, given.request)
    return done


def _submit_timed(given: SubmissionInput, root: Path) -> Submission:
    fitting: list[TimedBoard] = []
    for board in board_names(root):
        for key in dict.fromkeys(c.hardware_key for c in read_calibrations(root, board)):
            if given.suite.board(key) == board and given.hardware.lower() in key.lower():
                fitting.append(_timed(given, root, key))
    if len(fitting) > 1 and not given.calibrate:
        keys = " or ".join(repr(t.hardware_key) for t in fitting)
        raise UserError(f"the budget was calibrated on several kinds of device: {keys}; choose with --hardware TEXT")
    if given.hardware and not fitting:
        raise UserError(
            f"--hardware {given.hardware!r}: this suite is not calibrated on such a device; omit the option"
        )
    if not given.calibrate and fitting:
        known = fitting[0]
        drifted = known.forget_drifted(load_board(root, known.board))
        if not drifted and not known.missing():
            return _submit(given, root, known.plan(), known.failed)
        return _submit_with_calibration(given, root, sorted(known.forgotten))
    return _submit_with_calibration(given, root, [])


def _timed(given: SubmissionInput, root: Path, key: str) -> TimedBoard:
    # Nothing is measured on this node.
    return TimedBoard(given.suite, root, {}, given.machine, key)


def _submit_with_calibration(given: SubmissionInput, root: Path, forgotten: list[str]) -> Submission:
    views, _ = sweep_states(root, all_sweeps(root)[0])
    done = Submission(settled=record_killed_tasks(views))
    for view in views:
        waits = view.folder.sweep.calibrates and not view.folder.calibrated
        if waits and view.active and view.folder.sweep.suite.board() == given.suite.board():
            done.active[view.name] = len(view.states)
            done.note = "its calibration comes first; submit the remaining runs when it has ended"
            return done
    tasks = [Task(model=model, seed=seed) for seed in given.suite.seed_list for model in given.suite.models]
    sweep = _sweep(given, root, tasks, calibrates=True, forgotten=forgotten)
    _send(root, done, sweep, [], given.request)
    return done


def _sweep(
    given: SubmissionInput, root: Path, tasks: list[Task], calibrates: bool = False, forgotten: list[str] | None = None
) -> Sweep:
    name, job_name = new_name(root, given.suite.name)
    node = given.machine
    return Sweep(
        name=name, job_name=job_name, created=now(), suite=given.suite, tasks=tasks,
        device=node.device, threads=node.threads, deadline_s=node.deadline_s, checkpoint_s=node.checkpoint_s,  # type: ignore[arg-type]
        limit_s=given.request.limit_s, calibrates=calibrates, forgotten=forgotten or [], data_root=node.data_folder,
        include=node.files, command=node.command, sbatch=given.request.options(),
    )  # fmt: skip


def _send(root: Path, done: Submission, sweep: Sweep, jobs: list[Job], request: Request) -> None:
    """Write a sweep and hand it to the scheduler; nothing is left of one that it refuses."""
    folder = create(root, sweep, jobs)
    calibration = None
    # In names of logs, the scheduler replaces a per cent sign and the letter after it.
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
    """On the node: calibrate models without a calibration, then write the jobs of the unfinished runs."""
    sweep, root = folder.sweep, folder.path.parents[1]
    key, devices = common_hardware_key([sweep.device])
    # The scheduler chooses other devices for the runs, so this device need not confirm older calibrations.
    timed = TimedBoard(sweep.suite, root, dict.fromkeys(devices, ""), sweep.machine, key)
    timed.forgotten |= set(sweep.forgotten)
    specs = timed.plan()
    numbers = {(task.model, task.seed): index for index, task in enumerate(sweep.tasks)}
    pending = agenda_of(sweep.suite, root, sweep.machine, specs).pending
    for job in write_unmeasured(pending, timed.failed)[0]:
        folder.write_job(numbers[job.spec.model, job.spec.seed], job)
    folder.write_calibrated()
