"""One task of a sweep on a node: the run of its number, in a process of its own as everywhere else.

    python -m equibench.bench.runner.slurm.task FOLDER [--calibrate]

The task watches over the run's process: it tells the files of the sweep how far it is, and writes the record of a
process that could not.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from ....registry import UserError, include
from ...records.provenance import Provenance, query_hardware_key
from ...records.size_classes import counts_of, why_not_in
from ...tools.files import WriteError
from ...training.job import Job
from ..admission import looked_at
from ..local import LocalEngine, quiet_end
from ..no_result import provenance_of, write_without_result
from .sweep import Beat, Folder, now, read_sweep

#: Seconds between signs of life.
BEAT_S = 20.0
#: A request to end reaches the run's process too; if it dies of that first, ours is on its way.
_PATIENCE_S = 2.0
STOPPED_CODE = 143


class Heart:
    """Says in the sweep's files that a task is alive, and how far it is.

    Args:
        folder: the sweep.
        index: number of the task.
    """

    def __init__(self, folder: Folder, index: int, job: Job) -> None:
        self._folder, self._index, self.job = folder, index, job
        self._over, self._lock = threading.Event(), threading.Lock()
        self.beat = Beat(
            provenance=_provenance(job),
            job=os.environ.get("SLURM_JOB_ID", ""),
            pid=os.getpid(),
            started=now(),
            restarts=int(os.environ.get("SLURM_RESTART_COUNT") or 0),
            steps=job.spec.steps,
            node=socket.gethostname(),
        )

    def __enter__(self) -> Heart:
        self._write()
        self._thread = threading.Thread(target=self._beat_on, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()
        if not self.beat.ended:
            if isinstance(error, KeyboardInterrupt):
                self.change(ended="stopped", reason="asked to end")
            else:
                self.change(ended="error", reason=f"{kind.__name__}: {error}"[:1000] if kind else "")
        self._write()

    def change(self, **values: Any) -> None:
        with self._lock:
            self.beat = self.beat.model_copy(update=values)

    def listen(self, _: Job, event: dict[str, Any]) -> None:
        """Take in what the run's process says; the next sign of life tells it."""
        if event["event"] == "step":
            self.change(step=event["step"])
        elif event["event"] == "done":
            self.change(ended=event["status"], reason=str(event.get("reason", ""))[:1000])

    def _beat_on(self) -> None:
        while not self._over.wait(BEAT_S):
            self._write()

    def _write(self) -> None:
        try:
            with self._lock:
                self._folder.write_beat(self._index, self.beat)
        except (OSError, UserError) as error:  # a run that can be finished is worth more than a sign of life
            print(f"no sign of life could be written: {error}", file=sys.stderr)


def run_task(folder: Folder, index: int) -> int:
    """Do task `index` of a sweep; returns the exit code."""
    job = folder.job(index)
    if job is None:
        print("this run was finished before; nothing to do")
        return 0
    try:
        with quiet_end(), Heart(folder, index, job) as heart:
            include(job.include)
            obstacle = _obstacle(folder, job)
            if obstacle:
                write_without_result(job, "invalid", obstacle, heart.beat.provenance)
                heart.listen(job, {"event": "done", "status": "invalid", "reason": obstacle})
            else:
                crashed = _crashed(heart)
                LocalEngine([job.device], folder.sweep.deadline_s, crashed).run([job], heart.listen)
    except KeyboardInterrupt:
        print("asked to end", file=sys.stderr)
        return STOPPED_CODE
    # Whatever the run came to stands in its record: to the scheduler the task has done its duty.
    return 0


def _crashed(heart: Heart) -> Callable[[Job, str, str], None]:
    def crashed(job: Job, status: str, reason: str) -> None:
        if status == "lost":
            time.sleep(_PATIENCE_S)
        try:
            write_without_result(job, status, reason, heart.beat.provenance)  # type: ignore[arg-type]
        except WriteError as error:  # the sweep's files may still say it; the run is submitted again
            print(f"equibench: {error}", file=sys.stderr)

    return crashed


def _provenance(job: Job) -> Provenance:
    """Where a run comes from, known before it starts."""
    with suppress(UserError, OSError):  # the run itself will say what is wrong
        include(job.include)
    return provenance_of(job)


def _obstacle(folder: Folder, job: Job) -> str:
    """Why the run must not be made on this node, which the login node could not know; empty if nothing is wrong."""
    key = job.spec.hardware_key
    if key is not None and (here := query_hardware_key(job.device)) != key:
        return (
            f"this node has {here}, and the board belongs to {key}; ask for nodes of that kind with --partition or"
            " --sbatch-option=--constraint=…, or calibrate for this kind with --calibrate"
        )
    suite = folder.sweep.suite
    why = why_not_in(suite, **_counts(job)) if suite.parameter_class == "matched" else ""
    return f"the model {why}" if why else ""


def _counts(job: Job) -> dict[str, int]:
    """What decides the class of the model; empty where it cannot be built, which the run itself will say."""
    seen = looked_at([job.spec.model], job.spec.dataset, job.include)
    return next((counts_of(e) for e in seen if e["event"] == "model"), {})


def calibrate(folder: Folder) -> int:
    """Measure the step times of a sweep with a T budget on this node, and write the jobs of its tasks."""
    from .submit import write_timed_jobs

    include(folder.sweep.include)
    with quiet_end():
        write_timed_jobs(folder)
    return 0


def main() -> int:
    """Do the task that the scheduler's environment names."""
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
    except Exception:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    sys.exit(main())
