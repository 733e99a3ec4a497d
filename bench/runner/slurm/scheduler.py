"""Calls of Slurm's commands ``sbatch``, ``squeue`` and ``scancel``. ``sacct`` is not needed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ....registry import UserError
from ...tools.text import last_line

#: Seconds that we wait for an answer of the scheduler.
ANSWER_S = 60.0
#: Options that a submission sets itself.
_OWN = (
    "--array", "-a", "--job-name", "-J", "--output", "-o", "--chdir", "-D", "--wrap", "--parsable", "--test-only",
    "--wait", "-W",
)  # fmt: skip
_LIMIT = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class Request:
    """The user's options for the scheduler, for every run.

    Attributes:
        gpus: of each run, 0 or 1.
        time_limit: see `parse_time_limit`; None for the partition's.
        extra: further options of sbatch. They come last, so they override others.
    """

    partition: str | None = None
    account: str | None = None
    gpus: int = 1
    time_limit: str | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.gpus not in (0, 1):
            raise UserError(f"--gpus-per-run {self.gpus}: a run uses one GPU; give 1, or 0 for runs on CPUs")
        if self.time_limit is not None:
            parse_time_limit(self.time_limit)
        for option in self.extra:
            if not option.startswith("-"):
                raise UserError(f"--sbatch-option {option!r}: write the option of sbatch, as --sbatch-option=--mem=8G")
            if option.split("=")[0] in _OWN or (option[:2] in _OWN and not option.startswith("--")):
                raise UserError(f"--sbatch-option {option!r}: equibench sets {option.split('=')[0]} itself")

    @property
    def limit_s(self) -> float | None:
        return None if self.time_limit is None else parse_time_limit(self.time_limit)

    def options(self, threads: int) -> list[str]:
        """The options of sbatch for every job of a sweep, whose processes have so many threads."""
        options = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={threads}", "--requeue"]
        for name, value in (("partition", self.partition), ("account", self.account), ("time", self.time_limit)):
            options += [] if value is None else [f"--{name}={value}"]
        # Slurm gives a GPU that is requested as a generic resource to one job only.
        options += ["--gres=gpu:1"] if self.gpus else []
        return options + list(self.extra)


def parse_time_limit(text: str) -> float:
    """A time limit in Slurm's format (minutes, ``hours:minutes:seconds`` or ``days-hours``), in seconds."""
    total = 0
    if found := _LIMIT.fullmatch(text):
        parts = [int(part) for part in found["parts"].split(":")]
        # After days, the first number is hours; otherwise, one or two numbers are minutes and seconds.
        units = (3600, 60, 1) if found["days"] or len(parts) == 3 else (60, 1)
        total = 86_400 * int(found["days"] or 0) + sum(part * unit for part, unit in zip(parts, units, strict=False))
    if not total:
        raise UserError(f"--time-limit {text!r}: write minutes, hours:minutes:seconds or days-hours, above zero")
    return float(total)


def script(folder: Path, calibrate: bool = False) -> str:
    """The batch script, the same for all tasks: they get their number from the scheduler."""
    # Some clusters pass no environment variables to jobs.
    known = {k: v for k, v in sorted(os.environ.items()) if k.startswith("EQUIBENCH_") or k == "PYTHONPATH"}
    lines = ["#!/bin/sh", *(f"export {name}={shlex.quote(value)}" for name, value in known.items())]
    command = [sys.executable, "-P", "-m", "equibench.bench.runner.slurm.task", str(folder)]
    # `exec` replaces the shell, so the scheduler's signals reach the task itself.
    return "\n".join([*lines, f"exec {shlex.join(command + ['--calibrate'] * calibrate)}", ""])


def submit(options: list[str], file: Path) -> str:
    """Submit a batch script; returns the number of the job, or raises a `UserError` that quotes sbatch."""
    try:
        done = _call(["sbatch", "--parsable", *options, str(file)])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"sbatch does not answer: {error}") from error
    number = last_line(done.stdout).split(";")[0]
    if done.returncode or not number.isdecimal():
        raise UserError(f"sbatch refused the sweep: {_words(done.stderr) or f'exit code {done.returncode}'}")
    return number


def cancel(job: str) -> None:
    """Remove a job from the queue; errors are ignored."""
    with suppress(OSError, subprocess.TimeoutExpired):
        _call(["scancel", job])


def _call(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Call a command of Slurm, without variables that may hold filters of the user which hide jobs."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=ANSWER_S, stdin=subprocess.DEVNULL,
        env=environment,
    )  # fmt: skip


def _words(stderr: str) -> str:
    """Error messages of a Slurm command as one line."""
    lines = (re.sub(r"^\w+: (?:error|fatal): ", "", line.strip()) for line in stderr.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))


@dataclass(frozen=True)
class QueuedTask:
    """A task in the queue: its state in Slurm's words, and Slurm's reason why it has not started."""

    state: str
    reason: str

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


@dataclass(frozen=True)
class Queue:
    """The answer of squeue.

    Attributes:
        tasks: by name of the job and number in the array; the number is None for a job that is not an array.
        silence: the reason why squeue did not answer; None if it did.
    """

    tasks: dict[tuple[str, int | None], QueuedTask]
    silence: str | None = None


def ask_queue(job_names: list[str]) -> Queue:
    """All waiting and running tasks of jobs with these names. Names, because squeue refuses numbers of old jobs."""
    if not job_names:
        return Queue({})
    command = ["squeue", "--noheader", "--array", "--format=%j|%K|%T|%r", f"--name={','.join(job_names)}"]
    try:
        done = _call(command)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Queue({}, "there is no squeue here" if isinstance(error, FileNotFoundError) else str(error))
    if done.returncode:
        return Queue({}, _words(done.stderr) or f"squeue ended with exit code {done.returncode}")
    tasks: dict[tuple[str, int | None], QueuedTask] = {}
    for line in done.stdout.splitlines():
        if line.count("|") >= 3:
            name, index, state, reason = line.strip().split("|", 3)
            tasks[name, int(index) if index.isdecimal() else None] = QueuedTask(state, reason)
    return Queue(tasks)
