"""A board as text: the columns that fit a terminal."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from ..tools.markup import for_latex, latex, markdown_text
from .board import Board
from .claims import is_broken
from .notes import board_heading, board_notes, is_missing, is_text
from .statistics import Sample

if TYPE_CHECKING:
    import pandas as pd

#: Floor below which an equivariance error is float32 rounding.
ROUNDING = 1e-5
#: Formats of tabulate that Markdown reads.
_MARKDOWN = ("github", "pipe")


def board_table(board: Board, style: str = "simple", frame: pd.DataFrame | None = None) -> str:
    """The table of a board with its heading and notes.

    Args:
        style: a table format of tabulate (``simple``, ``github``, ``grid``, …).
        frame: some of the board's `model_rows`; all without.
    """
    frame = board.frame if frame is None else frame
    rows = table_rows(board, frame)
    rows = [{key: in_cell(cell, style) for key, cell in row.items()} for row in rows]
    table = tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=alignment(rows))
    here = in_text("<_>", style) == "<_>"  # else it is for a page that others read
    heading, *notes = (in_text(line, style) for line in (board_heading(board), *board_notes(board, frame, here)))
    return "\n".join([heading, "", for_latex(table, style), "", *notes])


def in_text(text: str, style: str) -> str:
    """A line beside a table in a format of tabulate, so that the format's reader shows it as it stands."""
    if style.startswith("latex"):
        return latex(text)
    if style.endswith("html"):
        return html.escape(text)
    return markdown_text(text) if style in _MARKDOWN else text


def in_cell(text: str, style: str) -> str:
    """As `in_text`, for a cell of a table; tabulate itself escapes those of HTML and LaTeX."""
    return in_text(text, style) if style in (*_MARKDOWN, "latex_raw", "unsafehtml") else text


def table_rows(board: Board, frame: pd.DataFrame) -> list[dict[str, str]]:
    """The usual columns as text; rank, treatment, evaluation and frozen parameters only where there are any."""
    rows = [_row(row, board.samples.get(row["model"]), board) for row in board.rows_of(frame)]
    empty = [key for key in ("rank", "treatment", "evaluation", "frozen") if not any(row[key] for row in rows)]
    return [{key: cell for key, cell in row.items() if key not in empty} for row in rows]


def narrow_rows(board: Board, frame: pd.DataFrame) -> list[dict[str, str]]:
    """What fits the page of a README: errors after training only; treatment, evaluation, broken claims and failures
    only where there are any."""
    rows = [
        {
            "rank": rank_text(board, row["model"]),
            "model": row["model"],
            "treatment": row["treatment"],
            "evaluation": row["evaluation"],
            "group": row["group"],
            "invariant": row["claim"] if is_broken(row) else "",
            "parameters": _number(row["parameters"], "{:,.0f}"),
            "frozen": _count(row["frozen"]),
            "MFLOPs": _mflops(row),
            "test acc %": accuracy_text(row, board.samples.get(row["model"])),
            "C4 error": _error(row["eq_exact_c4"]),
            "rotation error": _error(row["eq_rot_analytic"]),
            "status": "" if row["status"] == "ok" and not row["stale"] and not row["repeated"] else _status(row),
        }
        for row in board.rows_of(frame)
    ]
    optional = ("rank", "treatment", "evaluation", "group", "invariant", "frozen", "status")
    empty = [key for key in optional if not any(row[key] for row in rows)]
    return [{key: cell for key, cell in row.items() if key not in empty} for row in rows]


def _status(row: dict[str, Any]) -> str:
    done = f" ({row['runs_ok']}/{row['runs']} runs)" if row["runs_ok"] < row["runs"] else ""
    return f"{row['status']}{done}{_marks(row)}"


def _marks(row: dict[str, Any]) -> str:
    marks = [mark for mark in ("stale" if row["stale"] else "", row["repeated"]) if mark]
    return f" ({', '.join(marks)})" if marks else ""


def rank_text(board: Board, model: str) -> str:
    """The ranks that are possible, ``1–3`` or ``2``; empty where there are none."""
    return ranks_text(board.ranks.get(model))


def ranks_text(rank: tuple[int, int] | None) -> str:
    """A set of ranks, see `rank_text`."""
    return "" if rank is None else str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"


def alignment(rows: list[dict[str, str]]) -> list[str]:
    """How the columns of the usual table are aligned."""
    left = ("model", "treatment", "evaluation", "invariant", "group", "status")
    return ["left" if key in left else "right" for key in (rows[0] if rows else {})]


def _row(row: dict[str, Any], sample: Sample | None, board: Board) -> dict[str, str]:
    unequal = board.chosen[0][0].spec.budget.kind != "E"
    return {
        "rank": rank_text(board, row["model"]),
        "model": row["model"],
        "treatment": row["treatment"],
        "evaluation": row["evaluation"],
        "invariant": row["claim"],
        "parameters": _number(row["parameters"], "{:,.0f}"),
        "frozen": _count(row["frozen"]),
        "buffers": _number(row["buffers"], "{:,.0f}"),
        "MFLOPs": _mflops(row),
        "test acc %": accuracy_text(row, sample),
        "C4 error": _before_after(row, "eq_exact_c4"),
        "rotation error": _before_after(row, "eq_rot_analytic"),
        **({"examples": _number(row["examples"], "{:,.0f}")} if unequal else {}),
        "step ms": _number(row["step_ms_mean"], "{:.1f}") + (" *" if row["runs_launch_bound"] else ""),
        "train s": _number(row["train_s_mean"], "{:.1f}"),
        "peak MiB": _number(row["peak_mib_max"], "{:.0f}"),
        "runs": f"{row['runs_ok']}/{row['runs']}",
        "status": row["status"] + _marks(row),
    }


def _number(value: Any, form: str, scale: float = 1.0) -> str:
    return "" if is_missing(value) else form.format(value * scale)


def _count(value: Any) -> str:
    """A count; empty for none."""
    return _number(value or None, "{:,.0f}")


def accuracy_text(row: dict[str, Any], sample: Sample | None) -> str:
    if sample is None:
        return ""
    if not sample.has_interval:
        return ", ".join(f"{v:.2f}" for _, v in sorted(sample.values.items()))
    return f"{row['test_acc_mean_pct']:.2f} ± {row['test_acc_ci95_pct']:.2f}"


def _before_after(row: dict[str, Any], metric: str) -> str:
    return f"{_error(row[f'{metric}_init'])} → {_error(row[metric])}"


def _error(value: Any) -> str:
    if is_missing(value):
        return "-"
    return f"{value:.3f}" if value >= 1e-3 else f"{value:.0e}"


def _mflops(row: dict[str, Any]) -> str:
    return _number(row["flops_per_image"], "{:.1f}", 1e-6) + ("+" if is_text(row["uncounted"]) else "")


def tuning_table(scores: dict[str, dict[float, float | None]], chosen: dict[str, float], edge: list[str]) -> str:
    """Validation accuracies of the trials, one row a model, and the rate that was chosen."""
    rows = [
        {"model": model}
        | {f"{rate:g}": _number(score, "{:.2f}") or "failed" for rate, score in own.items()}
        | {"chosen": f"{chosen[model]:g}"}
        for model, own in scores.items()
    ]
    notes = [f"validation accuracy in % by learning rate; {len(next(iter(scores.values())))} trials a model, one seed"]
    if edge:
        notes.append(f"best at the edge of the grid, so that a better rate may lie outside: {', '.join(edge)}")
    table = tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True)
    return "\n".join([table, "", *notes])
