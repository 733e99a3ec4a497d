"""The worker process of one run: a clean interpreter that reads a job from standard input.

Standard output carries only events for the parent; the output of a model goes to the log. With ``--attached``,
standard input stays open as long as the parent lives; when it closes, a training ends with a checkpoint. With
``--fork-server SOCKET``, the interpreter is a fork server for such processes, see `runner.fork_server`.
"""

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from .training.job import Check, Events, Examination, Job, Probe, StepTiming  # noqa: E402
from .training.stopping import Stop, Stopped, end_by  # noqa: E402


def main() -> None:
    """Read one job and execute it."""
    # The pipe to the parent gets another file descriptor. Descriptor 1 (standard output) then goes to standard error.
    events = Events(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    text = sys.stdin.readline()
    kind = json.loads(text)["kind"]
    if kind == "run":
        run_job(Job.model_validate_json(text), events, attached="--attached" in sys.argv)
    elif kind == "probe":
        from .training.probe import probe

        probe(Probe.model_validate_json(text), events)
    elif kind == "check":
        from .check.runner import perform

        perform(Check.model_validate_json(text), events)
    elif kind == "doctor":
        from .check.doctor.operations import serve

        serve(Examination.model_validate_json(text), events, sys.stdin)
    else:
        from .training.stopwatch import measure_on_request

        measure_on_request(StepTiming.model_validate_json(text), events, sys.stdin)


def run_job(job: Job, events: Events, attached: bool = False) -> None:
    """Execute a run, unless another process executes it or has finished it. A request to end leaves a checkpoint.

    Args:
        attached: whether standard input is held open by a parent.
    """
    stop, events.needed = Stop(), False
    try:
        stop.listen()
        if attached:
            stop.watch_parent(0)
        _locked(job, events, stop)
    except Stopped as request:
        end_by(request.number)


def _locked(job: Job, events: Events, stop: Stop) -> None:
    from filelock import FileLock, Timeout

    from .records.record import FINAL, attempts_of
    from .records.store import board_folder, lock_path

    root = Path(job.results)
    try:
        with FileLock(lock_path(board_folder(root, job.spec.board), job.spec.digest()), timeout=0):
            finished = [r for r in attempts_of(root, job.spec) if r.status in FINAL and r.attempt >= job.attempt]
            if not finished:
                _measure(job, events, stop)
                return
            warning = ""
            if job.equivariance == "full":
                from ..registry import include
                from .training.full_profile import add_sidecar

                include(job.include)
                warning = add_sidecar(job, finished[0])
            events.send("done", status="elsewhere", warning=warning)
    except Timeout:
        events.send("done", status="busy")


def _measure(job: Job, events: Events, stop: Stop) -> None:
    until_import = time.perf_counter()
    from .training.run import execute

    execute(job, events, STARTED, until_import, stop)


def be_fork_server(control: int) -> None:
    """Be a fork server, see `fork_server.serve`. Returns in its forks, and restarts their clock."""
    global STARTED
    import numpy as np
    import torch

    from .runner.fork_server import serve

    serve(control)
    STARTED = time.perf_counter()
    # As in a new interpreter: unseeded random numbers differ from process to process.
    torch.default_generator.seed()
    np.random.seed()


if __name__ == "__main__":
    if "--fork-server" in sys.argv:
        be_fork_server(int(sys.argv[-1]))
        from .runner.fork_server import call_and_end

        call_and_end(main)
    main()
