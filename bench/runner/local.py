"""One process a run on this machine, several at a time.

A run's process is clean: nothing ran in it before but the import of torch (see `copies`), and it is without what the
shell's environment could change in its figures. It has a log of its own beside the record. Whatever happens to it
happens to one run; if this process dies, the runs end with a checkpoint at their next step.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..records.record import Status
from ..records.store import last_step, log_path
from ..tools.files import WriteError
from ..tools.text import last_line
from ..training.job import Check, Examination, Job, Probe, Stopwatch
from . import copies
from .copies import Process

#: Gets every event of a run's process: "start", perhaps "resumed", "step", and "done" exactly once.
Listener = Callable[[Job, dict[str, Any]], None]
#: Seconds that a process has to end by itself, and to write a last checkpoint, before it is killed.
GRACE_S = 10.0
#: Bytes at the end of a log that are looked at for the last line.
LAST_BYTES = 65_536
#: Variables of the environment that change what torch and its libraries compute, or in which order Python does; a run's
#: process does not get them, so that a record says the same from every shell.
CHANGE_FIGURES = (
    "ATEN_CPU_CAPABILITY", "BLIS_NUM_THREADS", "CUBLAS_WORKSPACE_CONFIG", "CUBLASLT_WORKSPACE_SIZE",
    "CUDA_LAUNCH_BLOCKING",
    "DISABLE_ADDMM_CUDA_LT", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "GOTO_NUM_THREADS", "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_DYNAMIC", "OMP_NUM_THREADS",
    "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "PYTHONHASHSEED",
    "PYTHONOPTIMIZE", "PYTORCH_TUNABLEOP_ENABLED", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUDNN_V8_API_DISABLED", "TORCH_LINALG_PREFER_CUSOLVER",
)  # fmt: skip


@dataclass
class _Running:
    job: Job
    slot: str
    process: Process
    log: Path
    started: float
    #: Length of the log when it started: an earlier process of the same run may have written to it.
    logged: int = 0
    reported: bool = False
    overdue: bool = False


def start(
    job: Job | Probe | Stopwatch | Check | Examination, log: IO[str] | int, also: Mapping[str, str] | None = None
) -> Process:
    """Start a process for a job; its events come on standard output, all else goes to `log`.

    It gets a session of its own, so that Ctrl-C reaches the parent alone, which ends its children in order. A check and
    an examination get an interpreter that shares nothing with any other, not even where things lie in memory.

    Args:
        also: variables of its environment beside `environment`.
    """
    arguments = ["-P", "-m", "equibench.bench.worker", "--attached"]  # -P: no module from the current folder
    variables = {**environment(getattr(job, "threads", 1)), **(also or {})}
    process: Process
    if sys.platform == "linux" and not isinstance(job, Check | Examination):
        process = copies.begin([*arguments, "--copied"], variables, None if isinstance(log, int) else log)
    else:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=variables,
            start_new_session=True,
        )
    assert process.stdin is not None
    try:
        process.stdin.write(job.model_dump_json() + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it died at once; its exit says so
    return process


def environment(threads: int) -> dict[str, str]:
    """The environment of a run's process: ours, without what changes figures."""
    kept = {name: value for name, value in os.environ.items() if name not in CHANGE_FIGURES}
    fixed = {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", **bytecode("torch")}
    if "PYTHONPYCACHEPREFIX" in fixed:
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, **fixed, "OMP_NUM_THREADS": str(threads)}


def bytecode(package: str) -> dict[str, str]:
    """Where processes keep their compiled files, as a variable, if Python may not write them beside a package.

    Else each run, which is a process of its own, would compile all of torch anew.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None or sys.pycache_prefix is not None:
        return {}
    compiled = Path(importlib.util.cache_from_source(spec.origin))
    folder = compiled.parent if compiled.parent.is_dir() else compiled.parent.parent
    if compiled.is_file() or (os.access(folder, os.W_OK) and not sys.dont_write_bytecode):
        return {}
    return {"PYTHONPYCACHEPREFIX": str(Path.home() / ".cache" / "equibench" / "bytecode")}


def events_of(process: Process) -> Iterator[dict[str, Any]]:
    """The events that a process sends, until it ends; a line cut off by its death is dropped."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def end(*processes: Process) -> None:
    """End processes and all that they started; all are asked at once, and given the same time to end in order."""
    for process in processes:
        _signal(process, signal.SIGTERM)
    latest = time.monotonic() + GRACE_S
    for process in processes:
        try:
            process.wait(max(0.0, latest - time.monotonic()))
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait(GRACE_S)
        _close(process)


def _close(process: Process) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()


def _signal(process: Process, number: int) -> None:
    """Send a signal to a process that has not ended, and to all that it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


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

    def __init__(self, slots: list[str], deadline_s: float | None, on_crash: Callable[[Job, str, str], None]) -> None:
        self._slots, self._deadline_s, self._on_crash = slots, deadline_s, on_crash
        self._messages: queue.Queue[tuple[_Running, dict[str, Any] | None]] = queue.Queue()

    def run(self, jobs: list[Job], listen: Listener) -> None:
        """Run all jobs; returns when the last has ended. On an interrupt, ends the children first."""
        running: list[_Running] = []
        waiting, free = list(reversed(jobs)), list(self._slots)
        try:
            with quiet_end():
                while waiting or running:
                    while waiting and free:
                        running.append(self._start(waiting.pop(), free.pop(0), listen))
                    ended = self._next_ended(running, listen)
                    if ended is not None:
                        running.remove(ended)
                        free.append(ended.slot)
        finally:
            end(*(one.process for one in running))

    def _start(self, job: Job, slot: str, listen: Listener) -> _Running:
        job = job.model_copy(update={"device": slot})
        log = log_path(Path(job.results), job.spec.board, job.key)
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            # Not truncated: the process before this one may have said why it ended, and another may be running.
            with log.open("a", encoding="utf-8") as file:
                before = file.tell()
                one = _Running(job, slot, start(job, file), log, time.monotonic(), before)
        except OSError as error:
            raise WriteError(log, error) from error
        threading.Thread(target=self._read, args=(one,), daemon=True).start()
        listen(job, {"event": "start"})
        return one

    def _read(self, one: _Running) -> None:
        for event in events_of(one.process):
            self._messages.put((one, event))
        one.process.wait()
        self._messages.put((one, None))

    def _next_ended(self, running: list[_Running], listen: Listener) -> _Running | None:
        """Handle one message, or let a second pass; returns a run whose process has ended."""
        self._end_late(running)
        try:
            one, event = self._messages.get(timeout=1.0)
        except queue.Empty:
            return None
        if event is None:
            _close(one.process)
            if not one.reported:
                self._fail(one, *self._why(one), listen)
            return one
        if event.get("unwritten"):
            one.reported = True
            self._fail(one, event["status"], event["reason"], listen)
        else:
            one.reported |= event["event"] == "done"
            listen(one.job, event)
        return None

    def _fail(self, one: _Running, status: str, reason: str, listen: Listener) -> None:
        self._on_crash(one.job, status, reason)
        listen(one.job, {"event": "done", "status": status, "reason": reason})

    def _end_late(self, running: list[_Running]) -> None:
        """Ask what is past its deadline to end, then kill it."""
        for one in running:
            late = time.monotonic() - one.started - (self._deadline_s or math.inf)
            if late > 0 and not one.overdue:
                one.overdue = True
                _signal(one.process, signal.SIGTERM)
            elif late > GRACE_S:
                _signal(one.process, signal.SIGKILL)
            if one.process.poll() is not None:
                # What a dead run has started may hold the pipe open that we read.
                with suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)

    def _why(self, one: _Running) -> tuple[str, str]:
        """Status and reason of a process that ended without a word."""
        code, spec = one.process.returncode, one.job.spec
        step = last_step(Path(one.job.results), spec.board, spec.digest())
        kept = "" if step is None else f"; a checkpoint of step {step} of {spec.steps} is kept"
        if one.overdue:
            return "timeout", f"ended after its deadline of {self._deadline_s:g} s{kept}"
        status, reason = ending(code, last_said(one.log, one.logged))
        return status, f"{reason}{kept}"


def ending(code: int, said: str) -> tuple[Status, str]:
    """Status and reason of a process that ended without a word, by its exit code and the last line of its log."""
    if code < 0:
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return "lost", f"killed by {signal.Signals(-code).name}{memory}"
    return "error", f"the process ended with exit code {code}" + (f": {said}" if said else "")


def last_said(log: Path, since: int = 0) -> str:
    """The last line of a log from a byte on; empty where there is none."""
    with log.open("rb") as file:
        # A model may have written any amount.
        file.seek(max(since, file.seek(0, 2) - LAST_BYTES))
        return last_line(file.read().decode(errors="replace"))
