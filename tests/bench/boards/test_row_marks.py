"""Every mark of a row reaches every output, in the same words, and legends are of the columns that are there."""

import csv
import io
import re
from pathlib import Path

import pytest
from equibench.bench.boards.board import Board, load_board
from equibench.bench.boards.notes import board_notes, is_missing
from equibench.bench.boards.row_marks import Mark, marks_of, with_marks
from equibench.bench.boards.rows import csv_text
from equibench.bench.boards.terminal_table import board_table, narrow_rows, table_rows
from equibench.bench.publish.payload import payload
from equibench.bench.publish.tables import latex_page, markdown_page, markdown_table
from equibench.bench.publish.view import View, view_text
from equibench.bench.records import staleness
from equibench.bench.records.record import RunRecord, write_record
from equibench.bench.tools.markup import latex, markdown_text

from .. import made

BOARD = made.spec().board
#: The hash of every model's source.
NOW = "a" * 16


def _provenance(record: RunRecord, **changes) -> RunRecord:
    return record.model_copy(update={"provenance": record.provenance.model_copy(update=changes)})


def _put(root: Path, *records: RunRecord) -> Board:
    for record in records:
        write_record(root, _provenance(record, source_hash=record.provenance.source_hash or NOW))
    return load_board(root, BOARD)


def _trained(record: RunRecord, init: dict, **changes) -> RunRecord:
    results = record.results
    points = {
        "init": results.init.model_copy(update=init),
        "trained": results.trained.model_copy(update=changes or init),
    }
    return record.model_copy(update={"results": results.model_copy(update=points)})


def _claiming(claim: str, before: float, after: float) -> RunRecord:
    facts = {"family": "", "group": "C4", "invariant": claim, "source": "x", "treatment": ""}
    record = _provenance(made.record(90.0), registered=facts)
    return _trained(record, {"eq_claimed": before, "eq_exact_c4": before}, eq_claimed=after, eq_exact_c4=after)


def _seeded(record: RunRecord, seed: int) -> RunRecord:
    return record.model_copy(update={"spec": made.spec(seed=seed)})


def _cost(record: RunRecord, **changes) -> RunRecord:
    return record.model_copy(update={"cost": record.cost.model_copy(update=changes)})


def _host(record: RunRecord) -> RunRecord:
    results = record.results.model_copy(update={"host_ms": 7.9})
    record = record.model_copy(update={"results": results})
    return _provenance(record, hardware={"device": "cuda:0", "cpu": "a processor"})


def _slow(record: RunRecord) -> RunRecord:
    return record.model_copy(update={"results": record.results.model_copy(update={"step_ms": 16.0})})


#: For each kind of mark records that have it, and what a row says of it.
CASES = {
    "status": ([made.record(None, "oom")], "oom"),
    "incomplete": ([made.record(90.0), made.record(None, "oom", seed=1)], "1/2"),
    "diverged": ([made.record(None, "oom"), made.record(10.0, "diverged", seed=1)], "1 diverged"),
    "collapsed": ([_trained(made.record(90.0), {}, collapsed=True)], "1 collapsed"),
    "broken": ([_claiming("C4", 0.67, 0.21)], "C4 (broken)"),
    "claim": ([_claiming("C8", 1e-6, 1e-6)], "C8 (only C4 checked)"),
    "stale": ([_provenance(made.record(90.0), source_hash="b" * 16)], "stale"),
    "repeated": (
        [_provenance(made.record(90.0, attempt=n), hardware={"host": h * 16}) for n, h in ((1, "a"), (2, "b"))],
        "repeated on 1 other host",
    ),
    "unchecked": ([_provenance(made.record(90.0), checked="failed: gradients")], "check failed"),
    "uncounted": ([_cost(made.record(90.0), uncounted="fft")], "+"),
    "shared": ([_provenance(made.record(90.0), hardware={"runs_on_device": "4"})], "shared"),
    "unequal times": ([made.record(90.0), _slow(made.record(91.0, seed=1))], " ~"),
    "launch bound": ([_host(made.record(90.0))], " *"),
    "frozen": ([_cost(made.record(90.0), frozen=1_234)], "1,234"),
}
#: Marks of figures that no table for papers has.
ON_TIMES = ("shared", "unequal times", "launch bound")


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources are as they were, but for the row that is stale."""
    monkeypatch.setattr(staleness, "_source_hash", lambda model: NOW)


def _board(root: Path, name: str) -> tuple[Board, str]:
    records, said = CASES[name]
    return _put(root, *records), said


@pytest.mark.parametrize("name", CASES)
def test_every_mark_is_in_every_output(name: str, tmp_path: Path, current: None) -> None:
    board, said = _board(tmp_path, name)
    (row,) = board.rows_of(board.frame)
    (mark,) = [m for m in marks_of(row) if m.name == name]
    (cells,) = csv.DictReader(io.StringIO(csv_text(board.frame)))
    assert mark.words in cells["marks"].split("; ")
    document = payload(board, [], [])
    assert [name, mark.words, list(mark.columns), mark.sign] in document["marks"][0]

    def line(text: str) -> str:
        return next(found for found in text.splitlines() if re.match(r"(\| *|\d+ & )?made-up", found))

    assert said in line(board_table(board)), "a terminal"
    assert mark.words in line(board_table(board, width=40)) or not mark.about_row, "a small terminal"
    assert markdown_text(said) in line(markdown_page(board)), "Markdown"
    columns = view_text(board, View(columns=("model", "test_acc_mean_pct")), "simple")
    assert f"made-up: {cells['marks']}" in columns, "chosen columns"
    if name not in ON_TIMES:
        shown = mark.sign or mark.words
        assert shown in " ".join(narrow_rows(board, board.frame)[0].values()) or said in markdown_table(board)
        assert latex(shown) in line(latex_page(board)), "a paper"


def test_all_kinds_of_marks_are_tried(tmp_path: Path, current: None) -> None:
    doc = Mark.__doc__ or ""
    kinds = set(re.findall(r"``([a-z ]+)``", doc.split("columns:")[0]))
    assert kinds == {*CASES, "treatment", "evaluation"}


def test_a_row_without_reservations_has_no_mark(tmp_path: Path, current: None) -> None:
    facts = {"family": "", "group": "", "invariant": "none", "source": "x", "treatment": ""}
    board = _put(tmp_path, _provenance(made.record(90.0), registered=facts, checked="yes"))
    assert board.frame["marks"].tolist() == [""] and table_rows(board, board.frame)[0]["status"] == "ok"
    assert "status" not in narrow_rows(board, board.frame)[0] and "[" not in latex_page(board).split(r"\midrule")[1]


def test_a_sentence_quotes_the_errors_that_the_table_shows(tmp_path: Path, current: None) -> None:
    pairs = enumerate([(0.67, 0.21), (0.61, 0.25)])
    board = _put(tmp_path, *(_seeded(_claiming("C4", *errors), seed) for seed, errors in pairs))
    (note,) = [n for n in board_notes(board, board.frame) if "contradict" in n]
    cell = table_rows(board, board.frame)[0]["C4 error"]
    assert cell == "0.640 → 0.230" and "0.640 at initialisation and 0.230 after training" in note
    assert narrow_rows(board, board.frame)[0]["C4 error"] == "0.230" and "0.230" in latex_page(board)


def test_a_claim_that_one_run_alone_breaks_is_quoted_with_that_run(tmp_path: Path, current: None) -> None:
    records = (_seeded(_claiming("C4", 1e-7, 2e-4 if seed == 7 else 1e-7), seed) for seed in range(8))
    board = _put(tmp_path, *records)
    (note,) = [n for n in board_notes(board, board.frame) if "contradict" in n]
    assert "3e-05 after training on average, and by 2e-04 in one run" in note


#: Columns, and words that only their legend has.
LEGENDS = {
    "MFLOPs": "forward pass of one image", "C4 error": "quarter turns", "rotation error": "15 to 75 degrees",
    "step ms": "step ms", "test acc %": "test acc:",
}  # fmt: skip


@pytest.mark.parametrize("shown", [("model", "MFLOPs"), ("C4 error",), ("model", "rotation error", "test acc %")])
def test_a_legend_describes_the_columns_that_are_there(shown: tuple[str, ...], tmp_path: Path, current: None) -> None:
    board = _put(tmp_path, *CASES["shared"][0], made.record(91.0, seed=1))
    notes = "\n".join(board_notes(board, board.frame, columns=shown))
    assert {c for c, words in LEGENDS.items() if words in notes} == set(shown) - {"model"}
    every = "\n".join(board_notes(board, board.frame))
    assert all(words in every for words in LEGENDS.values())


def test_a_partly_shared_time_says_how_many_runs_it_is_without(tmp_path: Path, current: None) -> None:
    board = _put(tmp_path, *CASES["shared"][0], made.record(91.0, seed=1))
    assert table_rows(board, board.frame)[0]["step ms"] == "8.0 (1 shared)"
    row = board.rows_of(board.frame)[0]
    assert with_marks({"model": "m"}, row)["model"] == "m", "times that are not shown need no mark"


def test_times_of_runs_that_other_work_slowed_down_are_named(tmp_path: Path, current: None) -> None:
    """The runs of a model do the same operations in a step, so their times are nearly equal on an idle machine."""
    slow = [made.record(90.0, model="slow"), _slow(made.record(91.0, model="slow", seed=1))]
    first, second = (made.record(90.0, model="brief", seed=seed, train_s=0.5) for seed in range(2))
    calm = (made.record(92.0, model="calm", seed=seed) for seed in range(2))
    board = _put(tmp_path, *slow, first, _slow(second), *calm)
    rows = {row["model"]: row for row in board.rows_of(board.frame)}
    ratios = {model: row["step_ms_ratio"] for model, row in rows.items()}
    assert is_missing(ratios.pop("brief")) and ratios == {"slow": 2.0, "calm": 1.0}
    (note,) = [n for n in board_notes(board, board.frame) if "(~)" in n]
    assert "by a factor of up to 2.0" in note and note.endswith(": slow")
    assert not [n for n in board_notes(board, board.frame, columns=("model",)) if "(~)" in n]


def test_memory_of_a_gpu_and_of_a_process_are_told_apart(tmp_path: Path, current: None) -> None:
    on_gpu = made.record(90.0, model="on-gpu")
    results = on_gpu.results.model_copy(update={"peak_kind": "allocated on the device"})
    resident = [made.record(91.0, model=model) for model in ("first", "second")]
    assert {r.results.peak_kind for r in resident} == {"resident in the process"}
    board = _put(tmp_path, on_gpu.model_copy(update={"results": results}), *resident)
    (note,) = [n for n in board_notes(board, board.frame) if n.startswith("peak MiB")]
    assert "allocated on the device: on-gpu; resident in the process: first, second" in note
    second = made.record(90.0, model="on-both", seed=1)
    both = made.record(90.0, model="on-both")
    mixed = _put(tmp_path / "mixed", both.model_copy(update={"results": results}), second)
    (note,) = [n for n in board_notes(mixed, mixed.frame) if n.startswith("peak MiB")]
    assert note.endswith("; allocated on the device and resident in the process: on-both")
    alike = _put(tmp_path / "alike", *resident)
    assert not [n for n in board_notes(alike, alike.frame) if n.startswith("peak MiB")]
