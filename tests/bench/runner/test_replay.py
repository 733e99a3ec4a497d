"""Replays: the same bits on the same machine, the same bits or an interval elsewhere, a verdict either way."""

import json
from pathlib import Path

import pytest
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import model_rows
from equibench.bench.boards.statistics import prediction_interval
from equibench.bench.records.find import find_run
from equibench.bench.records.provenance import cpu_name, hardware, versions
from equibench.bench.records.record import RunRecord, read_record, write_record
from equibench.bench.records.sidecar import read_verdicts
from equibench.bench.runner import admission
from equibench.bench.runner.replay import differences_now, judge, replay
from equibench.bench.spec.budget import find_budget
from equibench.registry import UserError

from .. import made
from ..training.test_run import TINY, equibench, head_to_head

SEEDS = [90.0, 91.0, 92.0, 90.5]


def here(record: RunRecord, **changes) -> RunRecord:
    """A made-up record as if it had been made on this machine."""
    facts = {"versions": versions(), "hardware": {"device": "cpu", "cpu": cpu_name()}, **changes}
    return record.model_copy(update={"provenance": record.provenance.model_copy(update=facts)})


def with_weights(record: RunRecord, digest: str) -> RunRecord:
    return record.model_copy(update={"results": record.results.model_copy(update={"weights_sha256": digest})})


def test_a_run_on_the_same_machine_is_the_same_to_the_bit(tmp_path: Path) -> None:
    assert head_to_head(tmp_path, "tiny").returncode == 0
    root = tmp_path / "results"
    (path,) = (root / "runs").glob("*/*.json")
    run, board = path.name.split(".")[0], path.parent.name
    from equibench.registry import include

    include([TINY])
    before = model_rows(load_board(root, board)).to_json()
    shared = ("--include", str(TINY), "--results", str(root), "--data-root", str(tmp_path / "data"), "--json")
    result = equibench("replay", run[:8], *shared, cwd=tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    verdict = json.loads(result.stdout)
    assert verdict["agrees"] and verdict["rule"] == "bit-exact" and verdict["differences"] == []
    assert verdict["again"] == f"{run}.2" and verdict["recorded"] == verdict["replayed"]
    ((kept,), refused) = read_verdicts(root, board)
    assert not refused and json.loads(kept.canonical()) == verdict and kept.run == f"{run}.1"
    # The new attempt is a record, and the board is as it was.
    assert len(list((root / "runs").glob("*/*.json"))) == 2
    assert model_rows(load_board(root, board)).to_json() == before
    assert read_record(path).attempt == 1
    # Another number of threads: bits may differ, and one seed gives no interval. Refused before anything is trained.
    result = equibench("replay", run[:8], "--threads", "2", *shared, cwd=tmp_path)
    assert result.returncode == 2 and "cannot be judged" in result.stderr and "1 threads then, 2 now" in result.stderr
    assert len(list((root / "runs").glob("*/*.json"))) == 2


def test_other_weights_on_the_same_machine_are_no_agreement() -> None:
    record = here(made.record(90.0))
    assert differences_now(record, "cpu", 1) == []
    assert judge(record, record, "", [], SEEDS).agrees
    verdict = judge(record, with_weights(record, "1" * 64), "", [], SEEDS)
    assert not verdict.agrees and verdict.rule == "bit-exact"


@pytest.mark.parametrize(
    ("changes", "device", "threads", "word"),
    [
        ({"versions": {**versions(), "torch": "1.0"}}, "cpu", 1, "torch 1.0 then"),
        ({"hardware": {"device": "cpu", "cpu": "Another"}}, "cpu", 1, "processor Another then"),
        ({"hardware": {"device": "cuda:0", "cpu": cpu_name()}}, "cpu", 1, "guaranteed only on a CPU"),
        ({}, "cuda:0", 1, "guaranteed only on a CPU"),
        ({}, "cpu", 3, "1 threads then, 3 now"),
    ],
)
def test_what_differs_is_named_and_an_interval_decides(changes: dict, device: str, threads: int, word: str) -> None:
    record = here(made.record(90.0), **changes)
    differences = differences_now(record, device, threads)
    assert len(differences) == 1 and word in differences[0]
    low, high = prediction_interval(SEEDS)
    for accuracy, agrees in ((low + 0.01, True), (high - 0.01, True), (low - 0.01, False), (high + 0.01, False)):
        verdict = judge(record, with_weights(made.record(accuracy), "1" * 64), "", differences, SEEDS)
        assert verdict.agrees == agrees and verdict.rule == "interval"
    # Equal bits agree on every device, also if the result is far from all other seeds.
    for values in (SEEDS, [10.0, 11.0, 12.0], []):
        verdict = judge(record, made.record(90.0), "", differences, values)
        assert verdict.agrees and verdict.rule == "bit-exact" and "to the bit" in verdict.why and verdict.low is None
        assert verdict.differences == differences


def test_the_same_weights_that_score_otherwise_are_not_the_same_to_the_bit() -> None:
    record = made.record(90.0)
    again = made.record(89.9)
    assert record.results.weights_sha256 == again.results.weights_sha256
    verdict = judge(record, again, "", ["another device"], SEEDS)
    assert verdict.agrees and verdict.rule == "interval"
    verdict = judge(record, made.record(50.0), "", ["another device"], SEEDS)
    assert not verdict.agrees and verdict.rule == "interval"


def test_seeds_without_spread_leave_room_for_one_image() -> None:
    record = made.record(90.0)
    one = 100 / record.results.test_images
    for accuracy, agrees in ((90 + 0.9 * one, True), (90 + 1.1 * one, False)):
        assert (
            judge(record, with_weights(made.record(accuracy), "1" * 64), "", ["something"], [90.0] * 3).agrees == agrees
        )


def test_a_failed_attempt_or_another_source_is_no_agreement() -> None:
    record = made.record(90.0)
    assert not judge(record, made.record(None, status="oom"), "out of memory", [], SEEDS).agrees
    assert "lost" in judge(record, None, "lost: killed", [], SEEDS).why
    other = record.model_copy(update={"provenance": record.provenance.model_copy(update={"source_hash": "other"})})
    assert "source changed" in judge(record, other, "", [], SEEDS).why


def test_a_run_is_found_by_its_beginning_and_the_attempt_that_counts(tmp_path: Path) -> None:
    first, second = made.record(None, status="error", attempt=1), made.record(90.0, attempt=2)
    for record in (first, second, made.record(91.0, attempt=3), made.record(92.0, seed=1)):
        write_record(tmp_path, record)
    assert find_run(second.run_id[:6], tmp_path).attempt == 2
    with pytest.raises(UserError, match="matches no runs"):
        find_run("zzzz", tmp_path)
    for short in ("", second.run_id[0]):
        with pytest.raises(UserError, match="at least 2 characters"):
            find_run(short, tmp_path)
    assert find_run(second.run_id[:2], tmp_path).attempt == 2
    assert [find_run(f"{second.spec.digest()}.{n}", tmp_path).attempt for n in (1, 2, 3)] == [1, 2, 3]
    write_record(tmp_path, made.record(93.0, attempt=11))
    assert find_run(f"{second.spec.digest()}.1", tmp_path).attempt == 1, "and not 11"


def test_device_seconds_are_not_repeated_on_another_kind_of_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempt would end as drifted, and the verdict would say that a right figure was not confirmed.

    The key is asked in this process: `test_provenance` asks it in a process of its own, which gives the same key.
    """
    runs = [
        here(made.record(90.0 + seed, seed=seed, budget=find_budget("t10"), steps=5, hardware_key="GPU", train_s=10.0))
        for seed in range(3)
    ]
    for record in runs:
        write_record(tmp_path, record)
    monkeypatch.setattr("equibench.bench.runner.replay.refuse_replay", lambda _: None)
    monkeypatch.setattr(admission, "query_hardware_key", lambda device: hardware(device)["hardware_key"])
    with pytest.raises(UserError, match=r"belongs to 'GPU', but this device is '.*; torch"):
        replay(runs[0].run_id, tmp_path, device="cpu")
    assert len(list((tmp_path / "runs").rglob("*.json"))) == len(runs)


def test_stale_runs_and_failures_are_refused(tmp_path: Path) -> None:
    stale = made.record(90.0, model="p4cnn")  # its hash is not that of the registered source
    failed = made.record(None, status="oom", model="broken")
    for record in (stale, failed):
        write_record(tmp_path, record)
    with pytest.raises(UserError, match="is stale: source"):
        replay(stale.run_id, tmp_path)
    with pytest.raises(UserError, match="ended as 'oom'"):
        replay(failed.run_id, tmp_path)
