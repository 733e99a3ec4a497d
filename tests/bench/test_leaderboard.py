"""From records to tables: which attempt counts, failures as rows, CSVs that are derived."""

import re
from pathlib import Path

import pandas as pd
import pytest
from equibench.bench import leaderboard
from equibench.bench.api import find_board, load_leaderboard
from equibench.bench.budget import find_budget
from equibench.bench.leaderboard import load_board, model_rows, run_rows, write_board
from equibench.bench.record import board_folder, write_record
from equibench.bench.statistics import interval
from equibench.bench.table import board_table
from equibench.registry import UserError

from . import records as made

BOARD = made.spec().board


def put(root: Path, *records) -> None:
    for record in records:
        write_record(root, record)


def test_a_row_a_model_with_mean_and_interval(tmp_path: Path) -> None:
    values = [90.0, 92.0, 91.0]
    put(tmp_path, *(made.record(v, seed=s) for s, v in enumerate(values)))
    put(tmp_path, *(made.record(95.0, seed=s, model="better") for s in range(3)))
    frame = model_rows(load_board(tmp_path, BOARD))
    assert frame["model"].tolist() == ["better", "made-up"]
    row = frame.iloc[1]
    assert row["test_acc_mean_pct"] == 91.0 and row["test_acc_ci95_pct"] == pytest.approx(interval(values))
    assert (row["runs"], row["runs_ok"], row["status"], row["parameters"]) == (3, 3, "ok", 25_000)


def test_below_three_seeds_the_values_are_shown(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0, seed=0), made.record(92.0, seed=1))
    text = board_table(load_board(tmp_path, BOARD))
    assert "90.00, 92.00" in text and "±" not in text


def test_the_first_finished_attempt_counts(tmp_path: Path) -> None:
    put(tmp_path, made.record(None, status="error", attempt=1), made.record(80.0, attempt=2), made.record(99.0, attempt=3))
    board = load_board(tmp_path, BOARD)
    assert model_rows(board).iloc[0]["test_acc_mean_pct"] == 80.0 and board.later == 2


def test_a_failure_is_a_row_with_its_reason(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0, seed=0), made.record(None, status="oom", reason="out of memory", seed=1))
    put(tmp_path, made.record(None, status="error", reason="ValueError: no", model="broken"))
    frame = model_rows(load_board(tmp_path, BOARD))
    assert frame["model"].tolist() == ["made-up", "broken"]
    assert frame.iloc[0][["runs", "runs_ok", "status", "reason"]].tolist() == [2, 1, "oom", "oom: out of memory"]
    text = board_table(load_board(tmp_path, BOARD))
    assert "1/2" in text and "0/1" in text and "ValueError: no" in text


def test_nan_counts_as_chance_level_visibly(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0, seed=0), made.record(10.0, status="nan", reason="no number", seed=1))
    row = model_rows(load_board(tmp_path, BOARD)).iloc[0]
    assert row["test_acc_mean_pct"] == 50.0 and row["status"] == "nan" and row["runs_ok"] == 1


def test_stale_rows_give_way_to_current_ones_and_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = made.record(80.0, attempt=2)
    current = current.model_copy(update={"provenance": current.provenance.model_copy(update={"source_hash": "a" * 16})})
    put(tmp_path, made.record(99.0, attempt=1))
    monkeypatch.setattr(leaderboard, "_source_hash", lambda model: "a" * 16)
    assert model_rows(load_board(tmp_path, BOARD)).iloc[0]["stale"] == "source"
    assert "made-up" in board_table(load_board(tmp_path, BOARD)).split("stale")[-1]
    put(tmp_path, current)
    row = model_rows(load_board(tmp_path, BOARD)).iloc[0]
    assert row["test_acc_mean_pct"] == 80.0 and row["stale"] == ""


def test_csvs_are_numbers_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    put(tmp_path, *(made.record(90.0 + s, seed=s) for s in range(3)))
    put(tmp_path, made.record(None, status="error", reason="=SUM(A1)", model="broken"))
    write_board(tmp_path, BOARD)
    first = {p.name: p.read_bytes() for p in tmp_path.glob("*.csv")}
    assert set(first) == {f"{BOARD}.csv", f"{BOARD}.runs.csv"}
    for path in tmp_path.glob("*.csv"):
        path.unlink()
    write_board(tmp_path, BOARD)
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.csv")} == first
    frame = pd.read_csv(tmp_path / f"{BOARD}.csv")
    assert frame["parameters"].tolist()[0] == 25_000 and frame["test_acc_mean_pct"].dtype == float
    runs = pd.read_csv(tmp_path / f"{BOARD}.runs.csv")
    assert len(runs) == 4 and runs["seed"].dtype == int
    assert not any(str(cell).startswith("=") for cell in runs["reason"])  # no formula for a spreadsheet
    assert b"25000," in first[f"{BOARD}.csv"]  # whole numbers stay whole


def test_a_refused_record_does_not_stop_the_board(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0))
    (board_folder(tmp_path, BOARD) / "not-a-record.json").write_text("{}")
    board = write_board(tmp_path, BOARD)
    assert len(board.chosen) == 1 and "not-a-record.json" in board_table(board)


def test_smoke_runs_are_barred_from_tables(tmp_path: Path) -> None:
    record = made.record(90.0, budget=find_budget("smoke"))
    put(tmp_path, record)
    assert not write_board(tmp_path, record.spec.board).is_table and not list(tmp_path.glob("*.csv"))


def test_boards_are_found_without_their_version(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0))
    assert find_board(BOARD.rpartition("-v")[0], tmp_path) == BOARD
    assert load_leaderboard(BOARD, tmp_path)["model"].tolist() == ["made-up"]
    with pytest.raises(UserError, match="did you mean"):
        find_board(BOARD[:-4] + "x", tmp_path)


def test_the_columns_of_a_run_name_their_units(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0))
    columns = set(run_rows(load_board(tmp_path, BOARD)).columns)
    assert {"test_acc_pct", "train_s", "step_ms", "peak_mib", "phase_total_s", "phase_other_s"} <= columns


@pytest.mark.parametrize(("heading", "rows"), [("## `<board>.csv`", model_rows), ("## `<board>.runs.csv`", run_rows)])
def test_the_documentation_names_every_column_in_order(tmp_path: Path, heading: str, rows) -> None:
    put(tmp_path, made.record(90.0))
    columns = [c for c in rows(load_board(tmp_path, BOARD)).columns if not c.startswith("phase_")]
    section = (Path(__file__).parents[2] / "docs" / "leaderboard.md").read_text().split(heading)[1].split("\n## ")[0]
    if heading == "## `<board>.csv`":
        section = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    named = [c for c in re.findall(r"`([a-z][a-z0-9_]*)`", section) if c in columns]
    assert list(dict.fromkeys(named)) == columns
