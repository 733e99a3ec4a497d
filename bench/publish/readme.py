"""Tables in a README, refreshed between markers; nothing else of the file is touched.

    <!-- equibench: digits-rot-e20-common -->
    (the table stands here)
    <!-- /equibench -->

After the name of the board may follow ``columns=model,parameters,test acc %``.
"""

from __future__ import annotations

import re
from pathlib import Path

from ...registry import UserError, nearest
from ..api import find_board
from ..files import write_atomically
from ..leaderboard import load_board
from ..table import board_heading, table_rows
from .tables import markdown_table, markdown_text, tied_with_best

_OPEN = re.compile(r"^[ \t]*<!-- equibench: (?P<board>\S+)(?: columns=(?P<columns>.*?))? -->[ \t]*\r?$", re.MULTILINE)
_CLOSE = re.compile(r"^[ \t]*<!-- /equibench -->[ \t]*\r?$", re.MULTILINE)


def refresh(path: Path, root: Path) -> list[str]:
    """Refresh all tables of a file; returns the names of their boards.

    Raises:
        UserError: the file cannot be read, has no or unmatched markers, or names what is not there. It is then
            left as it is.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--readme {path}: it cannot be read ({error})") from error
    parts, boards, end = [], [], 0
    newline = "\r\n" if "\r\n" in text else "\n"
    for opening in _OPEN.finditer(text):
        line = text.count("\n", 0, opening.start()) + 1
        closing = _CLOSE.search(text, opening.end())
        following = _OPEN.search(text, opening.end())
        if opening.start() < end or closing is None or (following and following.start() < closing.start()):
            raise UserError(f"{path}, line {line}: this marker is not followed by <!-- /equibench -->")
        block = _block(opening["board"], opening["columns"], root, f"{path}, line {line}")
        parts += [text[end : opening.end()], "\n", block.replace("\n", newline), newline]
        end = closing.start()
        boards.append(opening["board"])
    if not boards:
        raise UserError(f"{path} has no marker; put <!-- equibench: BOARD --> and <!-- /equibench --> around a table")
    fresh = "".join([*parts, text[end:]])
    if fresh != text:
        write_atomically(path, fresh.encode())
    return boards


def _block(name: str, columns: str | None, root: Path, where: str) -> str:
    board = load_board(root, find_board(name, root))
    if not board.chosen or not board.is_table:
        raise UserError(f"{where}: the board {name!r} has no runs that belong in a table")
    wanted = tuple(c.strip() for c in (columns or "").split(",") if c.strip())
    known = list(table_rows(board, board.frame)[0])
    for column in wanted:
        if column not in known:
            raise UserError(f"{where}: the table has no column {column!r}; {nearest(column, known)}")
    notes = "Bold: the best mean, and what these seeds cannot tell from it." if tied_with_best(board) else ""
    table = markdown_table(board, wanted)
    return "\n\n".join(part for part in (markdown_text(board_heading(board)), table, notes) if part)
