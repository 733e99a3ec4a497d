"""Progress of the sweeps on a cluster, and records of tasks that were killed.

Nothing here loads torch or data. The states come from files. The scheduler is asked only about tasks without a record,
and the files are read again after its answer: a task that had left the queue has written its record by then.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from ....registry import UserError, include
from ...boards.rows import write_board
from ...records.record import FINAL, RunRecord, attempts_of, read_board
from ...records.store import last_step
from ...training.job import Job
from ..head_to_head import Outcome
from ..no_result import write_without_result
from .scheduler import Queue, ask_queue
from .sweep import Folder, Heartbeat, find_sweeps

#: A task that left the queue without a record counts as lost this many seconds after its last heartbeat. File systems
#: of clusters show new files with a delay.
SETTLE_S = 90.0
#: Without an answer from squeue, a task counts as lost this many seconds after its time limit.
GRACE_S = 600.0
#: A task that was stopped so close to its time limit was stopped because of it: schedulers count in minutes.
_LIMIT_SLACK_S = 60.0
#: States in which a run is not submitted again.
ACTIVE = ("queued", "running", "ending", "unknown")


@dataclass(frozen=True)
class State:
    """The state of a task.

    Attributes:
        kind: status of its record; else ``queued``, ``running``, ``ending`` (its record may follow), ``lost``,
            ``timeout``, ``cancelled`` (never started), ``finished`` (before the sweep), or ``unknown``.
        detail: further information for the user.
        heartbeat: the last one; None if the task has not started.
        recorded: whether `kind` comes from a record.
    """

    kind: str
    detail: str = ""
    heartbeat: Heartbeat | None = None
    recorded: bool = False


@dataclass(frozen=True)
class View:
    """A sweep with the states of its tasks, in the order of the tasks."""

    folder: Folder
    jobs: list[Job | None]
    states: list[State]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def active(self) -> bool:
        return any(s.kind in ACTIVE for s in self.states)

    def counts(self) -> dict[str, int]:
        """Number of tasks by state."""
        return Counter(s.kind for s in self.states)


def sweep_states(root: Path, folders: list[Folder]) -> tuple[list[View], str | None]:
    """The states of sweeps, and the reason why the scheduler does not answer (None if it answers)."""
    jobs = {f.name: _jobs(f) for f in folders}
    final: dict[str, RunRecord] = {}  # the finished runs, by the hash of their spec
    for board in sorted({j.spec.board for own in jobs.values() for j in own if j is not None}):
        for record in read_board(root, board)[0]:
            if record.status in FINAL:
                final.setdefault(record.spec.digest(), record)
    unsettled = [f for f in folders if any(j is None or j.spec.digest() not in final for j in jobs[f.name])]
    queue = ask_queue([f.sweep.job_name for f in unsettled])
    # In the meantime, the calibration of a sweep may have ended and written jobs.
    jobs |= {f.name: _jobs(f) for f in unsettled if f.sweep.calibrates}
    views = []
    for folder in folders:
        own = jobs[folder.name]
        states = [_state(root, folder, i, job, final, queue) for i, job in enumerate(own)]
        views.append(View(folder, own, states))
    return views, queue.silence


def _jobs(folder: Folder) -> list[Job | None]:
    return [folder.job(index) for index in range(len(folder.sweep.tasks))]


def _state(root: Path, folder: Folder, index: int, job: Job | None, final: dict[str, RunRecord], queue: Queue) -> State:
    if job is None:
        return _without_job(folder, index, queue)
    record = final.get(job.spec.digest()) or _record_of(root, job)
    if record is not None and record.status in FINAL:
        return State(record.status, record.reason, recorded=True)
    said = folder.heartbeat(index)
    heartbeat, seen = said or (None, 0.0)
    listed = queue.tasks.get((folder.sweep.job_name, index))
    if record is not None and (listed is None or (heartbeat is not None and heartbeat.ended)):
        return State(record.status, record.reason, recorded=True)
    if listed is not None and listed.waits:
        return State("queued", "" if listed.reason in ("None", "") else listed.reason, heartbeat)
    if listed is not None:
        return State("running", _progress(heartbeat, listed.state), heartbeat)
    silent = queue.silence is not None
    state = _state_from_files(folder, heartbeat) if silent else _state_after_queue(folder, heartbeat, seen)
    step = last_step(root, job.spec.board, job.spec.digest()) if state.kind in ("lost", "timeout") else None
    return state if step is None else replace(state, detail=f"{state.detail}; a checkpoint of step {step:,} is kept")


def _record_of(root: Path, job: Job) -> RunRecord | None:
    """The record of a job's attempt, or of a later one."""
    found = [r for r in attempts_of(root, job.spec) if r.status in FINAL or r.attempt >= job.attempt]
    return next((r for r in found if r.status in FINAL), found[-1] if found else None)


def _without_job(folder: Folder, index: int, queue: Queue) -> State:
    sweep = folder.sweep
    if folder.calibrated or not sweep.calibrates:
        return State("finished", "before this sweep")
    if (sweep.job_name, index) in queue.tasks:
        return State("queued", "waits for the calibration")
    if queue.silence is not None:
        return State("unknown", "waits for the calibration, or waited for it; squeue does not answer")
    if time.time() - sweep.created < SETTLE_S:
        return State("queued", "just submitted")
    return State("cancelled", f"the calibration failed; see {folder.path}/logs/calibration.log")


def _state_from_files(folder: Folder, heartbeat: Heartbeat | None) -> State:
    """The state of a task from its files alone, if squeue does not answer."""
    if heartbeat is None:
        return State("unknown", "has not started yet according to its files; squeue does not answer")
    if heartbeat.ended == "stopped":
        return State("unknown", "stopped, perhaps put back into the queue; squeue does not answer", heartbeat)
    limit = folder.sweep.limit_s
    if limit is not None and time.time() > heartbeat.started + limit + GRACE_S:
        over = f"and its time limit of {limit:g} s is over"
        return State("lost", f"no heartbeat since {_where(heartbeat)}, {over}", heartbeat)
    return State("unknown", f"{_where(heartbeat)} at its last heartbeat; squeue does not answer", heartbeat)


def _state_after_queue(folder: Folder, heartbeat: Heartbeat | None, seen: float) -> State:
    """The state of a task that has left the queue and has no record."""
    if heartbeat is None:
        if time.time() - folder.sweep.created < SETTLE_S:
            return State("queued", "just submitted")
        return State("cancelled", "left the queue before it started")
    if heartbeat.ended == "stopped":
        limit = folder.sweep.limit_s
        if limit is not None and seen - heartbeat.started > limit - _LIMIT_SLACK_S:
            return State("timeout", f"ended at its time limit of {limit:g} s, {_where(heartbeat)}", heartbeat)
        return State("lost", f"stopped by the scheduler or a person, {_where(heartbeat)}", heartbeat)
    if heartbeat.ended == "busy":
        return State("cancelled", "another process was running this run", heartbeat)
    if time.time() - seen < SETTLE_S:
        return State("ending", f"left the queue {_where(heartbeat)}; its record may follow", heartbeat)
    if heartbeat.ended:
        detail = f"ended as {heartbeat.ended}, but there is no record: {heartbeat.reason}".rstrip(": ")
        return State("cancelled", detail, heartbeat)
    return State("lost", f"left the queue without a report, {_where(heartbeat)}", heartbeat)


def _where(heartbeat: Heartbeat) -> str:
    return f"at step {heartbeat.step:,} of {heartbeat.steps:,}{_on(heartbeat)}"


def _on(heartbeat: Heartbeat) -> str:
    return f" on {heartbeat.node}" if heartbeat.node else ""


def _progress(heartbeat: Heartbeat | None, state: str) -> str:
    if heartbeat is None:
        return "starting" if state == "RUNNING" else state.lower()
    minutes = (time.time() - heartbeat.started) / 60
    return f"{_where(heartbeat)}, for {minutes:.0f} min" + ("" if state == "RUNNING" else f", {state.lower()}")


def record_killed_tasks(views: list[View]) -> int:
    """Write the records of tasks that were killed before they could do so; returns the number of records."""
    count = 0
    for view in views:
        for job, state in zip(view.jobs, view.states, strict=True):
            killed = state.kind in ("lost", "timeout") and not state.recorded
            if killed and job is not None and state.heartbeat is not None:
                reason = state.detail.replace(_on(state.heartbeat), "")  # records do not contain names of machines
                count += write_without_result(job, state.kind, reason, state.heartbeat.provenance)  # type: ignore[arg-type]
    return count


def collect(root: Path, name: str | None) -> tuple[list[View], list[Outcome], str | None]:
    """Write records of killed tasks, and rebuild the boards of the sweeps of `find_sweeps`.

    Returns the sweeps, their boards, and the reason why the scheduler does not answer (None if it answers).
    """
    folders = find_sweeps(root, name)
    for path in dict.fromkeys(p for f in folders for p in f.sweep.include):
        with suppress(UserError):  # without its file, a model cannot be compared: it counts as unchanged
            include([path])
    views, silence = sweep_states(root, folders)
    record_killed_tasks(views)
    suites = {job.spec.board: view.folder.sweep.suite for view in views for job in view.jobs if job is not None}
    outcomes = [Outcome(s, write_board(root, board, s.reference_parameters), root) for board, s in suites.items()]
    return views, [o for o in outcomes if o.board.chosen], silence
