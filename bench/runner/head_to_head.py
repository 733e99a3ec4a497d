"""The public face: run a suite, load a leaderboard."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...registry import DATASETS, UserError, include
from ..boards.board import Board, find_board, load_board
from ..boards.rows import model_rows, write_board
from ..records.checkpoint_files import discard
from ..records.record import (
    FINAL,
    Context,
    RunRecord,
    attempts_of,
    read_board,
    write_record,
)
from ..records.sidecar import has_sidecar
from ..records.size_classes import counts_of, refuse_unmatched
from ..records.staleness import Among
from ..spec.budget import find_budget
from ..spec.suite import RunSpec, Suite, check_names, find_suite, plan, refuse_sizes
from ..tools.files import WriteError, ensure_writable, results_root
from ..tools.gpus import Gpus, refuse_modes, unused
from ..tools.machine import Machine
from ..tools.text import some
from ..training.job import Job, Probe
from .local import LocalEngine, end, events_of, start
from .no_result import provenance_of, record_without_result

if TYPE_CHECKING:
    import pandas as pd

    from ..records.calibration import Failed


#: Why there is no GPU where nobody can say it.
_DIED = "the process that looks for GPUs ended before it had an answer"


class Listener:
    """Hears how a head-to-head goes on; most methods do nothing here."""

    def preparing(self, what: str) -> None:
        """Something that takes seconds is being done before the first run."""

    def note(self, text: str) -> None:
        """Something that a user must know, and that is no error."""
        warnings.warn(text, stacklevel=2)

    def planned(self, jobs: list[Job], finished: int, work: dict[str, float]) -> None:
        """The runs that are about to start, how many are finished already, the work of each model (FLOPs)."""

    def event(self, job: Job, event: dict[str, Any]) -> None:
        """A run says its ``step`` or that it is ``done``."""

    def closed(self) -> None:
        """All is over, or interrupted."""


@dataclass
class Outcome:
    """What a head-to-head came to.

    Attributes:
        ran: records of this call, by their run's id, as (status, reason).
        skipped: number of runs that were finished before.
        stale: finished runs whose source, data or recipe has changed since, with what changed.
        unrecorded: runs whose record could not be written, by their run's id, with what was to be written.
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
        """Runs of the suite that were not completed."""
        return [
            (r, stale)
            for r, stale in self.board.chosen
            if r.status != "ok" and r.spec.model in self.suite.models and r.spec.seed in self.suite.seed_list
        ]

    def failures(self, tries_again: str) -> list[str]:
        """Sentences on the runs that were not completed.

        Args:
            tries_again: which command starts those once more that have no result; a run that diverged has one.
        """
        measured = sum(r.status in FINAL for r, _ in self.failed)
        missing = len(self.failed) - measured
        found = [f"{some(missing, 'run')} failed; {tries_again}"] if missing else []
        return found + ([f"{some(measured, 'run')} diverged, which is a result: not run again"] if measured else [])


def run(
    suite: str | Suite,
    *,
    results: str | Path | None = None,
    machine: Machine | None = None,
    data_root: str | Path | None = None,
    includes: Iterable[str | Path] = (),
    listener: Listener | None = None,
    command: str = "",
    trials: Callable[[list[RunSpec]], list[RunSpec]] = list,
    refresh: bool = False,
) -> Outcome:
    """Train what is missing of a suite and rebuild its board.

    Args:
        suite: name of a shipped suite, path of a suite file, or a `Suite`.
        results: results folder; default ``EQUIBENCH_RESULTS``, else ``./leaderboards``.
        data_root: folder of the data sets; default ``EQUIBENCH_DATA``, else the user's cache.
        includes: files that register models or data sets.
        command: what to write into the records as the command line.
        trials: makes of the planned runs those that are executed, all of one board; see `tune`.
        refresh: run again, as further attempts, what is stale.

    Returns:
        The board and what was done. A run that failed is a row of the board and in `Outcome.failed`.

    Raises:
        UserError: something that the user gave is wrong; nothing was trained.
    """
    machine, listener = machine or Machine(), listener or Listener()
    includes = [str(Path(p).resolve()) for p in includes]
    include(includes)
    suite = find_suite(suite) if isinstance(suite, str) else suite
    check_names(suite)
    root = results_root(results)
    is_new = not root.exists()
    ensure_writable(root)
    head = HeadToHead(suite, root, machine, str(data_root) if data_root else None, includes, listener, command, trials)  # type: ignore[arg-type]
    head.refresh = refresh
    try:
        return head.go()
    except UserError:
        if is_new:
            with suppress(OSError):  # there is something in it
                root.rmdir()
        raise


def load_leaderboard(board: str, results: str | Path | None = None) -> pd.DataFrame:
    """A board as a table, one row a model; columns as in its CSV.

    Raises:
        UserError: there is no such board.
    """
    return model_rows(load_board(results_root(results), find_board(board, results_root(results))))


class HeadToHead:
    """One call of `run`: what is missing of a suite, as jobs, and their execution."""

    def __init__(
        self,
        suite: Suite,
        root: Path,
        machine: Machine,
        data_root: str | None,
        includes: list[str],
        listener: Listener,
        command: str,
        trials: Callable[[list[RunSpec]], list[RunSpec]],
    ) -> None:
        self.suite, self.root, self.machine, self.data_root = suite, root, machine, data_root
        self.includes, self.listener, self.command, self.trials = includes, listener, command, trials
        self.refresh = False
        self.slots: list[str] = []
        self.work: dict[str, float] = {}

    def go(self) -> Outcome:
        try:
            self._refuse_sharing(self.machine.seeds_in_parallel)
            if find_budget(self.suite.budget).kind == "T":
                return self._go_timed()
            specs = self.trials(plan(self.suite, root=self.root))
            outcome, pending = self.split(specs)
            if pending:
                self._prepare()
                self._execute(pending, outcome)
            outcome.board = write_board(self.root, specs[0].board, self.suite.reference_parameters)
            return outcome
        finally:
            self.listener.closed()

    def _go_timed(self) -> Outcome:
        from .device_seconds import TimedBoard, one_kind

        if self.machine.device == "cpu":
            self._refuse_cpu()
        self._prepare()
        if self.slots[0] == "cpu":
            self._refuse_cpu()
        key, devices = one_kind(self.slots)
        timed = TimedBoard(self.suite, self.root, devices, self.machine.threads, self.data_root, self.includes, key)
        self.listener.preparing("calibrating: every model's step is measured, the models taking turns")
        told: set[str] = set()
        first: Outcome | None = None
        # A second round repeats what drifted, all seeds of it, with steps that are calibrated anew.
        for _ in range(2):
            specs = self.trials(timed.plan())
            outcome, pending = self.split(specs)
            pending = self.write_failures([one for one in pending if one[0].model not in told], outcome, timed.failed)
            told |= set(timed.failed)
            if pending:
                self._execute(pending, outcome)
            board = specs[0].board
            if first is not None:
                outcome.ran, outcome.skipped = first.ran | outcome.ran, first.skipped
            first = outcome
            if not timed.forget_drifted(load_board(self.root, board)):
                break
        outcome.board = write_board(self.root, board, self.suite.reference_parameters)
        return outcome

    def write_failures(
        self, pending: list[tuple[RunSpec, int]], outcome: Outcome, failed: Mapping[str, Failed]
    ) -> list[tuple[RunSpec, int]]:
        """Write the records of runs whose model cannot be trained, as its calibration has shown; returns the other
        runs.
        """
        for spec, attempt in pending:
            if spec.model in failed:
                why = failed[spec.model]
                reason = f"{why.reason} (while its step was measured, before any training)"
                job = self.job(spec, attempt)
                write_record(self.root, record_without_result(job, provenance_of(job), why.status, reason))
                outcome.ran[f"{spec.digest()}.{attempt}"] = (why.status, reason)
        return [one for one in pending if one[0].model not in failed]

    def _refuse_cpu(self) -> None:
        raise UserError(
            f"budget {self.suite.budget!r} counts device-seconds, which on a CPU depend on whatever else the machine"
            " does; use an E budget there (--budget e5), or --device cuda"
        )

    def _refuse_sharing(self, runs: int) -> None:
        if runs > 1 and find_budget(self.suite.budget).kind == "T":
            raise UserError(
                f"budget {self.suite.budget!r} counts device-seconds, which runs on one device take from each other:"
                " one run a GPU"
                " there, without --seeds-in-parallel, and on a CPU no more --jobs than cores; or use an E budget"
                " (--budget e20)"
            )

    def split(self, specs: list[RunSpec]) -> tuple[Outcome, list[tuple[RunSpec, int]]]:
        """What is finished, and what is to be run as which attempt."""
        outcome = Outcome(self.suite, Board(specs[0].board), self.root)
        pending, staleness = [], Among(read_board(self.root, specs[0].board)[0], self.root)
        for spec in specs:
            attempts = attempts_of(self.root, spec)
            finished = [r for r in attempts if r.status in FINAL]
            if not finished:
                pending.append((spec, max((r.attempt for r in attempts), default=0) + 1))
                continue
            outcome.skipped += 1
            # The process that wrote the record may have been killed before it could do this.
            discard(self.root, spec.board, spec.digest(), max(r.attempt for r in finished))
            stale = [staleness(r) for r in finished]
            # Finished runs are held against the class as new ones are, whoever asked for them.
            for record in [
                r for r, why in zip(finished, stale, strict=True) if not (why and (self.refresh or not all(stale)))
            ]:
                refuse_unmatched(self.suite, spec.model, **counts_of(record.cost))
            if all(stale) and self.refresh:
                outcome.skipped -= 1
                pending.append((spec, max(r.attempt for r in attempts) + 1))
            elif all(stale):
                outcome.stale[f"{spec.model} seed {spec.seed}"] = stale[0]
            elif self.suite.equivariance == "full":
                current = finished[stale.index("")]
                if current.status == "ok" and not has_sidecar(self.root, current):
                    pending.append((spec, current.attempt))
        return outcome, pending

    def _prepare(self) -> None:
        """Load the data once and look at every model, before anything is trained."""
        fields = DATASETS.find(self.suite.dataset).entry.fields
        channels, size = fields["shape"][0], fields["shape"][1]
        self.listener.preparing(f"data set {self.suite.dataset} and {some(len(self.suite.models), 'model')}")
        job = Probe(
            models=self.suite.models, channels=channels, size=size, classes=fields["classes"], include=self.includes
        )
        process = start(job, _null())
        try:
            self._load_data()
            seen = list(events_of(process))
        finally:
            end(process)
        self._check_probe(seen)

    def _load_data(self) -> None:
        from ...datasets.images import data_root, load

        load(self.suite.dataset, data_root(self.data_root))

    def _check_probe(self, events: list[dict[str, Any]]) -> None:
        here = next((Gpus(**e["gpus"]) for e in events if e["event"] == "devices"), Gpus(why=_DIED, expected=True))
        self.slots = self.machine.slots(len(here.uuids), here.why)
        refuse_modes(self.slots, here)
        if note := unused(here, self.machine.device, self.slots):
            if find_budget(self.suite.budget).kind == "T":
                raise UserError(
                    f"budget {self.suite.budget!r} counts device-seconds of a GPU, and torch cannot use the one here:"
                    f" {here.why}"
                )
            self.listener.note(note)
        self._refuse_sharing(self.machine.sharing(self.slots))
        seen = [e for e in events if e["event"] == "model"]
        other = [e for e in seen if "builds_at" in e]
        why = {
            e["model"]: f"cannot be built for them ({e['error']}), but for {e['builds_at']} pixels it can"
            for e in other
        }
        refuse_sizes(self.suite.dataset, DATASETS.find(self.suite.dataset).entry.fields["shape"][1], why)
        for event in seen:
            name = event["model"]
            if "wrong_shape" in event:
                raise UserError(f"model {name!r} breaks its contract: {event['wrong_shape']}")
            refuse_unmatched(self.suite, name, **counts_of(event))
            self.work[name] = float(event.get("flops", 0.0))

    def _execute(self, pending: list[tuple[RunSpec, int]], outcome: Outcome) -> None:
        sharing = self.machine.sharing(self.slots[: len(pending)])
        jobs = [self.job(spec, attempt, sharing) for spec, attempt in self._in_order(pending, sharing)]
        self.listener.planned(jobs, outcome.skipped, self.work)
        self._work_off(jobs, self.slots, outcome)
        if sharing > 1:
            # A neighbour may have taken the memory or the time that was missing.
            again = [self.job(job.spec, job.attempt + 1) for job in jobs if self._failed(job, outcome)]
            if again:
                self.listener.planned(again, 0, self.work)
                self._work_off(again, list(dict.fromkeys(self.slots)), outcome)

    def _in_order(self, pending: list[tuple[RunSpec, int]], sharing: int) -> list[tuple[RunSpec, int]]:
        """One seed of all models after the other, or as many seeds as share a GPU; those of a model go together.

        The longest runs first: the last ones are then short, and no core waits for long.
        """
        seeds = sorted({spec.seed for spec, _ in pending})
        models = list(dict.fromkeys(spec.model for spec, _ in pending))

        def place(one: tuple[RunSpec, int]) -> tuple[float, ...]:
            model, seed = one[0].model, seeds.index(one[0].seed)
            return seed // sharing, -self.work.get(model, 0.0), models.index(model), seed

        return sorted(pending, key=place)

    @staticmethod
    def _failed(job: Job, outcome: Outcome) -> bool:
        status = outcome.ran.get(f"{job.spec.digest()}.{job.attempt}", ("ok", ""))[0]
        return status not in FINAL

    def _work_off(self, jobs: list[Job], slots: list[str], outcome: Outcome) -> None:
        def listen(job: Job, event: dict[str, Any]) -> None:
            if event["event"] == "done" and event["status"] not in ("busy", "elsewhere"):
                outcome.ran[f"{job.spec.digest()}.{job.attempt}"] = (event["status"], event.get("reason", ""))
            self.listener.event(job, event)

        def crashed(job: Job, status: Any, reason: str) -> None:
            # The record of a run whose process could not write one, or died just after it did.
            if any(r.attempt == job.attempt for r in attempts_of(self.root, job.spec)):
                return
            try:
                write_record(self.root, record_without_result(job, provenance_of(job), status, reason))
            except WriteError:
                outcome.unrecorded[f"{job.spec.digest()}.{job.attempt}"] = f"{status}: {reason}"

        LocalEngine(slots, self.machine.deadline_s, crashed).run(jobs, listen)

    def job(self, spec: RunSpec, attempt: int, sharing: int = 1) -> Job:
        """An attempt at a run, for the process that makes it."""
        return Job(
            spec=spec,
            attempt=attempt,
            context=Context(
                suite=self.suite.name,
                parameter_class=self.suite.parameter_class,
                reference_parameters=self.suite.reference_parameters,
                reference_model=self.suite.reference_model,
            ),
            device=self.slots[0],
            threads=self.machine.threads,
            results=str(self.root),
            data_root=self.data_root,
            include=self.includes,
            command=self.command,
            equivariance=self.suite.equivariance,
            checkpoint_s=self.machine.checkpoint_s,
            sharing=sharing,
        )


def _null() -> int:
    import subprocess

    return subprocess.DEVNULL
