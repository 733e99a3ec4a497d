"""One task of a sweep on a node of the cluster. It executes one run in a process of its own.

    python -m equibench.bench.runner.slurm.task FOLDER [--calibrate]

The task supervises the run's process. It writes the progress to the files of the sweep. If the process dies without a
record, the task writes one.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ....registry import UserError, include
from ...records.provenance import query_hardware_key
from ...records.size_classes import why_not_in
from ...tools.files import WriteError
from ...tools.text import error_line
from ...training.job import Job
from ..admission import probe_models
from ..local import LocalEngine, interrupt_on_signals
from ..no_result import provenance_of, write_without_result
from .sweep import Folder, Heartbeat, read_sweep

#: Seconds between two heartbeats.
HEARTBEAT_S = 20.0
#: Seconds to wait for a signal of the scheduler: the same signal may have ended the run's process first.
_PATIENCE_S = 2.0
#: Exit code after SIGTERM.
STOPPED_CODE = 143


class HeartbeatWriter:
    """Writes heartbeats of task `index`, with its progress, to the files of the sweep."""

    def __init__(self, folder: Folder, index: int, job: Job) -> None:
        self._folder, self._index, self.job = folder, index, job
        self._over, self._lock = threading.Event(), threading.Lock()
        with suppress(UserError, OSError):  # the run itself will report the error
            include(job.include)
        restarts = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        self.heartbeat = Heartbeat(
            provenance=provenance_of(job), job=os.environ.get("SLURM_JOB_ID", ""), pid=os.getpid(), started=time.time(),
            restarts=restarts, steps=job.spec.steps, node=socket.gethostname(),
        )  # fmt: skip

    def __enter__(self) -> HeartbeatWriter:
        self._write()
        self._thread = threading.Thread(target=self._write_regularly, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if not self.heartbeat.ended:
            if isinstance(error, KeyboardInterrupt):
                self.change(ended="stopped", reason="asked to end")
            else:
                self.change(ended="error", reason=error_line(error)[:1000] if error else "")
        self._write()

    def change(self, **values: Any) -> None:
        with self._lock:
            self.heartbeat = self.heartbeat.model_copy(update=values)

    def listen(self, _: Job, event: dict[str, Any]) -> None:
        """Take over the progress of the run's process into the next heartbeat."""
        if event["event"] == "step":
            self.change(step=event["step"])
        elif event["event"] == "done":
            self.change(ended=event["status"], reason=str(event.get("reason", ""))[:1000])

    def crashed(self, job: Job, status: str, reason: str) -> None:
        """Write the record of a run whose process has died."""
        if status == "lost":
            time.sleep(_PATIENCE_S)
        try:
            write_without_result(job, status, reason, self.heartbeat.provenance)  # type: ignore[arg-type]
        except WriteError as error:  # the run stays without a record and can be submitted again
            print(f"equibench: {error}", file=sys.stderr)

    def _write_regularly(self) -> None:
        while not self._over.wait(HEARTBEAT_S):
            self._write()

    def _write(self) -> None:
        try:
            with self._lock:
                self._folder.write_heartbeat(self._index, self.heartbeat)
        except (OSError, UserError) as error:  # the run continues without heartbeats
            print(f"no heartbeat could be written: {error}", file=sys.stderr)


def run_task(folder: Folder, index: int) -> int:
    """Execute task `index` of a sweep; returns the exit code."""
    job = folder.job(index)
    if job is None:
        print("this run was finished before; nothing to do")
        return 0
    try:
        with interrupt_on_signals(), HeartbeatWriter(folder, index, job) as writer:
            include(job.include)
            obstacle = _obstacle(folder, job)
            if obstacle:
                write_without_result(job, "invalid", obstacle, writer.heartbeat.provenance)
                writer.listen(job, {"event": "done", "status": "invalid", "reason": obstacle})
            else:
                LocalEngine([job.device], folder.sweep.deadline_s, writer.crashed).run([job], writer.listen)
    except KeyboardInterrupt:
        print("asked to end", file=sys.stderr)
        return STOPPED_CODE
    # The record holds the result, also of a failed run. For the scheduler, the task has succeeded.
    return 0


def _obstacle(folder: Folder, job: Job) -> str:
    """Why the run must not be made on this node; empty if it may. The login node could not check this."""
    key = job.spec.hardware_key
    if key is not None and (here := query_hardware_key(job.device)) != key:
        return (
            f"this node has {here}, but the board belongs to {key}; request nodes of that kind with --partition or"
            " --sbatch-option=--constraint=…, or calibrate for this kind with --calibrate"
        )
    if folder.sweep.suite.parameter_class != "matched":
        return ""
    seen = probe_models([job.spec.model], job.spec.dataset, job.include)
    event = next((e for e in seen if e["event"] == "model"), None)  # its run reports if it cannot be built
    why = why_not_in(folder.sweep.suite, event)
    return f"the model {why}" if why else ""


def calibrate(folder: Folder) -> int:
    """Measure the step times of a sweep with a T budget on this node, and write the jobs of its tasks."""
    from .submit import write_timed_jobs

    include(folder.sweep.include)
    with interrupt_on_signals():
        write_timed_jobs(folder)
    return 0


def main() -> int:
    """Execute the task whose number is in the scheduler's environment variables."""
    path = Path(sys.argv[1])
    try:
        folder = read_sweep(path)
        if "--calibrate" in sys.argv[2:]:
            return calibrate(folder)
        return run_task(folder, int(os.environ["SLURM_ARRAY_TASK_ID"]))
    except UserError as error:
        print(f"equibench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return STOPPED_CODE


if __name__ == "__main__":
    sys.exit(main())
