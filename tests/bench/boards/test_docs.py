"""The documentation of the leaderboard names every column that is written."""

from pathlib import Path

from equibench.bench.boards.board import load_board
from equibench.bench.boards.rows import model_rows, run_rows
from equibench.bench.records.record import write_record

from .. import made

PAGE = Path(__file__).resolve().parents[3] / "docs" / "leaderboard.md"


def test_every_column_is_documented(tmp_path: Path) -> None:
    write_record(tmp_path, made.record(90.0))
    board = load_board(tmp_path, made.spec().board)
    text = PAGE.read_text()
    missing = [c for frame in (model_rows(board), run_rows(board)) for c in frame.columns if f"`{c}`" not in text]
    assert missing == []
