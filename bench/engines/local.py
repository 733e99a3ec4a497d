"""One process a run on this machine, several at a time."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..job import Check, Job, Probe, Stopwatch
from ..record import board_folder

#: Gets every event of a run's process: "step", and "done" exactly once.
Listener = Callable[[Job, dict[str, Any]], None]
#: Seconds that a process has to end by itself before it is killed.
GRACE_S = 5.0


@dataclass
class _Running:
    job: Job
    slot: str
    process: subprocess.Popen[str]
    log: Path
    started: float
    reported: bool = False
    overdue: bool = False


def start(job: Job | Probe | Stopwatch | Check, log: IO[str] | int) -> subprocess.Popen[str]:
    """Start a fresh interpreter for a job; its events come on standard output, all else goes to `log`.

    It gets a session of its own, so that Ctrl-C reaches the parent alone, which ends its children in order.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if not isinstance(job, Probe):
        environment["OMP_NUM_THREADS"] = str(job.threads)
    process = subprocess.Popen(
        [sys.executable, "-m", "equibench.bench.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env=environment,
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(job.model_dump_json() + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it died at once; its exit says so
    return process


def events_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    """The events that a process sends, until it ends; a line cut off by its death is dropped."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def end(process: subprocess.Popen[str]) -> None:
    """End a process and whatever it started."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            try:
                os.killpg(process.pid, how)
                process.wait(GRACE_S)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:
                pass


@contextmanager
def quiet_end(signals: tuple[int, ...] = (signal.SIGTERM, signal.SIGHUP)) -> Iterator[None]:
    """Let a request to end raise KeyboardInterrupt, as Ctrl-C does, so that children are ended too."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LocalEngine:
    """Runs jobs, each in its own process.

    Args:
        slots: a device for every process at a time; a name may stand there more than once.
        deadline_s: seconds after which a run is ended as ``timeout``; None: never.
        on_crash: called with (job, status, reason) when a process ends without its own record.
    """

    def __init__(
        self, slots: list[str], deadline_s: float | None, on_crash: Callable[[Job, str, str], None]
    ) -> None:
        self._slots, self._deadline_s, self._on_crash = slots, deadline_s, on_crash
        self._messages: queue.Queue[tuple[_Running, dict[str, Any] | None]] = queue.Queue()

    def run(self, jobs: list[Job], listen: Listener) -> None:
        """Run all jobs; returns when the last has ended. On an interrupt, ends the children first."""
        waiting, running, free = list(reversed(jobs)), [], list(self._slots)
        try:
            with quiet_end():
                while waiting or running:
                    while waiting and free:
                        running.append(self._start(waiting.pop(), free.pop(0)))
                    ended = self._next_ended(running, listen)
                    if ended is not None:
                        running.remove(ended)
                        free.append(ended.slot)
        finally:
            for one in running:
                end(one.process)

    def _start(self, job: Job, slot: str) -> _Running:
        job = job.model_copy(update={"device": slot})
        log = board_folder(Path(job.results), job.spec.board) / "logs" / f"{job.spec.digest()}.{job.attempt}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:
            one = _Running(job, slot, start(job, file), log, time.monotonic())
        threading.Thread(target=self._read, args=(one,), daemon=True).start()
        return one

    def _read(self, one: _Running) -> None:
        for event in events_of(one.process):
            self._messages.put((one, event))
        one.process.wait()
        self._messages.put((one, None))

    def _next_ended(self, running: list[_Running], listen: Listener) -> _Running | None:
        """Handle one message, or let a second pass; returns a run whose process has ended."""
        try:
            one, event = self._messages.get(timeout=1.0)
        except queue.Empty:
            for late in running:
                if self._deadline_s is not None and time.monotonic() - late.started > self._deadline_s:
                    late.overdue = True
                    os.killpg(late.process.pid, signal.SIGKILL)
            return None
        if event is not None:
            one.reported |= event["event"] == "done"
            listen(one.job, event)
            return None
        if not one.reported:
            status, reason = self._why(one)
            self._on_crash(one.job, status, reason)
            listen(one.job, {"event": "done", "status": status, "reason": reason})
        return one

    def _why(self, one: _Running) -> tuple[str, str]:
        """Status and reason of a process that ended without a word."""
        code = one.process.returncode
        if one.overdue:
            return "timeout", f"ended after its deadline of {self._deadline_s:g} s"
        if code < 0:
            return "lost", f"killed by {signal.Signals(-code).name}"
        lines = one.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "error", f"the process ended with exit code {code}" + (f": {lines[-1]}" if lines else "")
