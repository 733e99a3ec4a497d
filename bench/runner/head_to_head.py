"""Executes the missing runs of a suite and rebuilds its board."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ...registry import UserError
from ..boards.board import Board
from ..boards.rows import write_board
from ..records.record import FINAL, RunRecord
from ..spec.shard import Shard
from ..spec.suite import RunSpec, Suite, plan
from ..tools.files import WriteError, ensure_writable, results_root
from ..tools.machine import Machine
from ..tools.text import plural
from ..training.job import Job
from . import admission
from .agenda import agenda_of, in_order
from .local import LocalEngine
from .no_result import write_unmeasured, write_without_result


class Listener:
    """Gets messages about the progress of a head-to-head. This base class only shows notes, as warnings."""

    def preparing(self, what: str) -> None:
        """A preparation that takes seconds has started."""

    def note(self, text: str) -> None:
        """A note for the user that is not an error."""
        warnings.warn(text, stacklevel=2)

    def planned(self, jobs: list[Job], finished: int, work: dict[str, float]) -> None:
        """The runs that will start, the number of finished runs, and the FLOPs per image of each model."""

    def event(self, job: Job, event: dict[str, Any]) -> None:
        """A run reports its ``step``, or that it is ``done``."""

    def closed(self) -> None:
        """All runs have ended, or were interrupted."""


@dataclass
class Outcome:
    """The result of a head-to-head.

    Attributes:
        ran: (status, reason) of the runs of this call, by run id.
        skipped: number of runs that were finished before.
        stale: finished runs whose source, data or recipe has changed since, and which of these changed.
        unrecorded: runs whose record could not be written: status and reason, by run id.
    """

    suite: Suite
    board: Board
    results: Path
    ran: dict[str, tuple[str, str]] = field(default_factory=dict)
    skipped: int = 0
    stale: dict[str, str] = field(default_factory=dict)
    unrecorded: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> list[tuple[RunRecord, str]]:
        """Runs of the suite with another status than ``ok``, and why they are stale, if they are."""
        return [
            (r, stale)
            for r, stale in self.board.chosen
            if r.status != "ok" and r.spec.model in self.suite.models and r.spec.seed in self.suite.seed_list
        ]

    def failures(self, tries_again: str) -> list[str]:
        """Sentences about the runs in `failed`. `tries_again` is a clause about runs without a result."""
        measured = sum(r.status in FINAL for r, _ in self.failed)
        missing = len(self.failed) - measured
        found = [f"{plural(missing, 'run')} failed; {tries_again}"] if missing else []
        if measured:
            found.append(f"{plural(measured, 'run')} diverged; this is a result and is not run again")
        return found


def run(
    suite: Suite,
    *,
    results: str | Path | None = None,
    machine: Machine | None = None,
    listener: Listener | None = None,
    trials: Callable[[list[RunSpec]], list[RunSpec]] = list,
    refresh: bool = False,
    shard: Shard | None = None,
) -> Outcome:
    """Train the missing runs of a suite and rebuild its board. A failed run is a row of the board too.

    Args:
        results: results folder; default ``EQUIBENCH_RESULTS``, else ``./leaderboards``.
        trials: converts the planned runs into the runs to be executed, all of one board; see `tune`.
        refresh: also run stale runs again, as further attempts.
        shard: execute only this share of the runs.

    Raises:
        UserError: the input is wrong; nothing was trained.
    """
    machine = machine or Machine()
    admission.refuse_names(suite, machine)
    root = results_root(results)
    is_new = not root.exists()
    ensure_writable(root, "results")
    try:
        outcome = HeadToHead(suite, root, machine, listener or Listener(), trials, refresh, shard).execute()
        outcome.board.data_root = machine.data_root
        return outcome
    except UserError:
        if is_new:
            with suppress(OSError):  # the folder is not empty
                root.rmdir()
        raise


@dataclass
class HeadToHead:
    """One call of `run`: executes the missing runs of a suite.

    Attributes:
        slots: the device of each process that may run at the same time.
        work: FLOPs per image of each model, if known.
    """

    suite: Suite
    root: Path
    machine: Machine
    listener: Listener
    trials: Callable[[list[RunSpec]], list[RunSpec]] = list
    refresh: bool = False
    shard: Shard | None = None
    slots: list[str] = field(default_factory=list)
    work: dict[str, float] = field(default_factory=dict)

    def execute(self) -> Outcome:
        try:
            admission.refuse_cpu(self.suite.budget, self.machine.device)
            admission.refuse_sharing(self.suite.budget, self.machine.seeds_in_parallel)
            if admission.counts_seconds(self.suite.budget):
                outcome = self._execute_timed()
            else:
                outcome, pending = self._plan(plan(self.suite, root=self.root))
                if pending:
                    self._prepare()
                    self._execute_pending(pending, outcome)
            outcome.board = write_board(self.root, outcome.board.name, self.suite.reference_parameters)
            return outcome
        finally:
            self.listener.closed()

    def _execute_timed(self) -> Outcome:
        from .device_seconds import TimedBoard

        self._prepare()
        key, devices = admission.common_hardware_key(self.slots)
        timed = TimedBoard(self.suite, self.root, devices, self.machine, key)
        if self.shard and (missing := timed.missing()):
            raise UserError(
                f"budget {self.suite.budget!r} counts device-seconds, and all shards must train the same steps, but the"
                f" step time of {', '.join(missing[:5])} is not calibrated here; run one seed of the suite on one"
                " machine, export its board, and merge the archive into the results folder of each shard"
            )
        self.listener.preparing("calibration: the step time of every model is measured, and the models take turns")
        told: set[str] = set()
        first: Outcome | None = None
        if not self.shard:  # an earlier call may have been interrupted after runs that drifted
            steps = dict.fromkeys(self.suite.models, 1)
            first_spec = self.trials(plan(self.suite, steps, key, self.root))[0]  # trials have a board of their own
            timed.forget_drifted(first_spec.board)
        # A second round calibrates models with drifted runs again and repeats all their seeds; a shard lacks some.
        for _ in range(1 if self.shard else 2):
            outcome, pending = self._plan(timed.plan())
            untold = [job for job in pending if job.spec.model not in told]
            pending, unmeasured = write_unmeasured(self._placed(untold), timed.failed)
            outcome.ran |= unmeasured
            told |= set(timed.failed)
            if pending:
                self._execute_pending(pending, outcome)
            if first is not None:
                outcome.ran, outcome.skipped = first.ran | outcome.ran, first.skipped
            first = outcome
            if not timed.forget_drifted(outcome.board.name):
                break
        return outcome

    def _plan(self, specs: list[RunSpec]) -> tuple[Outcome, list[Job]]:
        """The outcome so far, and the runs that are still to be executed."""
        specs = self.trials(specs)
        if self.shard:
            count = len(specs)
            if self.shard.count > count:  # some shares have no run
                raise UserError(f"--shard {self.shard}: use at most {count} shares of {plural(count, 'run')}")
            specs = self.shard.of(specs)
        agenda = agenda_of(self.suite, self.root, self.machine, specs, self.refresh)
        board = Board(specs[0].board)
        return Outcome(self.suite, board, self.root, skipped=agenda.skipped, stale=agenda.stale), agenda.pending

    def _prepare(self) -> None:
        """Load the data once and check every model, before anything is trained."""
        self.listener.preparing(f"data set {self.suite.dataset} and {plural(len(self.suite.models), 'model')}")
        check_devices = partial(admission.admit_devices, self.suite, self.machine)
        early = check_devices if admission.needs_gpus(self.suite, self.machine) else None
        names, files = self.suite.models, self.machine.files
        seen = admission.probe_models(names, self.suite.dataset, files, self._load_data, early)
        self.slots, note = check_devices(seen)
        self.work = admission.admit_models(self.suite, seen)
        if note:
            self.listener.note(note)

    def _load_data(self) -> None:
        from ...datasets.images import data_root, load

        load(self.suite.dataset, data_root(self.machine.data_folder))

    def _placed(self, jobs: list[Job], sharing: int = 1) -> list[Job]:
        return [job.model_copy(update={"device": self.slots[0], "sharing": sharing}) for job in jobs]

    def _execute_pending(self, pending: list[Job], outcome: Outcome) -> None:
        sharing = self.machine.sharing(self.slots[: len(pending)])
        jobs = in_order(self._placed(pending, sharing), sharing, self.work)
        self.listener.planned(jobs, outcome.skipped, self.work)
        self._run_jobs(jobs, self.slots, outcome)
        if sharing > 1:
            # A run may have failed because others on the same GPU took memory or time: try it again alone.
            failed = [job for job in jobs if outcome.ran.get(job.key, ("ok", ""))[0] not in FINAL]
            again = [job.model_copy(update={"attempt": job.attempt + 1}) for job in self._placed(failed)]
            if again:
                self.listener.planned(again, 0, self.work)
                self._run_jobs(again, list(dict.fromkeys(self.slots)), outcome)

    def _run_jobs(self, jobs: list[Job], slots: list[str], outcome: Outcome) -> None:
        def listen(job: Job, event: dict[str, Any]) -> None:
            if event["event"] == "done" and event["status"] not in ("busy", "elsewhere"):
                outcome.ran[job.key] = (event["status"], event.get("reason", ""))
            self.listener.event(job, event)

        def crashed(job: Job, status: Any, reason: str) -> None:
            try:  # the process could not write the record itself, or died just after writing it
                write_without_result(job, status, reason)
            except WriteError:
                outcome.unrecorded[job.key] = f"{status}: {reason}"

        LocalEngine(slots, self.machine.deadline_s, crashed).run(jobs, listen)
