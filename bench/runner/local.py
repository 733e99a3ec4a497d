"""Runs on this machine: one process per run, several at a time.

A run's process is clean: only torch was imported in it before (see `fork_server`), and environment variables that could
change figures are removed. Each run has its own log beside its record. A crash affects one run only. If this process
dies, the runs write a checkpoint after their current step and end.
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
from ..training.job import Check, Examination, Job, Probe, StepTiming
from . import fork_server
from .fork_server import Process

#: Gets every event of a run's process: "start", "resumed" (if it was), "step", and exactly one "done".
Listener = Callable[[Job, dict[str, Any]], None]
#: Seconds that a process has to write a last checkpoint and end by itself, before it is killed.
GRACE_S = 10.0
#: Bytes at the end of a log in which the last line is searched.
LAST_BYTES = 65_536
#: Environment variables that change results of torch and its libraries, or the hash order of Python. A run's process
#: does not get them, so its figures do not depend on the shell.
CHANGE_FIGURES = (
    "ATEN_CPU_CAPABILITY", "BLIS_NUM_THREADS", "CUBLASLT_WORKSPACE_SIZE", "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_LAUNCH_BLOCKING", "DISABLE_ADDMM_CUDA_LT", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA", "GOTO_NUM_THREADS",
    "MKL_CBWR", "MKL_DYNAMIC", "MKL_ENABLE_INSTRUCTIONS", "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_DYNAMIC",
    "OMP_NUM_THREADS", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS",
    "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING", "PYTORCH_NO_HIP_MEMORY_CACHING", "PYTORCH_TUNABLEOP_ENABLED",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT", "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_LINALG_PREFER_CUSOLVER",
)  # fmt: skip

#: Settings of glibc's malloc. Each training step allocates and frees the same large tensors. With these settings, the
#: process keeps that memory, in pages of 2 MiB. Otherwise the kernel maps and clears every page again in every step.
#: Results stay the same. A libc that does not know a setting ignores it.
MALLOC = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=9223372036854775807:glibc.malloc.top_pad=67108864"
    ":glibc.malloc.hugetlb=1"
)


@dataclass
class _Running:
    job: Job
    slot: str
    process: Process
    log: Path
    started: float
    #: Length of the log at the start: an earlier process of the same run may have written to it.
    logged: int
    reported: bool = False
    overdue: bool = False


def start(
    job: Job | Probe | StepTiming | Check | Examination, log: IO[str] | int, also: Mapping[str, str] | None = None
) -> Process:
    """Start a process for a job. It writes its events to standard output, and everything else to `log`.

    It has its own session: Ctrl-C reaches only the parent, which then ends its children in order. A `Check` and an
    `Examination` get a new interpreter instead of a fork, so they do not even share memory addresses with others. The
    variables `also` are added to those of `environment`.
    """
    arguments = ["-P", "-m", "equibench.bench.worker", "--attached"]  # -P: no module from the current folder
    variables = {**environment(getattr(job, "threads", 1)), **(also or {})}
    process: Process
    if sys.platform == "linux" and not isinstance(job, Check | Examination):
        errors = None if isinstance(log, int) else log
        process = fork_server.start_forked([*arguments, "--fork-server"], variables, errors)
    else:
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [sys.executable, *arguments], stdin=pipe, stdout=pipe, stderr=log, text=True, env=variables,
            start_new_session=True,
        )  # fmt: skip
    ask(process, job.model_dump_json())
    return process


def ask(process: Process, line: str) -> None:
    """Write a line to the standard input of a process. If the process has died, its exit code gives the reason."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.write(line + "\n")
        process.stdin.flush()


def environment(threads: int) -> dict[str, str]:
    """The environment of a run's process: that of this process, without variables that change figures."""
    kept = {name: value for name, value in os.environ.items() if name not in CHANGE_FIGURES}
    fixed = {"PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0", **bytecode("torch")}
    # The last setting of a name counts, so those of the user stay.
    fixed["GLIBC_TUNABLES"] = ":".join(filter(None, [MALLOC, kept.get("GLIBC_TUNABLES")]))
    if "PYTHONPYCACHEPREFIX" in fixed:
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
    return {**kept, **fixed, "OMP_NUM_THREADS": str(threads)}


def bytecode(package: str) -> dict[str, str]:
    """An environment variable with a folder for compiled Python files, if Python cannot write them beside a package.

    Without it, every process of a run would compile all of torch again.
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
    """The events of a process until it ends. A line that is incomplete because the process died is dropped."""
    assert process.stdout is not None
    for line in process.stdout:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def end(*processes: Process) -> None:
    """End processes and their children. All get SIGTERM at the same time, and SIGKILL after `GRACE_S`."""
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
    for stream in filter(None, (process.stdin, process.stdout)):
        with suppress(BrokenPipeError):
            stream.close()


def _signal(process: Process, number: int) -> None:
    """Send a signal to a process that has not ended, and to its children."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)


@contextmanager
def interrupt_on_signals() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does. So children are ended too."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class LocalEngine:
    """Runs jobs, each in its own process.

    Args:
        slots: the device of each process that may run at the same time; a device may be listed several times.
        deadline_s: seconds after which a run is ended as ``timeout``; None for no deadline.
        on_crash: called with (job, status, reason) if a process ends without a record.
    """

    def __init__(self, slots: list[str], deadline_s: float | None, on_crash: Callable[[Job, str, str], None]) -> None:
        self._slots, self._deadline_s, self._on_crash = slots, deadline_s, on_crash
        self._messages: queue.Queue[tuple[_Running, dict[str, Any] | None]] = queue.Queue()

    def run(self, jobs: list[Job], listen: Listener) -> None:
        """Run all jobs; returns when the last has ended. On an interrupt, ends the children first."""
        running: list[_Running] = []
        waiting, free = list(reversed(jobs)), list(self._slots)
        try:
            with interrupt_on_signals():
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
            # Not truncated: it may hold the last words of an earlier process, and another process may be running.
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
        """Wait up to a second for a message and handle it; returns a run whose process has ended, or None."""
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
        """End runs after their deadline: first with SIGTERM, later with SIGKILL."""
        for one in running:
            late = time.monotonic() - one.started - (self._deadline_s or math.inf)
            if late > 0 and not one.overdue:
                one.overdue = True
                _signal(one.process, signal.SIGTERM)
            elif late > GRACE_S:
                _signal(one.process, signal.SIGKILL)
            if one.process.poll() is not None:
                # Children of a dead run may hold open the pipe that we read.
                with suppress(ProcessLookupError):
                    os.killpg(one.process.pid, signal.SIGKILL)

    def _why(self, one: _Running) -> tuple[str, str]:
        """Status and reason for a process that ended without a report."""
        code, spec = one.process.returncode, one.job.spec
        step = last_step(Path(one.job.results), spec.board, spec.digest())
        kept = "" if step is None else f"; a checkpoint of step {step} of {spec.steps} is kept"
        if one.overdue:
            return "timeout", f"ended after its deadline of {self._deadline_s:g} s{kept}"
        status, reason = ending(code, one.log, one.logged)
        return status, f"{reason}{kept}"


def ending(code: int, log: Path, since: int = 0) -> tuple[Status, str]:
    """Status and reason for a process that ended without a report, from its code and its log after byte `since`."""
    if code < 0:
        memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
        return "lost", f"killed by {signal.Signals(-code).name}{memory}"
    with log.open("rb") as file:
        # The log may be large, because a model can print any amount.
        file.seek(max(since, file.seek(0, 2) - LAST_BYTES))
        said = last_line(file.read().decode(errors="replace"))
    return "error", f"the process ended with exit code {code}" + (f": {said}" if said else "")
