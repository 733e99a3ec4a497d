"""Slurm from outside: what is asked of ``sbatch``, ``squeue`` and ``scancel``. ``sacct`` is never needed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from ....registry import UserError
from ...tools.text import last_line

#: Seconds that the scheduler has for an answer.
ANSWER_S = 60.0
#: Options that a submission sets itself.
_OWN = (
    "--array", "-a", "--job-name", "-J", "--output", "-o", "--chdir", "-D", "--wrap", "--parsable", "--test-only",
    "--wait",
    "-W",
)  # fmt: skip
_LIMIT = re.compile(r"(?:(?P<days>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?P<parts>\d+(?::\d+){0,2}))")


@dataclass(frozen=True)
class Request:
    """What the user asks of the scheduler for every run.

    Attributes:
        gpus: of each run, 0 or 1.
        time_limit: as Slurm writes it: minutes, ``hours:minutes:seconds`` or ``days-hours``; None: the partition's.
        at_once: tasks that may run at the same time; None: as many as fit.
        extra: further options of sbatch as they are; they come last and win.
    """

    partition: str | None = None
    account: str | None = None
    gpus: int = 1
    time_limit: str | None = None
    threads: int = 1
    at_once: int | None = None
    extra: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.gpus not in (0, 1):
            raise UserError(f"--gpus-per-run {self.gpus}: a run uses one GPU; give 1, or 0 for runs on CPUs")
        if self.time_limit is not None:
            parse_time_limit(self.time_limit)
        for option in self.extra:
            if not option.startswith("-"):
                raise UserError(f"--sbatch-option {option!r}: write it as sbatch takes it, as --sbatch-option=--mem=8G")
            if option.split("=")[0] in _OWN or (option[:2] in _OWN and not option.startswith("--")):
                raise UserError(f"--sbatch-option {option!r}: equibench sets {option.split('=')[0]} itself")

    @property
    def limit_s(self) -> float | None:
        return None if self.time_limit is None else parse_time_limit(self.time_limit)

    def options(self) -> list[str]:
        """The options that every job of a sweep gets."""
        options = ["--nodes=1", "--ntasks=1", f"--cpus-per-task={self.threads}", "--requeue"]
        for name, value in (("partition", self.partition), ("account", self.account), ("time", self.time_limit)):
            options += [] if value is None else [f"--{name}={value}"]
        # A GPU that was asked for as a generic resource is given to one job alone.
        options += ["--gres=gpu:1"] if self.gpus else []
        return options + list(self.extra)


def parse_time_limit(text: str) -> float:
    """Seconds of a time limit as Slurm writes it.

    Raises:
        UserError: it is none.
    """
    found = _LIMIT.fullmatch(text)
    if found and found["days"]:
        days, hours, minutes, seconds = (int(found[k] or 0) for k in ("days", "dh", "dm", "ds"))
    elif found:
        parts = [int(p) for p in found["parts"].split(":")]
        days, hours, minutes, seconds = 0, 0, parts[0], parts[1] if len(parts) > 1 else 0
        if len(parts) == 3:
            hours, minutes, seconds = parts
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds if found else 0
    if not total:
        raise UserError(f"--time-limit {text!r}: write minutes, hours:minutes:seconds or days-hours, above zero")
    return float(total)


def script(folder: Path, calibrate: bool = False) -> str:
    """The batch script: the same for all tasks, which know their number from the scheduler.

    It says itself what of the environment matters, because a site may hand none of it on.
    """
    known = {k: v for k, v in sorted(os.environ.items()) if k.startswith("EQUIBENCH_") or k == "PYTHONPATH"}
    lines = ["#!/bin/sh", *(f"export {name}={shlex.quote(value)}" for name, value in known.items())]
    command = [sys.executable, "-P", "-m", "equibench.bench.runner.slurm.task", str(folder)]
    # In place of the shell, so that the scheduler's signals reach the task itself.
    return "\n".join([*lines, f"exec {shlex.join(command + ['--calibrate'] * calibrate)}", ""])


def submit(options: list[str], file: Path) -> str:
    """Submit a batch script; returns the job's number.

    Raises:
        UserError: there is no sbatch here, or it refuses; with its own words.
    """
    command = ["sbatch", "--parsable", *options, str(file)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"sbatch does not answer: {error}") from error
    number = last_line(done.stdout).split(";")[0]
    if done.returncode or not number.isdecimal():
        raise UserError(f"sbatch refused the sweep: {_words(done.stderr) or f'exit code {done.returncode}'}")
    return number


def cancel(job: str) -> None:
    """Take a job out of the queue; what cannot be taken out is left."""
    try:
        subprocess.run(["scancel", job], capture_output=True, timeout=ANSWER_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return


def _words(stderr: str) -> str:
    """What a tool of Slurm complains about, as one line."""
    lines = (re.sub(r"^\w+: (?:error|fatal): ", "", line.strip()) for line in stderr.splitlines())
    return "; ".join(dict.fromkeys(line for line in lines if line))


@dataclass(frozen=True)
class Listed:
    """A task in the queue, with the scheduler's word for its state and its reason for not starting it."""

    state: str
    reason: str

    @property
    def waits(self) -> bool:
        return self.state in ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")


@dataclass(frozen=True)
class Queue:
    """What squeue answered.

    Attributes:
        tasks: by name of the job and number in the array; a job that is no array has the number None.
        silence: why there is no answer; None if there is one.
    """

    tasks: dict[tuple[str, int | None], Listed]
    silence: str | None = None


def ask_queue(job_names: list[str]) -> Queue:
    """Everything of these names that waits or runs. Asked by name: numbers that squeue has forgotten are an error."""
    if not job_names:
        return Queue({})
    command = ["squeue", "--noheader", "--array", "--format=%j|%K|%T|%r", f"--name={','.join(job_names)}"]
    # A user's own filters would hide jobs.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_S, stdin=subprocess.DEVNULL, env=environment
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Queue({}, "there is no squeue here" if isinstance(error, FileNotFoundError) else str(error))
    if done.returncode:
        return Queue({}, _words(done.stderr) or f"squeue ended with exit code {done.returncode}")
    return Queue(dict(_entry(line) for line in done.stdout.splitlines() if line.count("|") >= 3))


def _entry(line: str) -> tuple[tuple[str, int | None], Listed]:
    name, index, state, reason = line.strip().split("|", 3)
    return (name, int(index) if index.isdecimal() else None), Listed(state, reason)
