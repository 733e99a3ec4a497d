"""Real signals to a run's process and to the process that started it, in training, in evaluation and while writing."""

import os
import signal
from pathlib import Path

import pytest

from .process import (
    checkpoints,
    equibench,
    figures,
    job,
    kept_step,
    leftovers,
    records,
    run,
    the_record,
    wait_for,
)

pytestmark = pytest.mark.slow  # about six minutes of a core, all of them
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")


@pytest.mark.parametrize("moment", ["train:17", "evaluate", "rename:pt", "link:outcomes", "link:json"])
@pytest.mark.parametrize("name", SIGNALS)
def test_a_run_that_is_ended_before_its_record_goes_on(
    name: str, moment: str, whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path)
    monkeypatch.setenv("EQUIBENCH_FAULT", f"{moment} {name}")
    assert run(one)[0] == -getattr(signal, name)
    assert not records(one)
    expected = {"train:17": 16 if name == "SIGKILL" else 17, "rename:pt": None if name == "SIGKILL" else 1}
    assert kept_step(one) == expected.get(moment, one.spec.steps)
    monkeypatch.delenv("EQUIBENCH_FAULT")
    code, events = run(one)
    assert code == 0 and figures(the_record(one)) == whole and not checkpoints(one)
    if moment in ("evaluate", "link:outcomes", "link:json"):
        assert not [e for e in events if e["event"] == "step"], "nothing was left to train"


@pytest.mark.parametrize("name", SIGNALS)
def test_a_run_that_is_ended_when_its_record_is_written_is_finished(
    name: str, whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = job(tmp_path)
    monkeypatch.setenv("EQUIBENCH_FAULT", f"remove:json {name}")
    assert run(one)[0] == -getattr(signal, name)
    assert figures(the_record(one)) == whole
    monkeypatch.delenv("EQUIBENCH_FAULT")
    assert run(one)[1][-1]["status"] == "elsewhere" and len(records(one)) == 1
    # The next start also removes what the run had no time to remove.
    assert checkpoints(one)
    process = equibench(tmp_path)
    assert process.communicate(timeout=900) and process.returncode == 0 and not checkpoints(one)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_asking_the_parent_ends_its_runs_with_checkpoints(
    name: str, whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIBENCH_FAULT", "train dawdle")
    one, process = job(tmp_path), equibench(tmp_path)
    wait_for(lambda: (kept_step(one) or 0) >= 5 or process.poll() is not None)
    before = kept_step(one)
    os.killpg(process.pid, getattr(signal, name))  # as a terminal sends Ctrl-C: to the whole group
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "continues with the rest" in error and "Traceback" not in error
    assert not records(one) and not leftovers(one) and not children_in(tmp_path)
    assert kept_step(one) >= before
    monkeypatch.delenv("EQUIBENCH_FAULT")
    process = equibench(tmp_path)
    assert process.communicate(timeout=900) and process.returncode == 0
    assert figures(the_record(one)) == whole and [w for w in the_record(one).warnings if "resumed after step" in w]


def test_a_training_whose_parent_is_killed_ends_with_a_checkpoint(
    whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIBENCH_FAULT", "train dawdle")
    one, process = job(tmp_path), equibench(tmp_path)
    wait_for(lambda: (kept_step(one) or 0) >= 5 or process.poll() is not None)
    process.kill()
    process.communicate()
    wait_for(lambda: not children_in(tmp_path), seconds=30)
    assert not records(one) and kept_step(one) < one.spec.steps
    monkeypatch.delenv("EQUIBENCH_FAULT")
    process = equibench(tmp_path)
    assert process.communicate(timeout=900) and process.returncode == 0 and figures(the_record(one)) == whole


def test_a_finished_training_whose_parent_is_killed_writes_its_record(
    whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIBENCH_FAULT", "evaluate pause")
    one, process = job(tmp_path), equibench(tmp_path)
    wait_for(lambda: kept_step(one) == one.spec.steps or process.poll() is not None)
    process.kill()
    process.communicate()
    wait_for(lambda: not children_in(tmp_path), seconds=60)
    assert figures(the_record(one)) == whole


def test_a_run_that_is_killed_becomes_a_row_and_the_next_start_goes_on(
    whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIBENCH_FAULT", "train:30 SIGKILL")
    one, process = job(tmp_path), equibench(tmp_path, models="fragile,tiny")
    out, error = process.communicate(timeout=900)
    assert process.returncode == 1 and "Traceback" not in error
    lost, other = sorted(records(one), key=lambda r: r.spec.model)
    assert lost.status == "lost" and other.status == "ok" and lost.results is None
    assert "killed by SIGKILL" in lost.reason and f"a checkpoint of step 29 of {one.spec.steps} is kept" in lost.reason
    assert "a checkpoint of step 29" in error and "lost" in out
    monkeypatch.delenv("EQUIBENCH_FAULT")
    process = equibench(tmp_path, models="fragile,tiny")
    assert process.communicate(timeout=900) and process.returncode == 0
    second = next(r for r in records(one) if r.attempt == 2)
    assert figures(second) == whole and len(records(one)) == 3 and not checkpoints(one)


def children_in(folder: Path) -> list[int]:
    """Processes of runs whose current folder this is."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if (
                os.readlink(f"/proc/{pid}/cwd") == str(folder)
                and b"bench.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
            ):
                found.append(int(pid))
        except OSError:
            continue
    return found
