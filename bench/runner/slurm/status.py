"""How far the sweeps on a cluster are, and what is made of the tasks that were killed.

Nothing here loads torch or data. What is known comes from files; the scheduler is asked only about what no record
settles, and before the files are read again: a task that has left the queue by then has written its record by then.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from ....registry import UserError, include
from ...boards.rows import write_board
from ...records.record import (
    FINAL,
    RunRecord,
    Status,
    attempts_of,
    read_board,
)
from ...records.store import last_step
from ...training.job import Job
from ..head_to_head import Outcome
from ..no_result import write_without_result
from .scheduler import Queue, ask_queue
from .sweep import Beat, Folder, find_sweeps, now

#: A task that left the queue without a record counts as lost this many seconds after its last sign of life: file
#: systems of clusters show a new file late.
SETTLE_S = 90.0
#: Without an answer from squeue, a task counts as lost this many seconds after its time limit.
GRACE_S = 600.0
#: A task that was asked to end so close to its time limit was asked because of it; schedulers count in minutes.
_LIMIT_SLACK_S = 60.0
#: States in which a run is not dispatched again.
ACTIVE = ("queued", "running", "ending", "unknown")


@dataclass(frozen=True)
class State:
    """How far a task is.

    Attributes:
        kind: status of its record; else ``queued``, ``running``, ``ending`` (its record may be on its way), ``lost``,
            ``timeout``, ``cancelled`` (never started), ``finished`` (before the sweep), or ``unknown``.
        detail: what else is known, for people.
        beat: what the task said of itself, where it started.
        recorded: whether a record says so.
    """

    kind: str
    detail: str = ""
    beat: Beat | None = None
    recorded: bool = False


@dataclass(frozen=True)
class View:
    """A sweep and the states of its tasks, in their order."""

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
        kinds = [s.kind for s in self.states]
        return {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}


def look(root: Path, folders: list[Folder]) -> tuple[list[View], str | None]:
    """The states of sweeps, and why the scheduler is silent if it is."""
    jobs = {f.name: _jobs(f) for f in folders}
    final = _finals(root, {j.spec.board for own in jobs.values() for j in own if j is not None})
    unsettled = [f for f in folders if any(j is None or j.spec.digest() not in final for j in jobs[f.name])]
    queue = ask_queue([f.sweep.job_name for f in unsettled])
    # The calibration of a sweep may have ended since.
    jobs |= {f.name: _jobs(f) for f in unsettled if f.sweep.calibrates}
    views = []
    for folder in folders:
        own = jobs[folder.name]
        states = [_state(root, folder, i, job, final, queue) for i, job in enumerate(own)]
        views.append(View(folder, own, states))
    return views, queue.silence


def _jobs(folder: Folder) -> list[Job | None]:
    return [folder.job(index) for index in range(len(folder.sweep.tasks))]


def _finals(root: Path, boards: Iterable[str]) -> dict[str, RunRecord]:
    """The finished runs of boards by the hash of their spec."""
    found: dict[str, RunRecord] = {}
    for board in sorted(boards):
        for record in read_board(root, board)[0]:
            if record.status in FINAL:
                found.setdefault(record.spec.digest(), record)
    return found


def _state(root: Path, folder: Folder, index: int, job: Job | None, final: dict[str, RunRecord], queue: Queue) -> State:
    if job is None:
        return _without_job(folder, index, queue)
    record = final.get(job.spec.digest()) or _record_of(root, job)
    if record is not None and record.status in FINAL:
        return State(record.status, record.reason, recorded=True)
    said = folder.beat(index)
    beat, seen = said or (None, 0.0)
    listed = queue.tasks.get((folder.sweep.job_name, index))
    if record is not None and (listed is None or (beat is not None and beat.ended)):
        return State(record.status, record.reason, recorded=True)
    if listed is not None and listed.waits:
        return State("queued", "" if listed.reason in ("None", "") else listed.reason, beat)
    if listed is not None:
        return State("running", _progress(beat, listed.state), beat)
    state = _silent(folder, beat) if queue.silence is not None else _left(folder, beat, seen)
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
        return State("unknown", "waits for the calibration, or did; no squeue answers")
    if now() - sweep.created < SETTLE_S:
        return State("queued", "just submitted")
    return State("cancelled", f"the calibration did not end well; {folder.path}/logs/calibration.log says why")


def _silent(folder: Folder, beat: Beat | None) -> State:
    """The state as far as files alone tell it."""
    if beat is None:
        return State("unknown", "not started when it was last seen; no squeue answers")
    if beat.ended == "stopped":
        return State("unknown", "stopped, perhaps put back into the queue; no squeue answers", beat)
    limit = folder.sweep.limit_s
    if limit is not None and now() > beat.started + limit + GRACE_S:
        return State("lost", f"no word since {_where(beat)}, and its time limit of {limit:g} s is over", beat)
    return State("unknown", f"{_where(beat)} when it was last seen; no squeue answers", beat)


def _left(folder: Folder, beat: Beat | None, seen: float) -> State:
    """The state of a task that the scheduler no longer knows, and that has no record."""
    if beat is None:
        if now() - folder.sweep.created < SETTLE_S:
            return State("queued", "just submitted")
        return State("cancelled", "left the queue before it started")
    if beat.ended == "stopped":
        limit = folder.sweep.limit_s
        if limit is not None and seen - beat.started > limit - _LIMIT_SLACK_S:
            return State("timeout", f"ended at its time limit of {limit:g} s, {_where(beat)}", beat)
        return State("lost", f"asked to end by the scheduler or a person, {_where(beat)}", beat)
    if beat.ended == "busy":
        return State("cancelled", "another process was running it", beat)
    if time.time() - seen < SETTLE_S:
        return State("ending", f"left the queue {_where(beat)}; its record may be on its way", beat)
    if beat.ended:
        return State("cancelled", f"ended as {beat.ended}, but there is no record: {beat.reason}".rstrip(": "), beat)
    return State("lost", f"left the queue without a word, {_where(beat)}", beat)


def _where(beat: Beat) -> str:
    return f"at step {beat.step:,} of {beat.steps:,}{_on(beat)}"


def _on(beat: Beat) -> str:
    return f" on {beat.node}" if beat.node else ""


def _progress(beat: Beat | None, state: str) -> str:
    if beat is None:
        return "starting" if state == "RUNNING" else state.lower()
    minutes = (now() - beat.started) / 60
    return f"{_where(beat)}, for {minutes:.0f} min" + ("" if state == "RUNNING" else f", {state.lower()}")


def settle(views: list[View]) -> int:
    """Write the records of tasks that were killed before they could; returns how many."""
    count = 0
    for view in views:
        for job, state in zip(view.jobs, view.states, strict=True):
            if state.kind in ("lost", "timeout") and not state.recorded and job is not None and state.beat is not None:
                status: Status = "lost" if state.kind == "lost" else "timeout"
                reason = state.detail.replace(_on(state.beat), "")  # names of machines are no part of a record
                count += write_without_result(job, status, reason, state.beat.provenance)
    return count


def collect(root: Path, name: str | None) -> tuple[list[View], list[Outcome], str | None]:
    """Make records of what was killed, and rebuild the boards of the sweeps of this name (see `find_sweeps`).

    Raises:
        UserError: there is no such sweep.
    """
    folders = find_sweeps(root, name)
    for path in dict.fromkeys(p for f in folders for p in f.sweep.include):
        try:
            include([path])
        except UserError:
            continue  # a file that is gone cannot be compared; its models count as current
    views, silence = look(root, folders)
    settle(views)
    boards: dict[str, Folder] = {}
    for view in views:
        boards |= {job.spec.board: view.folder for job in view.jobs if job is not None}
    outcomes = [
        Outcome(f.sweep.suite, write_board(root, board, f.sweep.suite.reference_parameters), root)
        for board, f in boards.items()
    ]
    return views, [o for o in outcomes if o.board.chosen], silence
