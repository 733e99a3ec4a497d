"""Progress displays of runs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from ...registry import UserError
from ..records.record import read_record
from ..runner.head_to_head import Listener
from ..tools.schema import visible
from ..tools.text import plural
from ..training.job import Job

#: What is said of a run whose lock is held.
BUSY = "another process runs it already; skipped here"


class Quiet(Listener):
    """Prints only failures and warnings, on standard error."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def event(self, job: Job, event: dict[str, Any]) -> None:
        if event["event"] == "done":
            self._done(job, event)

    def note(self, text: str) -> None:
        self._say(text)

    def _done(self, job: Job, event: dict[str, Any]) -> None:
        name, status = f"{job.spec.model} seed {job.spec.seed}", event["status"]
        if status == "busy":
            self._say(f"{name}: {BUSY}")
        elif status not in ("ok", "elsewhere"):
            self._say(f"{name}: {status}: {event.get('reason', '')}")
        if event.get("warning"):
            self._say(f"{name}: {event['warning']}")

    def _say(self, text: str) -> None:
        self._console.print(visible(text), markup=False)


class Lines(Quiet):
    """Prints one line at the start and one for every ended run on standard error, for pipes and logs."""

    def __init__(self) -> None:
        super().__init__()
        self._count = self._ended = 0

    def planned(self, jobs: list[Job], finished: int, work: dict[str, float]) -> None:
        self._count, self._ended = len(jobs), 0
        before = f"; finished already: {plural(finished, 'run')}" if finished else ""
        self._say(f"{time.strftime('%H:%M:%S')}  {plural(len(jobs), 'run')} to do{before}")

    def _done(self, job: Job, event: dict[str, Any]) -> None:
        self._ended += 1
        said = BUSY if event["status"] == "busy" else event["status"]
        what = f"{job.spec.model} seed {job.spec.seed}: {said}{_accuracy(event)}"
        line = f"{time.strftime('%H:%M:%S')}  {self._ended}/{self._count}  {what}"
        parts = [line, event.get("reason"), event.get("warning")]
        self._say("; ".join(part for part in parts if part))


def _accuracy(event: dict[str, Any]) -> str:
    """The test accuracy of a run that has just ended, from its record."""
    if not event.get("record"):
        return ""
    try:
        results = read_record(Path(event["record"])).results
    except UserError:  # the board explains the error
        return ""
    return f", {results.test_acc_pct:.2f} %" if results else ""


class Live(Quiet):
    """Shows on a terminal a progress bar for all runs together and one for each running run."""

    def __init__(self) -> None:
        super().__init__()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._whole: TaskID | None = None
        self._tasks: dict[str, TaskID] = {}
        self._work, self._shares, self._given = dict[str, float](), dict[str, float](), dict[str, float]()
        self._failed, self._started = 0, 0.0

    def preparing(self, what: str) -> None:
        self._console.print(f"preparing: {what}", markup=False)

    def planned(self, jobs: list[Job], finished: int, work: dict[str, float]) -> None:
        self._started = time.monotonic()
        self._shares, self._given, self._failed = {}, {}, 0
        self._work = {j.key: work.get(j.spec.model, 0.0) * j.spec.steps or 1.0 for j in jobs}
        if finished:
            self._say(f"finished already: {plural(finished, 'run')}; to do: {len(jobs)}")
        self._whole = self._progress.add_task("runs", total=len(jobs), facts="")
        self._begin()

    def _begin(self) -> None:
        self._progress.start()

    def event(self, job: Job, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "start":
            # The first block of steps takes seconds. The display shows immediately which run uses a device.
            device = "" if job.device == "cpu" else f" on {job.device}"
            name = f"{job.spec.model} seed {job.spec.seed}{device}"
            self._tasks[job.key] = self._progress.add_task(name, total=job.spec.steps, facts="starting")
        elif kind == "resumed":
            self._given[job.key] = self._shares[job.key] = event["step"] / event["steps"]
            self._show(job, event["step"], f"resumed after step {event['step']:,}")
        elif kind == "step":
            self._step(job, event)
        elif kind == "done":
            super().event(job, event)
            self._done_with(job, event["status"])

    def _done_with(self, job: Job, status: str) -> None:
        task = self._tasks.pop(job.key, None)
        if task is not None:
            self._progress.remove_task(task)
        self._failed += status not in ("ok", "elsewhere", "busy")
        self._shares[job.key] = 1.0
        if status != "ok":  # a failed run says nothing about the speed
            self._work.pop(job.key, None)
        if self._whole is not None:
            self._progress.update(self._whole, advance=1, facts=self._left())

    def _step(self, job: Job, event: dict[str, Any]) -> None:
        step, steps, seconds = event["step"], event["steps"], event["seconds"]
        rate = step * job.spec.recipe.batch / max(seconds, 1e-9)
        loss = "not finite" if event["loss"] is None else f"{event['loss']:.3f}"
        # After the last step come batch-norm statistics, evaluation and equivariance.
        left = f"{(steps - step) * seconds / step:.0f} s left" if step < steps else "evaluating"
        self._shares[job.key] = step / steps
        self._show(job, step, f"loss {loss}  {rate:,.0f} images/s  {left}")

    def _show(self, job: Job, step: int, facts: str) -> None:
        if job.key in self._tasks:
            self._progress.update(self._tasks[job.key], completed=step, facts=facts)
        if self._whole is not None:
            self._progress.update(self._whole, facts=self._left())

    def _left(self) -> str:
        """The number of failed runs and the remaining time, estimated from the FLOPs of training done in this call."""
        failed = f"{self._failed} failed  " if self._failed else ""
        given = {k: self._given.get(k, 0.0) for k in self._work}
        done = sum(self._work.get(k, 0.0) * (share - given.get(k, 0.0)) for k, share in self._shares.items())
        if done <= 0:
            return failed
        total = sum(work * (1 - given[k]) for k, work in self._work.items())
        seconds = (time.monotonic() - self._started) * (total / done - 1)
        return failed + (f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left")

    def closed(self) -> None:
        self._progress.stop()


def listener_for(quiet: bool) -> Listener:
    """The display for this terminal: live bars, or lines where there is no terminal; only failures if `quiet`."""
    if quiet:
        return Quiet()
    return Live() if Console(stderr=True).is_terminal else Lines()
