"""A board as text: the columns that fit a terminal."""

from __future__ import annotations

import html
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from ..tools.markup import for_latex, latex, markdown_line, markdown_text
from ..tools.text import command, error_text, plain_table, plural, table_width, wrapped
from .board import Board
from .notes import board_heading, board_notes, is_missing
from .row_marks import models_with_mark, with_marks
from .statistics import Sample

if TYPE_CHECKING:
    import pandas as pd

#: Formats of `leaderboard`, with a line about each. The formats of tabulate are also accepted.
FORMATS = {
    "simple": "plain text for a terminal",
    "md": "Markdown, as GitHub shows it",
    "latex": "a table for a paper, as publish writes it (booktabs)",
    "csv": "all columns, numbers as numbers",
    "json": "boards and runs as one document",
    "grid": "plain text with lines",
    "html": "a table for a page",
}
#: Formats of tabulate that Markdown reads.
_MARKDOWN = ("github", "pipe")


def board_table(
    board: Board, style: str = "simple", frame: pd.DataFrame | None = None, width: int | None = None
) -> str:
    """The table of a board with its heading and notes.

    Args:
        style: a table format of tabulate (``simple``, ``github``, ``grid``, …).
        frame: some of the board's `model_rows`; None means all.
        width: characters of a terminal's line, for which columns are chosen; None means all columns.
    """
    frame = board.frame if frame is None else frame
    whole = table_rows(board, frame)
    rows = whole if width is None or not whole else fitting_rows(board, frame, width)
    cells = [{key: in_cell(cell, style) for key, cell in row.items()} for row in rows]
    table = tabulate(cells, headers="keys", tablefmt=style, disable_numparse=True, colalign=alignment(cells))
    here = in_text("<_>", style) == "<_>"  # other formats are for pages that others read
    columns = list(rows[0]) if rows else None
    heading, *notes = (
        in_text(line, style) for line in (board_heading(board), *board_notes(board, frame, here, columns=columns))
    )
    left_out = [c for c in (whole[0] if whole else ()) if columns is not None and c not in columns]
    if left_out:
        all_of_it = command("leaderboard", board.name, "--wide", root=board.root)
        notes.append(f"too wide for this terminal: {', '.join(left_out)}; {all_of_it} shows all columns")
    lines = [*([in_text(board.title, style)] if board.title else []), heading]
    lines, notes = ([wrapped(line, width) for line in part] for part in (lines, notes))
    return around_table(lines, for_latex(table, style), notes, style)


def around_table(lines: Sequence[str], table: str, notes: Sequence[str], style: str) -> str:
    """A table with lines above and notes below. In Markdown, lines are paragraphs and notes are a list."""
    if style in _MARKDOWN:
        return "\n".join(["\n\n".join(lines), "", table, "", *(f"- {note}" for note in notes)])
    return "\n".join([*lines, "", table, "", *notes])


def in_text(text: str, style: str) -> str:
    """A line of text near a table, escaped for a format of tabulate."""
    if style.startswith("latex"):
        return latex(text)
    if style.endswith("html"):
        return html.escape(text)
    return markdown_line(text) if style in _MARKDOWN else text


def in_cell(text: str, style: str) -> str:
    """As `in_text`, for a cell of a table; tabulate itself escapes cells of HTML and LaTeX."""
    if style in _MARKDOWN:
        return markdown_text(text)
    return in_text(text, style) if style in ("latex_raw", "unsafehtml") else text


#: Columns that are shown only if at least one row has a value in them.
_OPTIONAL = ("rank", "treatment", "evaluation", "group", "frozen")
#: The order of importance, if not all columns fit.
_IMPORTANT = (
    "model", "test acc %", "parameters", "status", "C4 error", "rotation error", "rank", "MFLOPs", "invariant",
    "treatment", "evaluation", "runs", "examples", "frozen", "train s", "step ms", "peak MiB", "buffers",
)  # fmt: skip


def table_rows(board: Board, frame: pd.DataFrame, columns: Collection[str] | None = None) -> list[dict[str, str]]:
    """The usual columns as text, of them only `columns`, if given; marks of others are after the status or the name."""
    rows = board.rows_of(frame)
    unequal = board.chosen[0][0].spec.budget.kind != "E"
    left_out = ("group",) if unequal else ("group", "examples")
    return _marked([_without(_row(row, board), left_out) for row in rows], rows, columns)


#: Columns that a narrow table does not have.
_WIDE = ("buffers", "examples", "step ms", "train s", "peak MiB", "runs")


def narrow_rows(board: Board, frame: pd.DataFrame, columns: Collection[str] | None = None) -> list[dict[str, str]]:
    """As `table_rows`, but narrow for a README: errors only after training; claims and status only with a mark."""
    rows = board.rows_of(frame)
    errors = [{heading: error_text(row[column]) for heading, column in _ERRORS.items()} for row in rows]
    texts = [_without(_row(row, board) | after, _WIDE) for row, after in zip(rows, errors, strict=True)]
    shown = _marked(texts, rows, columns)
    usual = [] if models_with_mark(rows, "broken", "claim") else ["invariant"]
    usual += ["status"] if all(row.get("status") == "ok" for row in shown) else []
    return [
        {key: "" if (key, cell) == ("status", "ok") else cell for key, cell in _without(row, usual).items()}
        for row in shown
    ]


def _without(row: dict[str, str], columns: Collection[str]) -> dict[str, str]:
    return {key: cell for key, cell in row.items() if key not in columns}


def _marked(
    texts: list[dict[str, str]], rows: list[dict[str, Any]], columns: Collection[str] | None
) -> list[dict[str, str]]:
    hidden = {key for key in _OPTIONAL if not any(text.get(key) for text in texts)}
    if columns is not None and texts:
        hidden |= texts[0].keys() - set(columns)
    return [with_marks(_without(text, hidden), row) for text, row in zip(texts, rows, strict=True)]


def fitting_rows(board: Board, frame: pd.DataFrame, width: int) -> list[dict[str, str]]:
    """The usual columns that fit into a line of `width` characters, and at least the three most important ones."""
    there = list(table_rows(board, frame)[0])
    order = sorted(there, key=lambda c: _IMPORTANT.index(c) if c in _IMPORTANT else len(_IMPORTANT))
    chosen, rest = order[:3], order[3:]
    for column in rest:
        if table_width(table_rows(board, frame, [*chosen, column])) <= width:
            chosen.append(column)
    return table_rows(board, frame, chosen)


def rank_text(rank: tuple[int, int] | None) -> str:
    """A set of possible ranks, such as ``1–3`` or ``2``; empty if there is none."""
    return "" if rank is None else str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"


def alignment(rows: list[dict[str, str]]) -> list[str]:
    """The alignment of the columns of the usual table."""
    left = ("model", "treatment", "evaluation", "invariant", "group", "status")
    return ["left" if key in left else "right" for key in (rows[0] if rows else {})]


#: Headings and columns of the errors.
_ERRORS = {"C4 error": "eq_exact_c4", "rotation error": "eq_rot_analytic"}


def _row(row: dict[str, Any], board: Board) -> dict[str, str]:
    """All columns of the usual and of the narrow table, in order."""
    model = row["model"]
    errors = {h: f"{error_text(row[f'{column}_init'])} → {error_text(row[column])}" for h, column in _ERRORS.items()}
    return {
        "rank": rank_text(board.ranks.get(model)), "model": model, "treatment": row["treatment"],
        "evaluation": row["evaluation"], "group": row["group"], "invariant": row["claim"],
        "parameters": _number(row["parameters"], "{:,.0f}"), "frozen": _number(row["frozen"] or None, "{:,.0f}"),
        "buffers": _number(row["buffers"], "{:,.0f}"), "MFLOPs": _number(row["flops_per_image"], "{:.1f}", 1e-6),
        "test acc %": accuracy_text(row, board.samples.get(model)), **errors,
        "examples": _number(row["examples"], "{:,.0f}"), "step ms": _number(row["step_ms_mean"], "{:.1f}"),
        "train s": _number(row["train_s_mean"], "{:.1f}"), "peak MiB": _number(row["peak_mib_max"], "{:.0f}"),
        "runs": f"{row['runs_ok']}/{row['runs']}", "status": row["status"],
    }  # fmt: skip


def _number(value: Any, form: str, scale: float = 1.0) -> str:
    return "" if is_missing(value) else form.format(value * scale)


def accuracy_text(row: dict[str, Any], sample: Sample | None) -> str:
    if sample is None:
        return ""
    if not sample.has_interval:
        return ", ".join(f"{v:.2f}" for _, v in sorted(sample.values.items()))
    return f"{row['test_acc_mean_pct']:.2f} ± {row['test_acc_ci95_pct']:.2f}"


def tuning_table(scores: dict[str, dict[float, float | None]], chosen: dict[str, float], edge: list[str]) -> str:
    """Validation accuracies of the trials, one row per model, and the chosen learning rate."""
    rows = [
        {"model": model}
        | {f"{rate:g}": _number(score, "{:.2f}") or "failed" for rate, score in own.items()}
        | {"chosen": f"{chosen[model]:g}"}
        for model, own in scores.items()
    ]
    trials = plural(len(next(iter(scores.values()))), "trial")
    notes = [f"validation accuracy in % by learning rate; {trials} per model, one seed"]
    if edge:
        notes.append(f"best at the edge of the grid, so a better rate may lie outside: {', '.join(edge)}")
    return "\n".join([plain_table(rows), "", *notes])
