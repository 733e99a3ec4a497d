"""The class of matched networks is computed from counts: for new models, finished runs, and readers of a
board.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import write_board
from equibench.bench.boards.terminal_table import board_table, narrow_rows, table_rows
from equibench.bench.cli.main import cli
from equibench.bench.publish.readme import refresh
from equibench.bench.records.record import Context, RunRecord, Size, write_record
from equibench.bench.records.size_classes import limits, why_not_in, why_not_matched
from equibench.bench.runner.agenda import agenda_of
from equibench.bench.spec.suite import Suite, find_suite, plan
from equibench.bench.tools.machine import Machine
from equibench.registry import UserError

from .. import made

BOARD = made.spec().board


def sized(model: str, parameters: int, seed: int = 0, reference: str | None = None, **size: Any) -> RunRecord:
    record = made.record(model=model, seed=seed)
    assert record.cost is not None
    context = Context(suite="s", parameter_class="as-published", reference_parameters=None, reference_model=reference)
    cost = record.cost.model_copy(update={"parameters": parameters, **size})
    return record.model_copy(update={"cost": cost, "context": context})


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ({"parameters": 25_700}, ""),
        ({"parameters": 24_415}, ""),
        ({"parameters": 26_985}, ""),
        ({"parameters": 24_414}, "24,414 parameters, outside 24,415 to 26,985"),
        ({"parameters": 26_986}, "26,986 parameters"),
        ({"parameters": 25_700, "frozen": 6_580_000}, "6,580,000 frozen parameters"),
        ({"parameters": 25_700, "learned_buffers": 16}, "16 numbers in buffers that training changes"),
        ({}, ""),
    ],
)
def test_the_rule(counts: dict[str, int], why: str) -> None:
    found = why_not_matched(25_700, counts)
    assert why in found and bool(found) == bool(why)
    assert why_not_in(find_suite("quickstart"), counts) == found
    assert why_not_in(find_suite("digits-25k-compute"), counts) == ""


def test_counts_are_read_from_events_sizes_and_nothing() -> None:
    size = made.record().cost
    assert why_not_matched(25_000, size) == "" and "has 25,000 parameters" in why_not_matched(3, size)
    event = {"model": "m", "parameters": 3, "frozen": 1, "flops": 7}
    assert "has 3 parameters" in why_not_matched(25_000, event) and "has 1 frozen" in why_not_matched(3, event)
    assert why_not_matched(3, {"error": "x"}) == why_not_matched(3, None) == ""


def test_old_sizes_can_be_read() -> None:
    old = {"parameters": 1, "dense_weights": 2, "buffers": 3, "flops_per_image": 4, "train_flops_per_image": 5}
    size = Size.model_validate(old)
    assert (size.frozen, size.learned_buffers, size.uncounted) == (0, 0, "")


def test_the_class_follows_from_the_counts_for_every_suite(tmp_path: Path) -> None:
    """Three within 5 % of 25,700, run as published; one of 9,980; one with frozen weights."""
    for name, size in (("a", 25_700), ("b", 24_500), ("c", 26_900), ("d", 9_980)):
        write_record(tmp_path, sized(name, size, reference="a"))
    write_record(tmp_path, sized("e", 25_700, frozen=500))
    board = load_board(tmp_path, BOARD)
    classes = dict(zip(board.frame["model"], board.frame["parameter_class"], strict=True))
    assert classes == {"a": "matched", "b": "matched", "c": "matched", "d": "not matched", "e": "not matched"}
    assert board.reference_parameters == 25_700
    text = board_table(board)
    assert "matched to 25,700 within 5 %: a, b, c; not matched: d, e" in text and "e: 500 parameters are frozen" in text
    # Beside another count it is another class, and all files say it next to the reference model.
    other = write_board(tmp_path, BOARD, 10_000)
    assert dict(zip(other.frame["model"], other.frame["parameter_class"], strict=True))["d"] == "matched"
    written = (tmp_path / f"{BOARD}.csv").read_text()
    write_board(tmp_path, BOARD)
    assert (tmp_path / f"{BOARD}.csv").read_text() == written


def test_without_a_count_there_is_no_class(tmp_path: Path) -> None:
    write_record(tmp_path, sized("a", 25_700))
    board = load_board(tmp_path, BOARD)
    assert board.frame["parameter_class"].tolist() == [None] and "class:" not in board_table(board)
    assert "class: matched, parameters within 5 % of 25,000" in board_table(load_board(tmp_path, BOARD, 25_000))


def test_commands_take_the_count(tmp_path: Path) -> None:
    for name, size in (("a", 25_700), ("d", 9_980)):
        write_record(tmp_path, sized(name, size, reference="a"))
    arguments = [
        "leaderboard",
        BOARD,
        "--results",
        str(tmp_path),
        "--columns",
        "model,parameter_class",
        "--format",
        "csv",
    ]
    shown = CliRunner().invoke(cli, [*arguments, "--reference-parameters", "10000"])
    assert "a,not matched" in shown.output and "d,matched" in shown.output
    wrong = CliRunner().invoke(cli, [*arguments, "--reference-parameters", "-1"])
    assert isinstance(wrong.exception, UserError) or wrong.exit_code == 2
    page = tmp_path / "page.md"
    page.write_text(f"<!-- equibench: {BOARD} reference_parameters=10000 -->\n<!-- /equibench -->\n")
    refresh(page, tmp_path)
    assert "atched to 10,000 within 5 %: d; not matched: a" in page.read_text()
    page.write_text(f"<!-- equibench: {BOARD} reference_parameters=many -->\n<!-- /equibench -->\n")
    with pytest.raises(UserError, match="reference_parameters=25700"):
        refresh(page, tmp_path)


def test_a_finished_run_is_held_against_the_class(tmp_path: Path) -> None:
    """A model of 9,980 parameters does not pass into a matched suite because an earlier run of it exists."""
    suite = find_suite("quickstart")
    values = {**suite.model_dump(by_alias=True), "models": ["p4cnn"], "seeds": [0]}
    spec = plan(Suite.model_validate(values))[0]
    record = sized("p4cnn", 9_980)
    write_record(tmp_path, record.model_copy(update={"spec": spec}))

    def split(**changes: Any) -> None:
        chosen = Suite.model_validate({**values, **changes})
        agenda_of(chosen, tmp_path, Machine("cpu"), plan(chosen))

    split(**{"class": "as-published"})
    with pytest.raises(UserError, match="'p4cnn' has 9,980 parameters, outside 24,415 to 26,985"):
        split()


def test_the_table_shows_what_is_frozen_and_what_is_not_counted(tmp_path: Path) -> None:
    write_record(tmp_path, sized("a", 25_700, uncounted="fft", frozen=1_500, buffers=2_000))
    board = load_board(tmp_path, BOARD)
    row, narrow = table_rows(board, board.frame)[0], narrow_rows(board, board.frame)[0]
    assert (row["frozen"], row["buffers"], row["MFLOPs"]) == ("1,500", "2,000", "1.0+") and narrow["MFLOPs"] == "1.0+"
    assert "some operations are not counted: a (fft)" in board_table(board)
    plain = replace(board, chosen=[(sized("a", 25_700), "")])
    assert "frozen" not in table_rows(plain, plain.frame)[0] and "not counted" not in board_table(plain)


def test_a_matched_class_asks_for_its_count() -> None:
    done = CliRunner().invoke(
        cli, ["run", "--dataset", "digits-rot", "--models", "p4cnn", "--budget", "e1", "--class", "matched"]
    )
    assert "--reference-parameters" in str(done.exception) + done.output
    assert limits(100) == (95, 105)
