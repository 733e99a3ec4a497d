"""What is seen while runs go on."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from .api import Listener
from .job import Job


class Quiet(Listener):
    """Says nothing but failures, on standard error: for pipes and logs."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def event(self, job: Job, event: dict[str, Any]) -> None:
        if event["event"] == "done":
            self._done(job, event)

    def _done(self, job: Job, event: dict[str, Any]) -> None:
        name, status = f"{job.spec.model} seed {job.spec.seed}", event["status"]
        if status == "busy":
            self._say(f"{name}: another process is running it; left to that")
        elif status not in ("ok", "elsewhere"):
            self._say(f"{name}: {status}: {event.get('reason', '')}")
        if event.get("warning"):
            self._say(f"{name}: {event['warning']}")

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False)


class Live(Quiet):
    """A bar for the whole and one for every run under way, on a terminal."""

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
        self._work: dict[str, float] = {}
        self._shares: dict[str, float] = {}
        self._total = 0.0
        self._started = 0.0

    def preparing(self, what: str) -> None:
        self._console.print(f"preparing: {what}", markup=False)

    def planned(self, jobs: list[Job], finished: int, work: dict[str, float]) -> None:
        self._started = time.monotonic()
        self._shares, self._work = {}, {key(j): work.get(j.spec.model, 0.0) * j.spec.steps or 1.0 for j in jobs}
        self._total = sum(self._work.values())
        if finished:
            self._console.print(f"{finished} runs are finished already; {len(jobs)} to do", markup=False)
        self._whole = self._progress.add_task("runs", total=len(jobs), facts="")
        self._progress.start()

    def event(self, job: Job, event: dict[str, Any]) -> None:
        if event["event"] == "step":
            self._step(job, event)
        elif event["event"] == "done":
            super().event(job, event)
            task = self._tasks.pop(key(job), None)
            if task is not None:
                self._progress.remove_task(task)
            self._shares[key(job)] = 1.0
            if self._whole is not None:
                self._progress.update(self._whole, advance=1, facts=self._left())

    def _step(self, job: Job, event: dict[str, Any]) -> None:
        if key(job) not in self._tasks:
            name = f"{job.spec.model} seed {job.spec.seed}"
            self._tasks[key(job)] = self._progress.add_task(name, total=event["steps"], facts="")
        rate = event["step"] * job.spec.recipe.batch / max(event["seconds"], 1e-9)
        loss = "no number" if event["loss"] is None else f"{event['loss']:.3f}"
        facts = f"loss {loss}  {rate:,.0f} images/s  {(event['steps'] - event['step']) * event['seconds'] / event['step']:.0f} s left"
        self._progress.update(self._tasks[key(job)], completed=event["step"], facts=facts)
        self._shares[key(job)] = event["step"] / event["steps"]
        if self._whole is not None:
            self._progress.update(self._whole, facts=self._left())

    def _left(self) -> str:
        """Time left of the whole, from the work that is done (FLOPs of training)."""
        done = sum(self._work.get(k, 0.0) * share for k, share in self._shares.items())
        if done <= 0:
            return ""
        seconds = (time.monotonic() - self._started) * (self._total / done - 1)
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def closed(self) -> None:
        self._progress.stop()


def key(job: Job) -> str:
    """What identifies a job among those of one call."""
    return f"{job.spec.digest()}.{job.attempt}"


def listener_for(quiet: bool) -> Listener:
    """A live display on a terminal, else failures only."""
    return Quiet() if quiet or not Console(stderr=True).is_terminal else Live()
