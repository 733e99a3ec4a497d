"""Models that run out of memory, return NaN, raise, hang or end the process: what the row says, what comes next."""

from pathlib import Path

import pytest

from .process import checkpoints, equibench, figures, job, kept_step, records, run, the_record

pytestmark = pytest.mark.slow  # about three minutes of a core, all of them


@pytest.mark.parametrize(
    ("harm", "status", "reason"),
    [
        ("oom-torch", "oom", "the host has no memory left"),
        ("oom-limit", "oom", "the host has no memory left"),
        ("oom-python", "oom", "the host has no memory left"),
        ("raise", "error", "ValueError: this model always fails"),
    ],
)
def test_a_failure_in_training_keeps_the_steps_before_it(
    harm: str, status: str, reason: str, whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIBENCH_FAULT", f"train:30 {harm}")
    one = job(tmp_path)
    code, events = run(one)
    assert code == 0 and events[-1]["status"] == status
    assert the_record(one).status == status and reason in the_record(one).reason and the_record(one).cost is not None
    assert kept_step(one) == 29
    monkeypatch.delenv("EQUIBENCH_FAULT")
    assert run(one.model_copy(update={"attempt": 2}))[0] == 0
    assert figures(max(records(one), key=lambda r: r.attempt)) == whole and not checkpoints(one)


def test_nan_is_a_result_and_leaves_nothing_to_go_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EQUIBENCH_FAULT", "train nan")
    one = job(tmp_path)
    assert run(one)[1][-1]["status"] == "diverged"
    record = the_record(one)
    assert record.results.test_acc_pct == 50.0 and "chance level" in record.reason and not checkpoints(one)
    assert run(one)[1][-1]["status"] == "elsewhere"


@pytest.mark.parametrize(
    ("harm", "status", "words"), [("exit", "error", "exit code 7"), ("hang", "timeout", "ended after its deadline of")]
)
def test_a_process_that_ends_or_hangs_becomes_a_row(
    harm: str, status: str, words: str, patience: float, whole: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIBENCH_FAULT", f"train:20 {harm}")
    one, process = job(tmp_path), equibench(tmp_path, "--deadline", str(patience))
    _, error = process.communicate(timeout=patience + 600)
    record = the_record(one)
    assert process.returncode == 1 and "Traceback" not in error and record.status == status
    assert words in record.reason and f"a checkpoint of step 19 of {one.spec.steps} is kept" in record.reason
    monkeypatch.delenv("EQUIBENCH_FAULT")
    process = equibench(tmp_path)
    assert process.communicate(timeout=900) and process.returncode == 0
    assert figures(max(records(one), key=lambda r: r.attempt)) == whole
