"""Repeats: what another host confirms, what it contradicts, and what nobody can say."""

import random
from pathlib import Path
from typing import Any

import pytest
from equibench.bench.boards import repeats
from equibench.bench.boards.board import Board, load_board
from equibench.bench.boards.repeats import agreement, judge_repeats, repeats_text
from equibench.bench.boards.rows import model_rows, write_board
from equibench.bench.boards.statistics import prediction_interval
from equibench.bench.boards.terminal_table import board_table
from equibench.bench.exchange.merge import merge
from equibench.bench.records.provenance import host_facts, host_id
from equibench.bench.records.record import RunRecord, write_record

from .. import made

SEEDS = [90.0, 91.0, 92.0, 90.5]
A, B, C = "a" * 16, "b" * 16, "c" * 16
BOARD = made.spec().board


def on(host: str, accuracy: float = 90.0, weights: str = "0", cpu: str = "", **changes: Any) -> RunRecord:
    """A record of a host; every host has a processor of its own unless one is given."""
    record = made.record(accuracy, **changes)
    hardware = {"device": "cpu", "cpu": cpu or f"processor of {host}"} | ({"host": host} if host else {})
    provenance = record.provenance.model_copy(update={"hardware": hardware})
    results = record.results.model_copy(update={"weights_sha256": weights * 64})
    return record.model_copy(update={"provenance": provenance, "results": results})


def words(root: Path, *records: RunRecord) -> str:
    """The mark of the row of a model with four seeds on host A, of which some runs were repeated."""
    for seed, accuracy in enumerate(SEEDS):
        write_record(root, on(A, accuracy, seed=seed))
    for record in records:
        write_record(root, record)
    row = model_rows(load_board(root, BOARD)).iloc[0]
    assert row["test_acc_mean_pct"] == pytest.approx(sum(SEEDS) / 4), "a repeat changes no figure"
    return str(row["repeated"])


def again(seed: int, host: str = B, accuracy: float | None = None, attempt: int = 2, **changes: Any) -> RunRecord:
    return on(host, SEEDS[seed] if accuracy is None else accuracy, seed=seed, attempt=attempt, **changes)


LOW, HIGH = prediction_interval(SEEDS)


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], ""),
        ([again(s) for s in range(4)], "repeated on 1 other host, bit for bit"),
        ([again(1)], "1 of 4 runs repeated on 1 other host, bit for bit"),
        ([again(1), again(1, C, attempt=3), again(2)], "2 of 4 runs repeated on 1 other host, bit for bit"),
        ([again(1), again(1, C, attempt=3)], "1 of 4 runs repeated on 2 other hosts, bit for bit"),
        ([again(1), again(1, B, attempt=3)], "1 of 4 runs repeated on 1 other host, bit for bit"),
        ([again(1, accuracy=LOW + 0.01, weights="1")], "1 of 4 runs repeated on 1 other host, within the interval"),
        ([again(1, accuracy=HIGH + 0.1, weights="1")], "repeats disagree (seed 1)"),
        ([again(1, accuracy=HIGH + 5, weights="1"), again(3, accuracy=LOW - 5, weights="1"), again(0)],
         "repeats disagree (seeds 1, 3)"),
        ([again(1, A)], ""),  # the same host confirms nothing
        ([again(1, "")], ""),  # an unknown host does not count either
        ([again(1, A, weights="1")], "repeats disagree (seed 1)"),  # but it may contradict
        ([again(1, B, cpu=f"processor of {A}", weights="1")], "repeats disagree (seed 1)"),  # nothing differs
        ([again(1, "vm")], ""),  # older records have names, which tell no hosts apart
    ],
)  # fmt: skip
def test_the_mark_of_a_row(tmp_path: Path, records: list[RunRecord], expected: str) -> None:
    assert words(tmp_path, *records) == expected


def test_other_programs_data_failures_and_seeds_are_no_repeats(tmp_path: Path) -> None:
    other = again(1, weights="1", accuracy=10.0)

    def made_from(**facts: str) -> RunRecord:
        facts = {"started": "2025-01-01T00:00:00+00:00", **facts}  # before the runs that count
        return other.model_copy(update={"provenance": other.provenance.model_copy(update=facts)})

    assert words(tmp_path / "same", made_from()) == "repeats disagree (seed 1)"
    others = [made_from(source_hash="1" * 16), made_from(data_digest="2" * 64)]
    assert words(tmp_path / "other", *others, made.record(None, status="oom", attempt=3, seed=1)) == ""


def test_too_few_seeds_to_judge(tmp_path: Path) -> None:
    for record in (on(A), on(B, 95.0, weights="1", attempt=2)):
        write_record(tmp_path, record)
    assert model_rows(load_board(tmp_path, BOARD)).iloc[0]["repeated"].endswith("too few seeds to judge")


def test_what_clones_on_other_hosts_repeated_is_said_in_every_output(tmp_path: Path) -> None:
    for seed, accuracy in enumerate(SEEDS):
        write_record(tmp_path / "ours", on(A, accuracy, seed=seed))
        write_record(tmp_path / "theirs", on(B, accuracy if seed else 60.0, weights="1", seed=seed))
    alone = write_board(tmp_path / "ours", BOARD)
    assert "repeat" not in board_table(alone)
    merge([tmp_path / "theirs"], tmp_path / "ours")
    board = load_board(tmp_path / "ours", BOARD)
    assert board.values == alone.values
    text = board_table(board)
    assert (
        "ok (repeats disagree (seed 0))" in text and "made-up seed 0: a repeat disagrees: 60.00 % lies outside" in text
    )
    assert "repeats disagree (seed 0)" in (tmp_path / "ours" / f"{BOARD}.csv").read_text()


def _rows(random_: random.Random, count: int, shift: float, family: int | None = None) -> float:
    """Share of rows of five seeds, all repeated on another host, that are said to disagree."""
    first, second = [on(A, seed=s) for s in range(5)], [on(B, seed=s) for s in range(5)]

    def drawn(record: RunRecord, weights: str, shift: float = 0.0) -> RunRecord:
        update = {"test_acc_pct": 90 + random_.gauss(shift, 1.0), "weights_sha256": weights * 64}
        return record.model_copy(update={"results": record.results.model_copy(update=update)})

    wrong = 0
    for _ in range(count):
        chosen = [drawn(r, "1") for r in first]
        board = Board(BOARD, chosen=[(r, "") for r in chosen])
        board.repeats = {r.file_name: [drawn(a, "2", shift)] for r, a in zip(chosen, second, strict=True)}
        if family is None:
            wrong += bool(judge_repeats(board, "made-up").disagree)
        else:
            values = list(board.values["made-up"].values())
            found = [agreement(r, board.repeats[r.file_name][0], ["x"], values, family) for r in chosen]
            wrong += any(not f.agrees for f in found)
    return wrong / count


def test_a_row_of_honest_repeats_is_said_to_disagree_at_most_once_in_twenty() -> None:
    """Five intervals of 95 % would be wrong much more often; what is far off is found all the same."""
    count = 500
    assert _rows(random.Random(1), count, 0.0) < repeats.LEVEL + 3 * (0.05 * 0.95 / count) ** 0.5
    assert _rows(random.Random(1), count, 0.0, family=1) > 0.1
    assert _rows(random.Random(2), 100, 12.0) > 0.9


def test_hosts_are_told_apart_without_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import platform
    import socket

    from equibench.bench.records import provenance

    monkeypatch.delenv("EQUIBENCH_HOST", raising=False)
    files = [tmp_path / "machine-id", tmp_path / "dbus"]
    monkeypatch.setattr(provenance, "_MACHINE_IDS", files)
    assert host_id() == "" and "host" not in host_facts("cpu")
    seen = set()
    for number in ("0123456789abcdef" * 2, "f" * 32):
        files[1].write_text(f"{number}\n")
        seen.add(host_id())
        assert host_id() not in number and len(host_id()) == 16
    files[0].write_text("uninitialized\n")
    assert host_id() in seen and len(seen) == 2
    monkeypatch.setenv("EQUIBENCH_HOST", "pod 7 of my cluster")
    assert host_id() not in seen and host_facts("cpu")["host"] == host_id()
    for name in (socket.gethostname(), platform.node()):
        assert name not in host_facts("cpu").values()


def test_the_mark_is_made_in_one_place() -> None:
    found = repeats.RepeatsSummary(4, {0: 1, 1: 3, 2: 1, 3: 2}, False, [], {})
    assert repeats_text(found) == "repeated on 1 other host, within the interval"
