"""From records to tables: which attempt counts, failures as rows, CSVs that are derived."""

import io
import re
from pathlib import Path

import equibench
import pandas as pd
import pytest
from equibench.bench.boards.board import Board, find_board, load_board
from equibench.bench.boards.notes import board_notes
from equibench.bench.boards.rows import csv_text, model_rows, run_rows, write_board
from equibench.bench.boards.terminal_table import board_table, narrow_rows
from equibench.bench.cli.options import print_runs
from equibench.bench.publish.payload import payload
from equibench.bench.records import staleness
from equibench.bench.records.record import VARYING, CurvePoint, write_record
from equibench.bench.records.store import board_folder
from equibench.bench.runner.head_to_head import Outcome
from equibench.bench.runner.tune import GRID, write_tuned
from equibench.bench.spec.budget import find_budget
from equibench.bench.spec.recipe import find_recipe
from equibench.bench.spec.suite import Suite, find_suite, plan, tuned_file
from equibench.registry import UserError
from scipy import stats

from .. import made

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
    row, half = frame.iloc[1], stats.t.ppf(0.975, 2) * stats.sem(values)
    assert row["test_acc_mean_pct"] == 91.0 and row["test_acc_ci95_pct"] == pytest.approx(half)
    assert (row["runs"], row["runs_ok"], row["status"], row["parameters"]) == (3, 3, "ok", 25_000)


def test_below_three_seeds_the_values_are_shown(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0, seed=0), made.record(92.0, seed=1))
    text = board_table(load_board(tmp_path, BOARD))
    assert "90.00, 92.00" in text and "±" not in text


def test_the_first_finished_attempt_counts(tmp_path: Path) -> None:
    put(
        tmp_path,
        made.record(None, status="error", attempt=1),
        made.record(80.0, attempt=2),
        made.record(99.0, attempt=3),
    )
    board = load_board(tmp_path, BOARD)
    assert model_rows(board).iloc[0]["test_acc_mean_pct"] == 80.0 and len(board.others) == 2


def test_a_failure_is_a_row_with_its_reason(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0, seed=0), made.record(None, status="oom", reason="out of memory", seed=1))
    put(tmp_path, made.record(None, status="error", reason="ValueError: no", model="broken"))
    frame = model_rows(load_board(tmp_path, BOARD))
    assert frame["model"].tolist() == ["made-up", "broken"]
    assert frame.iloc[0][["runs", "runs_ok", "status", "reason"]].tolist() == [2, 1, "oom", "oom: out of memory"]
    text = board_table(load_board(tmp_path, BOARD))
    assert "1/2" in text and "0/1" in text and "ValueError: no" in text


def test_nan_counts_as_chance_level_visibly(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0, seed=0), made.record(10.0, status="diverged", reason="no number", seed=1))
    row = model_rows(load_board(tmp_path, BOARD)).iloc[0]
    assert row["test_acc_mean_pct"] == 50.0 and row["status"] == "diverged" and row["runs_ok"] == 1


def test_stale_rows_give_way_to_current_ones_and_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    current = made.record(80.0, attempt=2)
    current = current.model_copy(update={"provenance": current.provenance.model_copy(update={"source_hash": "a" * 16})})
    put(tmp_path, made.record(99.0, attempt=1))
    monkeypatch.setattr(staleness, "_source_hash", lambda model: "a" * 16)
    assert model_rows(load_board(tmp_path, BOARD)).iloc[0]["stale"] == "source"
    assert "made-up" in board_table(load_board(tmp_path, BOARD)).split("stale (")[-1]
    put(tmp_path, current)
    row = model_rows(load_board(tmp_path, BOARD)).iloc[0]
    assert row["test_acc_mean_pct"] == 80.0 and row["stale"] == ""


def test_what_was_replaced_does_not_come_back_when_a_row_is_stale_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempt 1 is of an older program; of two attempts of the newer one the first counts."""
    older, newer, later = (f"2026-01-0{day}T00:00:00+00:00" for day in (1, 2, 3))
    put(tmp_path, with_provenance(made.record(60.0, attempt=1), source_hash="0" * 16, started=older))
    put(tmp_path, with_provenance(made.record(90.0, attempt=2), source_hash="1" * 16, started=newer))
    put(tmp_path, with_provenance(made.record(95.0, attempt=3), source_hash="1" * 16, started=later))
    # Of another seed there is the older program alone.
    put(tmp_path, with_provenance(made.record(50.0, seed=1), source_hash="0" * 16, started=older))
    monkeypatch.setattr(staleness, "_source_hash", lambda model: "a" * 16)
    board = load_board(tmp_path, BOARD)
    assert board.values == {"made-up": {0: 90.0}} and board.frame.iloc[0]["stale"] == "source"


def with_provenance(record, **changes):
    return record.model_copy(update={"provenance": record.provenance.model_copy(update=changes)})


def test_a_mean_is_never_of_stale_and_current_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staleness, "_source_hash", lambda model: "a" * 16)
    put(tmp_path, *(made.record(90.0, seed=s) for s in range(3)))
    board = load_board(tmp_path, BOARD)
    assert model_rows(board).iloc[0][["test_acc_mean_pct", "runs", "runs_ok", "stale"]].tolist() == [
        90.0,
        3,
        3,
        "source",
    ]
    put(tmp_path, with_provenance(made.record(70.0, seed=1, attempt=2), source_hash="a" * 16))
    board = load_board(tmp_path, BOARD)
    assert model_rows(board).iloc[0][["test_acc_mean_pct", "runs", "runs_ok", "stale"]].tolist() == [
        70.0,
        3,
        1,
        "source",
    ]
    assert board.values == {"made-up": {1: 70.0}} and len(run_rows(board)) == 3
    # A failure of today's program takes no figures from the one before it, and hides none of its own.
    put(tmp_path, with_provenance(made.record(None, status="error", seed=2, attempt=2), source_hash="a" * 16))
    row = model_rows(load_board(tmp_path, BOARD)).iloc[0]
    assert row[["test_acc_mean_pct", "runs_ok", "status"]].tolist() == [70.0, 1, "ok"], (
        "attempt 1 of seed 2 is finished"
    )


@pytest.mark.parametrize("current", [70.0, 90.0])
def test_of_two_machines_with_the_same_attempt_the_current_program_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, current: float
) -> None:
    monkeypatch.setattr(staleness, "_source_hash", lambda model: "a" * 16)
    for accuracy in (70.0, 90.0):  # one attempt, two files
        source = "a" * 16 if accuracy == current else "b" * 16
        put(tmp_path, with_provenance(made.record(accuracy), source_hash=source))
    row = model_rows(load_board(tmp_path, BOARD)).iloc[0]
    assert row[["test_acc_mean_pct", "stale"]].tolist() == [current, ""]


def sized(record, **changes):
    return record.model_copy(update={"cost": record.cost.model_copy(update=changes)})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"parameters": 482}, "482 and 25,000 parameters"),
        ({"buffers": 11}, "10 and 11 buffers"),
        ({"flops_per_image": 5, "buffers": 0}, "0 and 10 buffers; with 5 and 1,000,000 FLOPs per image"),
    ],
)
def test_no_mean_is_over_different_networks(tmp_path: Path, change: dict[str, int], said: str) -> None:
    put(tmp_path, made.record(90.0, seed=0), sized(made.record(10.0, seed=1), **change))
    put(tmp_path, *(made.record(80.0, seed=s, model="another") for s in range(2)))
    board = load_board(tmp_path, BOARD)
    assert board.values == {"another": {0: 80.0, 1: 80.0}} and board.ranks.get("made-up") is None
    rows = model_rows(board).set_index("model")
    row = rows.loc["made-up"]
    assert row["status"] == "error" and f"the runs of made-up are of different networks, with {said}" in row["reason"]
    measured = [
        c for c in rows.columns if c.startswith(("test_", "val_", "eq_", "train_s", "step_", "param", "flops", "diff"))
    ]
    assert len(measured) > 10 and all(
        v in (None, "") or v != v for v in row[[c for c in measured if c != "parameter_class"]]
    )
    assert rows.loc["another", "test_acc_mean_pct"] == 80.0 and rows.loc["another", "parameters"] == 25_000
    assert sorted(run_rows(board).query("model == 'made-up'")["test_acc_pct"]) == [10.0, 90.0], (
        "nothing measured is lost"
    )
    assert said in board_table(board)


def test_operations_that_vary_are_marked_and_take_no_mean_away(tmp_path: Path) -> None:
    runs = made.record(90.0, seed=0), sized(made.record(80.0, seed=1), flops_per_image=5, uncounted=f"fft, {VARYING}")
    put(tmp_path, *runs)
    board = load_board(tmp_path, BOARD)
    row = model_rows(board).iloc[0]
    assert row["test_acc_mean_pct"] == 85.0 and row["uncounted"] == f"fft, {VARYING}"
    assert "MFLOPs (+)" in board_table(board)


def test_a_failed_run_of_another_size_takes_no_mean_away(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0, seed=0), sized(made.record(10.0, seed=1, status="timeout"), parameters=1))
    assert model_rows(load_board(tmp_path, BOARD)).iloc[0]["test_acc_mean_pct"] == 90.0


def test_a_board_names_what_its_runs_mix_and_nothing_else(tmp_path: Path) -> None:
    one = {
        "commit": "a" * 40,
        "harness_hash": "1" * 16,
        "versions": {"torch": "2.9"},
        "hardware": {"device": "cpu", "cpu": "Xeon"},
    }
    two = {**one, "commit": "b" * 40, "harness_hash": "2" * 16, "versions": {"torch": "2.10"}}
    gpu = {"device": "cuda:0", "cpu": "Xeon", "hardware_key": "H100; 80 GiB"}
    put(tmp_path, with_provenance(made.record(seed=0), **one), with_provenance(made.record(seed=1), **one))
    assert "the runs have" not in board_table(load_board(tmp_path, BOARD))
    put(tmp_path, with_provenance(made.record(seed=2), **two))
    (note,) = [
        line for line in board_table(load_board(tmp_path, BOARD)).splitlines() if line.startswith("the runs have")
    ]
    assert "2 commits (aaaaaaa, bbbbbbb), 2 harness hashes (1111111, 2222222), 2 versions of torch (2.10, 2.9):" in note
    assert "processors" not in note
    put(tmp_path, with_provenance(made.record(seed=3), **{**two, "hardware": gpu}))
    board = load_board(tmp_path, BOARD)
    assert "2 processors (H100; 80 GiB, Xeon)" in board_table(board)
    assert "do not compare times of different processors" in board_table(board)
    runs = run_rows(board).set_index("seed")
    assert runs.loc[3, ["commit", "harness_hash", "machine", "torch"]].tolist() == [
        "b" * 40,
        "2" * 16,
        gpu["hardware_key"],
        "2.10",
    ]
    # Of runs that do not count nothing is said: a failure made by another commit is in no figure.
    failed = made.record(None, status="error", model="failed")
    put(tmp_path, with_provenance(failed, **{**one, "commit": "c" * 40}))
    assert "ccccccc" not in board_table(load_board(tmp_path, BOARD))


def changed_recipe(record, **changes):
    spec = record.spec.model_copy(update={"recipe": record.spec.recipe.model_copy(update=changes)})
    return record.model_copy(update={"spec": spec})


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_seeds_of_two_recipes_are_not_averaged(tmp_path: Path, order: tuple[int, int]) -> None:
    """A tuned rate that is not known here: the newest run decides, not the names of the files."""
    tuned = {"name": "tuned", "trials": 5}
    for seed in range(4):
        for place, lr, accuracy in zip(order, (3e-4, 1e-2), (95.0, 80.0), strict=True):
            record = changed_recipe(made.record(accuracy, seed=seed), lr=lr, **tuned)
            put(tmp_path, with_provenance(record, started=f"2026-01-0{1 + place}T00:00:00+00:00"))
    board = load_board(tmp_path, record.spec.board)
    newest = (95.0, 80.0)[order.index(1)]
    assert set(board.values["made-up"].values()) == {newest}
    assert model_rows(board).iloc[0][["test_acc_mean_pct", "runs_ok", "stale"]].tolist() == [newest, 4, ""]


def test_the_tuned_file_says_which_rate_is_current(tmp_path: Path) -> None:
    records = [
        changed_recipe(made.record(90.0, seed=s, model="p4cnn"), name="tuned", trials=5, lr=lr)
        for s, lr in enumerate((3e-4, 1e-2))
    ]
    put(tmp_path, *records)
    name = records[0].spec.board
    write_tuned(
        tuned_file(tmp_path, name), find_recipe("common"), {"p4cnn": 1e-2}, {"p4cnn": dict.fromkeys(GRID, 50.0)}
    )
    stale = {r.spec.recipe.lr: why for r, why in load_board(tmp_path, name).chosen}
    assert "recipe" in stale[3e-4] and "recipe" not in stale[1e-2]


def test_other_epochs_of_a_published_recipe_make_a_row_stale() -> None:
    spec = plan(Suite(name="s", dataset="digits-rot", budget="published", recipe="paper", models=["p4cnn"], seeds=1))[0]
    record = made.record(90.0).model_copy(update={"spec": spec})
    assert "recipe" not in staleness.staleness(record)
    fewer = record.model_copy(update={"spec": spec.model_copy(update={"steps": spec.steps // 2})})
    assert "recipe" in staleness.staleness(fewer)


def test_trials_of_another_base_recipe_are_stale() -> None:
    common = find_recipe("common").bare
    for rate in (1e-3, 1e-2):
        trial = made.record(90.0, recipe=common.model_copy(update={"name": "tuning", "lr": rate}))
        assert "recipe" not in staleness.staleness(trial)
        assert "recipe" in staleness.staleness(changed_recipe(trial, batch=32))


def test_runs_on_other_data_than_the_newest_are_stale(tmp_path: Path) -> None:
    for seed, digest in enumerate(("a" * 64, "b" * 64, "", "a" * 64)):
        record = made.record(90.0 + seed, seed=seed, dataset="unknown-data")
        put(tmp_path, with_provenance(record, data_digest=digest, started=f"2026-01-0{1 + seed}T00:00:00+00:00"))
    put(tmp_path, with_provenance(made.record(99.0, model="other", dataset="unknown-data"), data_digest="b" * 64))
    board = load_board(tmp_path, record.spec.board)
    assert {(r.spec.model, r.spec.seed) for r, why in board.chosen if why == "data"} == {("made-up", 1), ("other", 0)}
    assert set(board.values["made-up"]) == {0, 2, 3}, "of a run that did not say its data nothing is known"


def test_several_versions_of_torch_and_broken_claims_are_said(tmp_path: Path) -> None:
    facts = {"family": "", "group": "C4", "invariant": "C4", "source": "x", "treatment": ""}
    for seed, version in enumerate(("2.11.0", "2.12.1")):
        put(tmp_path, with_provenance(made.record(90.0, seed=seed), versions={"torch": version}, registered=facts))
    put(tmp_path, with_provenance(made.record(80.0, model="honest"), registered={**facts, "invariant": "none"}))
    text = board_table(load_board(tmp_path, BOARD))
    assert "the runs have 2 versions of torch (2.11.0, 2.12.1)" in text
    assert "made-up claims to be invariant under C4, but its runs contradict this: its logits change by 0.5" in text
    assert "C4 (broken)" in text and "honest claims" not in text


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


def test_smoke_runs_are_barred_from_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = made.record(90.0, budget=find_budget("smoke"))
    put(tmp_path, record)
    board = write_board(tmp_path, record.spec.board)
    assert not board.is_table and not list(tmp_path.glob("*.csv"))
    print_runs(board)
    printed = capsys.readouterr()
    assert printed.out == f"{record.line}\n" and "smoke runs, which are not shown in tables" in printed.err


def test_boards_are_found_without_their_version(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0))
    assert find_board(BOARD.rpartition("-v")[0], tmp_path) == BOARD
    assert equibench.load_board(BOARD, tmp_path).table()["model"].tolist() == ["made-up"]
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
    section = (Path(__file__).parents[3] / "docs" / "leaderboard.md").read_text().split(heading)[1].split("\n## ")[0]
    if heading == "## `<board>.csv`":
        section = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `"))
    named = [c for c in re.findall(r"`([a-z][a-z0-9_]*)`", section) if c in columns]
    assert list(dict.fromkeys(named)) == columns


def diverged(steps: int, **changes):
    """A run that ended after a few steps, in next to no time."""
    record = made.record(50.0, status="diverged", train_s=0.05, **changes)
    point = CurvePoint(step=steps, loss=None, lr=0.01, device_s=0.05)
    return record.model_copy(update={"curve": [point], "results": record.results.model_copy(update={"step_ms": 1.0})})


def test_runs_that_ended_early_enter_no_mean_of_times_steps_and_examples(tmp_path: Path) -> None:
    put(tmp_path, *(made.record(90.0, seed=s, train_s=100.0) for s in range(2)), diverged(5, seed=2))
    board = load_board(tmp_path, BOARD)
    row, steps = model_rows(board).iloc[0], made.spec().steps
    assert row[["runs", "runs_ok", "runs_timed"]].tolist() == [3, 2, 2] and row["test_acc_min_pct"] == 50.0
    assert row[["train_s_mean", "step_ms_mean", "steps", "examples"]].tolist() == [100.0, 8.0, steps, steps * 64]
    runs = run_rows(board).set_index("seed")
    assert runs["steps"].tolist() == [steps, steps, 5] and runs["examples"].tolist() == [steps * 64, steps * 64, 5 * 64]


@pytest.mark.parametrize("status", ["diverged", "error"])
def test_a_model_without_a_completed_run_has_no_times_steps_and_examples(tmp_path: Path, status: str) -> None:
    record = diverged(5) if status == "diverged" else made.record(None, status="error")
    put(tmp_path, record, made.record(90.0, model="other"))
    write_board(tmp_path, BOARD)
    row = pd.read_csv(tmp_path / f"{BOARD}.csv").set_index("model").loc["made-up"]
    empty = ["train_s_mean", "step_ms_mean", "steps", "examples", "eq_rot_analytic"]
    assert row[empty].isna().all() and row["runs_timed"] == 0
    runs = pd.read_csv(tmp_path / f"{BOARD}.runs.csv").set_index("model").loc["made-up"]
    assert runs["steps"] == 5 if status == "diverged" else pd.isna(runs["steps"])


def test_the_page_of_a_board_shows_the_time_of_completed_runs(tmp_path: Path) -> None:
    put(tmp_path, made.record(90.0, train_s=100.0), diverged(5, seed=1), diverged(5, model="other"))
    document = payload(load_board(tmp_path, BOARD), [], [])
    keys = [c["key"] for c in document["columns"]]
    cells = {row[0]: dict(zip(keys, row, strict=True)) for row in document["rows"]}
    assert cells["made-up"]["train_s_mean"] == 100 and cells["made-up"]["examples"] == made.spec().steps * 64
    assert cells["other"]["train_s_mean"] is None and cells["other"]["examples"] is None


def test_what_is_tried_again_is_told_from_what_is_a_result(tmp_path: Path) -> None:
    put(tmp_path, diverged(5), made.record(None, status="error", seed=1), made.record(90.0, seed=2))
    suite = find_suite("quickstart").model_copy(update={"models": ["made-up"], "seeds": 3})
    outcome = Outcome(suite, load_board(tmp_path, BOARD), tmp_path)
    assert outcome.failures("the same command tries again") == [
        "1 run failed; the same command tries again", "1 run diverged; this is a result and is not run again",
    ]  # fmt: skip
    assert Outcome(suite.model_copy(update={"seeds": [0]}), outcome.board, tmp_path).failures("x") == [
        "1 run diverged; this is a result and is not run again"
    ]


@pytest.mark.parametrize("text", ["NA", "null", "None", "nan", "N/A", "<NA>", "NULL", "NaN", "n/a", "#N/A", "1.#IND"])
def test_pandas_takes_no_text_for_a_missing_value(tmp_path: Path, text: str) -> None:
    """For a record with such a model name or such a reason of failure."""
    name = text if text.isalpha() else "made-up"
    put(tmp_path, made.record(None, status="error", reason=text, model=name), made.record(90.0, model="other"))
    write_board(tmp_path, BOARD)
    for path in (tmp_path / f"{BOARD}.csv", tmp_path / f"{BOARD}.runs.csv"):
        frame = pd.read_csv(path)
        texts = frame[["model", "reason"]].iloc[next(i for i, s in enumerate(frame["status"]) if s == "error")].tolist()
        assert not frame["model"].isna().any()
        assert [t.removeprefix("'") for t in texts] in ([name, text], [name, f"error: {text}"])


def test_every_text_that_pandas_takes_for_a_missing_value_is_known() -> None:
    from pandas._libs.parsers import STR_NA_VALUES

    for text in STR_NA_VALUES - {""}:
        (row,) = pd.read_csv(io.StringIO(csv_text(pd.DataFrame({"a": [text]}))))["a"]
        assert row == f"'{text}"


def test_steps_that_wait_for_the_host_are_marked_with_its_processor(tmp_path: Path) -> None:
    """Where the host needs as long for a step as the step takes, another processor would make another step."""
    for model, host_ms in (("small", 7.5), ("large", 2.0), ("on-a-cpu", None)):
        record = made.record(90.0, model=model)
        results = record.results.model_copy(update={"host_ms": host_ms})
        hardware = {"device": "cuda:0", "cpu": f"Processor of {model}", "hardware_key": "GPU"}
        provenance = record.provenance.model_copy(update={"hardware": hardware})
        put(tmp_path, record.model_copy(update={"results": results, "provenance": provenance}))
    board = load_board(tmp_path, BOARD)
    rows = {row["model"]: row for row in board.rows_of(board.frame)}
    assert {m: r["runs_launch_bound"] for m, r in rows.items()} == {"small": 1, "large": 0, "on-a-cpu": 0}
    text = board_table(board)
    (marked,) = [line for line in text.splitlines() if " *" in line and "small" in line and "step ms" not in line]
    assert "8.0 *" in marked and text.count("8.0 *") == 1
    (note,) = [line for line in text.splitlines() if line.startswith("step ms (*)")]
    assert "the host's processor (Processor of small): small" in note and "large" not in note
    assert not any("launches" in note for note in _of_a_readme(board)), "no time is shown there"
    assert run_rows(board).set_index("model")["launch_bound"].to_dict()["small"]


def _of_a_readme(board: Board) -> list[str]:
    return board_notes(board, board.frame, columns=narrow_rows(board, board.frame)[0], bold=True, brief=True)


def test_what_nobody_knows_of_the_company_of_timed_runs_is_said(tmp_path: Path) -> None:
    """Runs that were known to be alone need no word, and runs of equal examples none either."""
    said = []
    for number, alone in enumerate(("yes", "unknown: the driver says nothing", None)):
        record = made.record(90.0, budget=find_budget("t2"), steps=5, hardware_key="GPU")
        hardware = {"device": "cuda:0", "hardware_key": "GPU", **({"alone": alone} if alone else {})}
        record = record.model_copy(update={"provenance": record.provenance.model_copy(update={"hardware": hardware})})
        root = tmp_path / str(number)
        put(root, record)
        board = load_board(root, record.spec.board)
        said.append(
            [
                [n for n in notes if "with other processes" in n]
                for notes in (_of_a_readme(board), board_table(board).splitlines())
            ]
        )
    note = ["it is unknown whether 1 run of 1 shared the GPU with other processes"]
    assert said == [[[], []], [note, note], [note, note]]
    put(tmp_path, made.record(90.0))
    assert "to themselves" not in board_table(load_board(tmp_path, BOARD))
