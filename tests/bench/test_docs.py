"""The documentation of the leaderboard names every column that is written."""

from pathlib import Path

from equibench.bench.board import load_board
from equibench.bench.leaderboard import model_rows, run_rows
from equibench.bench.record import write_record

from . import records as made

PAGE = Path(__file__).resolve().parents[2] / "docs" / "leaderboard.md"


def test_every_column_is_documented(tmp_path: Path) -> None:
    write_record(tmp_path, made.record(90.0))
    board = load_board(tmp_path, made.spec().board)
    text = PAGE.read_text()
    missing = [c for frame in (model_rows(board), run_rows(board)) for c in frame.columns if f"`{c}`" not in text]
    assert missing == []
