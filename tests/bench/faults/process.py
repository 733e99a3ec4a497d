"""Runs as real processes that are interrupted, and what they leave."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from equibench.bench.records.record import Context, RunRecord, read_record
from equibench.bench.records.store import board_folder, checkpoints_of, last_step
from equibench.bench.runner.local import end, events_of, start
from equibench.bench.spec.suite import Suite, plan
from equibench.bench.tools.schema import parse
from equibench.bench.training.job import Job
from equibench.registry import include

HERE = Path(__file__).parent
INCLUDES = [str(HERE.parent / "tiny.py"), str(HERE / "models.py")]
#: A checkpoint after every step.
ALWAYS = 1e-6


def job(root: Path, model: str = "fragile", budget: str = "e20", dataset: str = "bars", **more: object) -> Job:
    include(INCLUDES)
    values = {"name": "faults", "dataset": dataset, "budget": budget, "models": [model], "seeds": 1, "recipe": "common"}
    context = Context(suite="faults", parameter_class="as-published", reference_parameters=None, reference_model=None)
    made = Job(
        spec=plan(parse(Suite, values, "here"))[0], attempt=1, context=context, device="cpu", threads=1,
        results=str(root / "results"), data_root=str(root / "data") if dataset == "bars" else None, include=INCLUDES,
        command="equibench run", checkpoint_s=ALWAYS,
    )  # fmt: skip
    return made.model_copy(update=more)


def begin(one: Job) -> subprocess.Popen:
    """Start the process of a run; its log is the next free ``log.<n>`` beside the results."""
    folder = Path(one.results).parent
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob("log.*")))
    with (folder / f"log.{number}").open("w") as log:
        return start(one, log)


def finish(process: subprocess.Popen) -> list[dict]:
    """All events of a process, and its end."""
    events = list(events_of(process))
    process.wait()
    end(process)
    return events


def run(one: Job) -> tuple[int, list[dict]]:
    """Exit code and events of a whole run."""
    process = begin(one)
    events = finish(process)
    return process.returncode, events


def wait_for(what: Callable[[], object], seconds: float = 600.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def interrupt(one: Job, step: int, number: int) -> int:
    """Start a run, send a signal as soon as a checkpoint of `step` is there; returns the exit code."""
    process = begin(one)
    wait_for(lambda: process.poll() is not None or (kept_step(one) or 0) >= step)
    if process.poll() is None:
        os.kill(process.pid, number)
    finish(process)
    return process.returncode


def kept_step(one: Job) -> int | None:
    return last_step(Path(one.results), one.spec.board, one.spec.digest())


def checkpoints(one: Job) -> list[Path]:
    return checkpoints_of(Path(one.results), one.spec.board, one.spec.digest())


def records(one: Job) -> list[RunRecord]:
    return [read_record(p) for p in sorted(board_folder(Path(one.results), one.spec.board).glob("*.json"))]


def the_record(one: Job) -> RunRecord:
    (record,) = records(one)
    return record


def leftovers(one: Job) -> list[str]:
    """Files under the results that are not finished."""
    return [p.name for p in Path(one.results).rglob("*.part")]


def figures(record: RunRecord) -> tuple:
    """All that must be the same to the bit after an interruption."""
    results = record.results
    assert results is not None
    losses = [(p.step, p.loss, p.lr) for p in record.curve]
    return (
        results.weights_sha256,
        results.test_acc_pct,
        results.val_acc_pct,
        results.init,
        results.trained,
        record.cost,
        losses,
    )


def equibench(
    root: Path, *more: str, models: str = "fragile", budget: str = "e20", seeds: str = "1"
) -> subprocess.Popen:
    """The command line in a process group of its own, as a terminal would start it."""
    command = [
        sys.executable,
        "-m",
        "equibench.bench.cli",
        "run",
        "--dataset",
        "bars",
        "--budget",
        budget,
        "--seeds",
        seeds,
    ]
    command += [
        "--models",
        models,
        "--device",
        "cpu",
        "--results",
        str(root / "results"),
        "--data-root",
        str(root / "data"),
    ]
    for path in INCLUDES:
        command += ["--include", path]
    root.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [*command, "--checkpoint", str(ALWAYS), *more], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip
