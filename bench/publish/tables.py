"""A board as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from ..boards.board import Board
from ..boards.notes import board_heading, board_notes
from ..boards.reported import reported_table
from ..boards.terminal_table import alignment, narrow_rows, table_rows
from ..tools.markup import latex, latex_number, markdown_text
from .bibtex import key_of, sources_of_row
from .view import View, comparison_table

if TYPE_CHECKING:
    import pandas as pd


#: This column and the model's name are bold if rank 1 is possible.
ACCURACY = "test acc %"


def markdown_table(board: Board, texts: list[dict[str, str]] | None = None) -> str:
    """The table alone in GitHub's Markdown, of `texts` or else `table_rows`; bold: rank 1 is possible."""
    rows, bold = [], board.best
    texts = table_rows(board, board.frame) if texts is None else texts
    for text, row in zip(texts, board.rows_of(board.frame), strict=True):
        cells = {key: markdown_text(cell) for key, cell in text.items()}
        if row["model"] in bold:
            cells |= {key: f"**{cells[key]}**" for key in ("model", ACCURACY) if key in cells}
        rows.append(cells)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True, colalign=alignment(rows))


def markdown_page(board: Board) -> str:
    """A board as one Markdown page: table, notes, comparisons with the reference, and separately reported values."""
    notes = board_notes(board, board.frame, bold=True)
    parts = [f"## {markdown_text(board.name)}", markdown_text(board_heading(board)), markdown_table(board)]
    parts.append("\n".join(f"- {markdown_text(note)}" for note in notes))
    if board.against_reference:
        parts += [f"### Against {markdown_text(board.reference or '')}", comparison_table(board, View(), "github")]
    reported = reported_table(board.chosen[0][0].spec.dataset, "github")
    if reported:
        heading, table = reported.split("\n\n", 1)
        parts += ["### Reported by papers, not measured here", markdown_text(heading), table]
    return "\n\n".join(parts) + "\n"


#: Columns of the table for papers, with their headings and alignments; at most eight.
_LATEX = {
    "rank": ("Rank", "r"), "model": ("Model", "l"), "group": ("Group", "l"), "parameters": ("Parameters", "r"),
    "MFLOPs": ("MFLOPs", "r"), ACCURACY: (r"Accuracy (\%)", "r"), "C4 error": ("C4 error", "r"),
    "rotation error": ("Rotation error", "r"),
}  # fmt: skip


def latex_page(board: Board, frame: pd.DataFrame | None = None) -> str:
    r"""A board as a LaTeX table (booktabs) for ``\input``; models for which rank 1 is possible are bold; sources are
    cited.

    The document needs ``\usepackage{booktabs}`` and the bibliography that `publish` writes.

    Args:
        frame: some of the board's `model_rows`; None means all.
    """
    frame = board.frame if frame is None else frame
    rows = board.rows_of(frame)
    # Marks of columns that are not in this table are after the model's name.
    texts = narrow_rows(board, frame, tuple(_LATEX))
    columns = list(texts[0])
    lines = [_latex_row(text, row, row["model"] in board.best) for text, row in zip(texts, rows, strict=True)]
    notes = board_notes(board, frame, bold=True, columns=columns, brief=True, after=True)
    caption = f"{board_heading(board)}. {sentences(board, notes)}"
    heads, align = [_LATEX[c][0] for c in columns], "".join(_LATEX[c][1] for c in columns)
    return latex_table(board.name, align, heads, lines, caption)


def latex_table(name: str, align: str, heads: Iterable[str], lines: Iterable[str], caption: str) -> str:
    """A table (booktabs) from its heads and rows, which are LaTeX, and its caption, which is plain text."""
    return "\n".join([
        f"% {name}; needs \\usepackage{{booktabs}} and \\usepackage[T1]{{fontenc}}",
        r"\begin{table}", r"\centering", f"\\begin{{tabular}}{{{align}}}", r"\toprule",
        " & ".join(heads) + r" \\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}",
        f"\\caption{{{latex(caption)}}}", f"\\label{{tab:{name}}}", r"\end{table}", "",
    ])  # fmt: skip


def _latex_row(text: dict[str, str], row: dict[str, Any], bold: bool) -> str:
    cells = {key: latex_number(cell) for key, cell in text.items()}
    name, marks = latex(row["model"]), latex(text["model"].removeprefix(row["model"]))
    if bold:
        name, cells[ACCURACY] = rf"\textbf{{{name}}}", rf"\textbf{{{cells[ACCURACY]}}}"
    cite = ",".join(key_of(s) for s in sources_of_row(row))
    cells["model"] = name + (rf"~\cite{{{cite}}}" if cite else "") + marks
    return " & ".join(cells.values()) + r" \\"


def sentences(board: Board, notes: Iterable[str]) -> str:
    """Notes as one paragraph; names of models are not capitalised."""
    named = {f"{model}{end}" for model in board.runs for end in ("", ":")}
    return " ".join(f"{n if n.split(' ', 1)[0] in named else n[:1].upper() + n[1:]}." for n in notes)
