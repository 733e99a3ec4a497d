"""Submits a suite to a cluster's scheduler, as one job array of the runs that are missing.

Nothing here loads torch or data, so the login node does no heavy work.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ....registry import UserError
from ...records.calibration import TrainingFailed, read_calibrations
from ...records.store import board_names, sweeps_folder
from ...spec.suite import RunSpec, Suite, plan
from ...tools.files import ensure_writable
from ...tools.machine import Machine
from ...training.job import Job
from ..admission import common_hardware_key, counts_seconds, refuse_cpu, refuse_declared, refuse_names
from ..agenda import agenda_of
from ..device_seconds import TimedBoard
from ..no_result import write_unmeasured
from .scheduler import Request, cancel, script, submit
from .status import ACTIVE, record_killed_tasks, sweep_states
from .sweep import Folder, Submitted, Sweep, Task, all_sweeps, create, new_name


@dataclass
class Submission:
    """The result of `submit_suite`.

    Attributes:
        folder: the new sweep; None if nothing had to be submitted.
        finished: number of runs that were finished before; `stale` is as in `head_to_head.Outcome`.
        active: number of queued or running runs, by sweep.
        settled: number of runs of earlier sweeps that turned out to be killed.
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
        asked: how runs are executed; `request` replaces its device, and its `jobs` are the tasks at a time.
        hardware: part of the hardware key that selects one of several boards (T budgets).
        calibrate: calibrate although there are calibrations.
    """

    suite: Suite
    request: Request
    asked: Machine = field(default_factory=Machine)
    hardware: str = ""
    calibrate: bool = False

    @property
    def machine(self) -> Machine:
        """The settings of a run on a node."""
        return replace(self.asked, device="cuda:0" if self.request.gpus else "cpu")


def submit_suite(given: SubmissionInput, root: Path) -> Submission:
    """Submit the runs of a suite that are not finished, queued or running.

    Raises:
        UserError: the input is wrong, or the scheduler refuses; nothing was submitted.
    """
    from filelock import FileLock, Timeout

    refuse_names(given.suite, given.machine)
    refuse_declared(given.suite)
    if not shutil.which("sbatch"):
        where = "works on the login node of a cluster"
        raise UserError(f"there is no sbatch on this machine's PATH; --engine slurm {where}")
    refuse_cpu(given.suite.budget, given.machine.device, "--gpus-per-run 1")
    timed = counts_seconds(given.suite.budget)
    ensure_writable(root, "results")
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
    done.active = Counter(busy[job.spec.digest()] for job in pending if job.spec.digest() in busy)
    jobs = [job for job in pending if job.spec.digest() not in busy]
    if silence and done.active:
        unknown = f"it is unknown whether they still run, because squeue does not answer ({silence})"
        done.note = f"{done.note}; {unknown}" if done.note else unknown
    if jobs:
        _send(given, root, done, [Task(model=j.spec.model, seed=j.spec.seed) for j in jobs], jobs)
    return done


def _submit_timed(given: SubmissionInput, root: Path) -> Submission:
    fitting: list[TimedBoard] = []
    for board in board_names(root):
        for key in dict.fromkeys(c.hardware_key for c in read_calibrations(root, board)):
            if given.suite.board(key) == board and given.hardware.lower() in key.lower():
                # Without devices: nothing is measured on this node.
                fitting.append(TimedBoard(given.suite, root, {}, given.machine, key))
    if len(fitting) > 1 and not given.calibrate:
        keys = " or ".join(repr(t.hardware_key) for t in fitting)
        raise UserError(f"the budget was calibrated on several kinds of device: {keys}; choose with --hardware TEXT")
    if given.hardware and not fitting:
        text = given.hardware
        raise UserError(f"--hardware {text!r}: this suite is not calibrated on such a device; omit the option")
    if given.calibrate or not fitting:
        return _submit_with_calibration(given, root, [])
    known = fitting[0]
    if known.forget_drifted(known.board) or known.missing():
        return _submit_with_calibration(given, root, sorted(known.forgotten))
    return _submit(given, root, known.plan(), known.failed)


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
    _send(given, root, done, tasks, [], forgotten)
    return done


def _send(
    given: SubmissionInput, root: Path, done: Submission, tasks: list[Task], jobs: list[Job],
    forgotten: list[str] | None = None,
) -> None:  # fmt: skip
    """Write a sweep and hand it to the scheduler; nothing is left of one that it refuses. No jobs: it calibrates."""
    name, job_name = new_name(root, given.suite.name)
    node, request = given.machine, given.request
    sweep = Sweep(
        name=name, job_name=job_name, created=time.time(), suite=given.suite, tasks=tasks,
        device=node.device, threads=node.threads, deadline_s=node.deadline_s, checkpoint_s=node.checkpoint_s,  # type: ignore[arg-type]
        limit_s=request.limit_s, calibrates=not jobs, forgotten=forgotten or [], data_root=node.data_folder,
        include=node.files, command=node.command, sbatch=request.options(node.threads),
    )  # fmt: skip
    folder = create(root, sweep, jobs)
    calibration = None
    # In names of logs, the scheduler replaces a per cent sign and the letter after it.
    logs = str(folder.path / "logs").replace("%", "%%")
    try:
        options = [*sweep.sbatch, f"--chdir={Path.cwd()}"]
        if sweep.calibrates:
            own = [f"--job-name={sweep.job_name}-calibration", f"--output={logs}/calibration.log"]
            calibration = submit([*options, *own], folder.write("calibrate.sh", script(folder.path, True)))
            options += [f"--dependency=afterok:{calibration}", "--kill-on-invalid-dep=yes"]
        array = f"--array=0-{len(sweep.tasks) - 1}" + (f"%{node.jobs}" if node.jobs else "")
        own = [f"--job-name={sweep.job_name}", f"--output={logs}/%a.log", array]
        number = submit([*options, *own], folder.write("task.sh", script(folder.path)))
    except BaseException:
        if calibration is not None:
            cancel(calibration)
        folder.remove()
        raise
    done.folder, done.submitted = folder, Submitted(array=number, calibration=calibration)
    folder.write("submitted.json", done.submitted.canonical() + "\n")


def write_timed_jobs(folder: Folder) -> None:
    """On the node: calibrate models without a calibration, then write the jobs of the unfinished runs."""
    sweep, root = folder.sweep, folder.path.parents[1]
    key, devices = common_hardware_key([sweep.device])
    # The scheduler chooses other devices for the runs, so this device need not confirm older calibrations.
    timed = TimedBoard(sweep.suite, root, devices, sweep.machine, key, confirms=False)
    timed.forgotten |= set(sweep.forgotten)
    specs = timed.plan()
    numbers = {(task.model, task.seed): index for index, task in enumerate(sweep.tasks)}
    pending = agenda_of(sweep.suite, root, sweep.machine, specs).pending
    for job in write_unmeasured(pending, timed.failed)[0]:
        folder.write_job(numbers[job.spec.model, job.spec.seed], job)
    folder.write("calibrated", "")
