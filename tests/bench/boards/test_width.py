"""Tables for a terminal of any width: the most important columns stay, and what is left out is named."""

import re
from pathlib import Path

import pytest
from equibench.bench.boards.terminal_table import board_table, table_rows
from equibench.bench.cli.list import _FIRST, suite_rows
from equibench.bench.tools.text import fitted_table, table_width

from ..publish import boards


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_the_table_of_a_board_fits_the_terminal(tmp_path: Path, width: int) -> None:
    board = boards.board(tmp_path)
    text = board_table(board, width=width)
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= width
    head = next(line for line in text.splitlines() if "test acc %" in line)
    assert "model" in head and "parameters" in head and re.search(r"95\.\d\d ± 0\.\d\d", text)
    every = list(table_rows(board, board.frame)[0])
    left_out = re.search(r"too wide for this terminal: (.*?);", " ".join(text.split()))
    named = left_out[1].split(", ") if left_out else []
    assert [c for c in every if c not in named] == re.split(r" {2,}", head.strip()), "each is shown or named"
    if left_out:
        assert "equibench leaderboard digits-rot-e2-common-v2 --wide" in " ".join(text.split())


def test_without_a_terminal_all_columns_are_there(tmp_path: Path) -> None:
    board = boards.board(tmp_path)
    text = board_table(board)
    assert all(column in text for column in table_rows(board, board.frame)[0]) and "too wide" not in text


def test_wider_terminals_lose_no_column_that_narrower_ones_have(tmp_path: Path) -> None:
    board = boards.board(tmp_path)

    def columns(width: int) -> set[str]:
        lines = board_table(board, width=width).splitlines()
        return set(re.split(r" {2,}", next(line for line in lines if "test acc %" in line).strip()))

    important = {"model", "test acc %", "parameters"}
    for width in (40, 60, 80, 200):
        assert important <= columns(width)
    assert len(columns(40)) < len(columns(80)) < len(columns(200))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_list_puts_a_long_text_into_several_lines(width: int) -> None:
    rows = [
        {"name": "a-suite", "dataset": "digits-rot", "runs": 12, "title": "All systems at 25K parameters on digits"},
        {"name": "b", "dataset": "cifar10", "runs": 3, "title": "Another one"},
    ]
    text = fitted_table(rows, ("name", "title", "dataset", "runs"), width)
    assert max(map(len, text.splitlines())) <= max(width, 64) and "a-suite" in text
    words = " ".join(re.findall(r"[A-Za-z0-9]+", text))
    assert all(word in words for word in ["All", "systems", "parameters", "digits", "Another"])
    whole = fitted_table(rows, ("name",), None)
    assert len(whole.splitlines()) == 4 and max(map(len, whole.splitlines())) == table_width(
        [{k: str(v) for k, v in row.items()} for row in rows]
    )


@pytest.mark.parametrize("width", [40, 48, 60, 80])
def test_the_list_of_suites_shows_their_titles(width: int) -> None:
    text = fitted_table(suite_rows(()), _FIRST["suite"], width)
    head = text.splitlines()[0].split()
    assert head[0] == "name" and "title" in head, "name and title come before all others"
    assert max(map(len, text.partition("\n\n")[0].splitlines())) <= width
