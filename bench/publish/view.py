"""Selects the requested boards, rows and columns."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from ...registry import UserError, nearest
from ..boards.board import Board, find_board, nearest_board, no_boards_reason
from ..boards.notes import board_heading
from ..boards.row_marks import HEADINGS_OF
from ..boards.rows import COMPARED, compared_columns, run_rows, write_board
from ..boards.statistics import Comparison, compare
from ..boards.terminal_table import board_table, in_cell, in_text
from ..records.record import RefusedFile, without_garbage_collection
from ..records.store import board_names
from ..tools.markup import for_latex
from ..tools.text import is_selected, listed, plural, table_width

if TYPE_CHECKING:
    import pandas as pd


#: The format in which tables are the same as those of `publish`.
LATEX = "latex_booktabs"


@dataclass(frozen=True)
class View:
    """The requested part of a board.

    Attributes:
        models: patterns as in a shell; empty means all models.
        sort: a column; with a ``-`` before it, the largest value is first. Empty means the order of the CSV.
        columns: columns of the CSV, in this order; empty means the usual ones.
        against: compare with this model instead of the board's reference.
        all_pairs: compare every model with every other model.
        runs: one row per run instead of one row per model.
    """

    models: tuple[str, ...] = ()
    sort: str = ""
    columns: tuple[str, ...] = ()
    against: str = ""
    all_pairs: bool = False
    runs: bool = False


def select_boards(
    root: Path,
    name: str | None,
    dataset: str | None,
    budget: str | None,
    refused: list[RefusedFile] | None = None,
    reference_parameters: int | None = None,
    patterns: Sequence[str] = (),
) -> list[Board]:
    """The requested boards, with rebuilt CSVs; boards without a table are left out unless they are named.

    Args:
        patterns: patterns of names of boards, instead of one `name`.
        refused: this list gets the refused files of all boards.
        reference_parameters: as for `board.load_board`.

    Raises:
        UserError: there is no such board.
    """
    names = [find_board(name, root)] if name else board_names(root)
    names = boards_that_fit(patterns, names) if patterns else names
    if not names:
        raise UserError(no_boards_reason(root))
    with without_garbage_collection():
        read = [write_board(root, n, reference_parameters) for n in names]
    if refused is not None:
        refused += [r for b in read for r in b.refused]
    boards = [b for b in read if b.chosen]
    if not boards:
        why = next((r.reason for b in read for r in b.refused), f"{root} has none")
        raise UserError(f"no record can be read: {why}")
    for option, wanted, get in (
        ("--dataset", dataset, lambda b: b.chosen[0][0].spec.dataset),
        ("--budget", budget, lambda b: b.chosen[0][0].spec.budget.name),
    ):
        known = sorted({get(b) for b in boards})
        if wanted is not None and wanted not in known:
            raise UserError(f"{option} {wanted!r}: no board in {root} has it; {nearest(wanted, known)}")
        boards = [b for b in boards if wanted in (None, get(b))]
    return boards


def boards_that_fit(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Names that match one of the patterns, with or without the version at their end.

    Raises:
        UserError: a pattern matches no name.
    """
    found: list[str] = []
    for pattern in patterns:
        fits = [n for n in names if any(fnmatch.fnmatchcase(text, pattern) for text in (n, n.rpartition("-v")[0]))]
        if not fits:
            raise UserError(f"--across {pattern!r} matches no board; {nearest_board(pattern, names)}")
        found += fits
    return sorted(set(found))


def check_patterns(patterns: Sequence[str], models: Sequence[str], option: str = "--model") -> None:
    """Check that every pattern matches one of these models; UserError names the first one that does not."""
    for pattern in patterns:
        if not fnmatch.filter(models, pattern):
            raise UserError(f"{option} {pattern!r} matches no model of these boards; {nearest(pattern, models)}")


def check_models(boards: Iterable[Board], view: View) -> None:
    """Check that every pattern matches a model on some board, and that the reference has results on some board.

    Raises:
        UserError: names the first wrong pattern or reference.
    """
    check_patterns(view.models, sorted({r.spec.model for b in boards for r, _ in b.chosen}))
    measured = sorted({m for b in boards for m in b.values})
    if view.against and view.against not in measured:
        raise UserError(
            f"--against {view.against!r}: no such model has results here; {nearest(view.against, measured)}"
        )


def without_models(boards: Sequence[Board], patterns: Sequence[str]) -> list[Board]:
    """The boards without the models that match a shell pattern; boards on which no model is left are omitted.

    Raises:
        UserError: a pattern matches no model, or no model is left on any board.
    """
    check_patterns(patterns, sorted({r.spec.model for b in boards for r, _ in b.chosen}), "--exclude")
    left = [kept for board in boards if (kept := board.without(patterns)).chosen]
    if boards and not left:
        excluded = " ".join(f"--exclude {pattern!r}" for pattern in patterns)
        raise UserError(f"{excluded} leaves no model of {listed([b.name for b in boards], 3)}; give other patterns")
    return left


def select_rows(board: Board, view: View) -> pd.DataFrame:
    """The rows that a view selects, in its order and with its reference; all columns.

    Raises:
        UserError: there is no such column.
    """
    frame = run_rows(board) if view.runs else board.frame
    if view.against and view.against != board.reference and not view.runs:
        frame = _against(frame, comparisons(board, view), view.against)
    frame = frame[[is_selected(m, view.models) for m in frame["model"]]]
    if view.sort:
        column = _column(view.sort.removeprefix("-"), frame, "--sort")
        # Numbers before text in every column; a stable sort keeps the order of equal rows.
        frame = frame.sort_values(
            column, ascending=not view.sort.startswith("-"), kind="stable", na_position="last", key=_comparable
        )
    return frame.reset_index(drop=True)


def select_columns(frame: pd.DataFrame, view: View) -> pd.DataFrame:
    """The columns that a view selects; all columns if it selects none.

    Raises:
        UserError: there is no such column.
    """
    return frame[[_column(c, frame, "--columns") for c in view.columns]] if view.columns else frame


def _comparable(values: pd.Series) -> pd.Series:
    import pandas as pd

    numbers = pd.to_numeric(values, errors="coerce")
    return values.astype(str) if numbers.isna().all() and values.notna().any() else numbers


def _column(name: str, frame: pd.DataFrame, option: str) -> str:
    if name in frame.columns:
        return name
    usual = {column: heading for column, heading in HEADINGS_OF.items() if column in frame.columns}
    for column, heading in usual.items():
        if heading == name:
            return column
    close = nearest(name, [*frame.columns], "equibench list columns")
    raise UserError(
        f"{option} {name!r}: the table has no such column; the usual columns are {', '.join(usual)}; {close}"
    )


def _against(frame: pd.DataFrame, found: Sequence[Comparison], reference: str) -> pd.DataFrame:
    """The table with the columns of the comparison for another reference."""
    by_model = {c.model: c for c in found}
    rows = [compared_columns(by_model.get(model)) for model in frame["model"]]
    return frame.assign(reference_model=reference, **{column: [row[column] for row in rows] for column in COMPARED})


def comparisons(board: Board, view: View) -> list[Comparison]:
    """The comparisons of a view; the correction is over all models of the board, also those that are not shown."""
    if view.all_pairs:
        return board.all_pairs
    reference = view.against or board.reference
    if reference not in board.values:
        return []
    return board.against_reference if reference == board.reference else compare(board.samples, reference)


def view_text(board: Board, view: View, style: str, width: int | None = None) -> str:
    """A board in a table format of tabulate, with its notes and the requested comparisons.

    Args:
        width: characters of a terminal's line, for which the usual columns are chosen; None means all of them.
    """
    frame = select_rows(board, view)
    if view.columns or view.runs:
        shown = select_columns(frame, view) if view.columns else _usual_of_runs(frame, width)
        rows = [[in_cell(text, style) for text in row] for row in _texts(shown)]
        table = tabulate(rows, headers=list(shown.columns), tablefmt=style, disable_numparse=True)
        text = f"{in_text(board_heading(board), style)}\n\n{for_latex(table, style)}"
        marks = [] if view.runs else [f"{r['model']}: {r['marks']}" for r in board.rows_of(frame) if r["marks"]]
        if marks and "marks" not in view.columns:
            text += "\n\n" + "\n".join(in_text(mark, style) for mark in marks)
    elif style == LATEX:
        from .tables import latex_page  # imported here, because it imports this module

        text = latex_page(board, frame)
    else:
        text = board_table(board, style, frame, width)
    if view.against or view.all_pairs:
        text += "\n\n" + comparison_table(board, view, style)
    return text


#: Columns of the table of runs, the most important first; other commands need the ids.
_OF_RUNS = ("run", "model", "seed", "test_acc_pct", "status", "stale", "train_s", "started", "machine")


def _usual_of_runs(frame: pd.DataFrame, width: int | None) -> pd.DataFrame:
    columns = [c for c in _OF_RUNS if c != "stale" or (frame["stale"] != "").any()]
    texts = [dict(zip(columns, row, strict=True)) for row in _texts(frame[columns])]
    while width is not None and len(columns) > 5:
        if table_width([{c: text[c] for c in columns} for text in texts]) <= width:
            break
        columns.pop()
    return frame[columns]


def _texts(frame: pd.DataFrame) -> list[list[str]]:
    return [[_cell_text(v) for v in row] for row in frame.convert_dtypes().itertuples(index=False)]


def _cell_text(value: Any) -> str:
    """A cell as text: with thousands separators, floats with four significant digits; empty for a missing value."""
    import pandas as pd

    if value is None or value is pd.NA or value != value:
        return ""
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) or float(value).is_integer() else f"{value:.4g}"


def comparison_table(board: Board, view: View, style: str) -> str:
    """Paired differences with their intervals and corrected p, and a sentence that explains them."""
    family = comparisons(board, view)
    shown = [
        c
        for c in family
        if is_selected(c.model, view.models) or (view.all_pairs and is_selected(c.reference, view.models))
    ]
    if not shown:
        return f"{view.against or 'no model'} has no common seed with another model of {board.name}"
    rows = [_comparison_row(c, board) for c in sorted(shown, key=lambda c: -c.difference)]
    align = ["left", "left"] + ["right"] * 6
    table = tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=align)
    return f"{for_latex(table, style)}\n\n{in_text(comparison_note(family), style)}"


def _comparison_row(c: Comparison, board: Board) -> dict[str, str]:
    same = board.agreement(c.model, c.reference)
    return {
        "model": c.model, "against": c.reference, "difference": difference_text(c.difference, c.interval),
        "seeds": str(c.pairs), "p": p_text(c.p), "p (Holm)": p_text(c.p_holm), "p (signs)": p_text(c.p_sign_flip),
        "agree %": "" if same is None else f"{same:.1f}",
    }  # fmt: skip


def difference_text(difference: float, half: float | None) -> str:
    """A difference in points with the half-width of its interval, if there is one."""
    return f"{difference:+.2f}" + ("" if half is None else f" ± {half:.2f}")


def p_text(p: float | None) -> str:
    """A p-value with two significant digits; never 0; empty if there is none."""
    return "" if p is None else "<0.0001" if p < 1e-4 else f"{p:.2g}" if p < 0.0995 else f"{p:.2f}"


def comparison_note(family: Sequence[Comparison], agree: bool = True) -> str:
    """A sentence that explains a family of comparisons, with or without their agreement."""
    least = min(c.p_smallest for c in family)
    known = [c for c in family if c.interval is not None]
    over = "new seeds and new test images" if any(c.by_image for c in known) else "new seeds"
    alone = [c.model for c in known if not c.by_image]
    if alone and len(alone) < len(known):
        over += f" (for {', '.join(dict.fromkeys(alone[:12]))}: only new seeds)"
    return (
        f"difference: mean of the paired differences in test accuracy, in points, ± 95 % interval over {over}; p: of"
        f" the null hypothesis that the true difference is 0; Holm: corrected over"
        f" {plural(family[0].family, 'comparison')}; signs: sign-flip test over the seeds, without an assumption on the"
        f" distribution, not corrected, at least {p_text(least)} with these seeds"
        + ("; agree: test images for which both predict the same class, right or wrong" if agree else "")
    )
