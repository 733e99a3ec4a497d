"""A board as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from ..boards.board import Board
from ..boards.claims import claim_notes
from ..boards.notes import (
    accuracy_notes,
    board_heading,
    board_notes,
    detectable_note,
    rank_notes,
)
from ..boards.reported import reported_table
from ..boards.table import alignment, rank_text, table_rows
from ..tools.markup import latex, markdown_text
from ..tools.text import some
from .bibtex import cited, key_of
from .view import View, comparison_table, p_text

if TYPE_CHECKING:
    import pandas as pd


#: The column that, with the model's name, is bold where rank 1 is possible.
ACCURACY = "test acc %"


def markdown_table(board: Board, columns: tuple[str, ...] = (), texts: list[dict[str, str]] | None = None) -> str:
    """The table alone, as GitHub shows it, in bold what rank 1 is possible for.

    Args:
        columns: of the table; all without.
        texts: its rows; `table_rows` without.
    """
    rows, bold = [], board.best
    for row in table_rows(board, board.frame) if texts is None else texts:
        cells = {key: markdown_text(cell) for key, cell in row.items() if not columns or key in columns}
        if row["model"] in bold:
            cells |= {key: f"**{cells[key]}**" for key in ("model", ACCURACY) if key in cells}
        rows.append(cells)
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True, colalign=alignment(rows))


def markdown_page(board: Board) -> str:
    """A board as one Markdown page: table, notes, comparisons with the reference, reported figures apart."""
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


def latex_page(board: Board) -> str:
    r"""A board as a LaTeX table (booktabs) for ``\input``; in bold what rank 1 is possible for, sources cited.

    The document needs ``\usepackage{booktabs}`` and the bibliography that is written beside it.
    """
    frame = board.frame
    ranked, compared = any(r is not None for r in board.ranks.values()), {c.model: c for c in board.against_reference}
    head = [*(["Rank"] if ranked else []), "Model", "Invariant", "Parameters", "MFLOPs", r"Test accuracy (\%)"]
    head += [r"$\Delta$", "$p$"] if compared else []
    bold = board.best
    both = zip(board.rows_of(frame), table_rows(board, frame), strict=True)
    lines = [_latex_row(board, row, usual, ranked, compared, bold) for row, usual in both]
    caption = latex(f"{board_heading(board)}. {sentences(board, _caption(board, frame))}")
    align = ("r" if ranked else "") + "ll" + "r" * (len(head) - 2 - ranked)
    return "\n".join([
        f"% {board.name}; needs \\usepackage{{booktabs}} and \\usepackage[T1]{{fontenc}}",
        r"\begin{table}", r"\centering", f"\\begin{{tabular}}{{{align}}}", r"\toprule",
        " & ".join(head) + r" \\", r"\midrule", *lines, r"\bottomrule", r"\end{tabular}",
        f"\\caption{{{caption}}}", f"\\label{{tab:{board.name}}}", r"\end{table}", "",
    ])  # fmt: skip


def _latex_row(
    board: Board, row: dict[str, Any], usual: dict[str, str], ranked: bool, compared: dict[str, Any], bold: set[str]
) -> str:
    model = row["model"]
    cite = ",".join(key_of(s) for s in cited(row))
    name, accuracy = latex(model), latex(usual["test acc %"])
    if model in bold:
        name, accuracy = rf"\textbf{{{name}}}", rf"\textbf{{{accuracy}}}"
    cells = [
        name + (rf"~\cite{{{cite}}}" if cite else ""),
        latex(usual["invariant"]),
        usual["parameters"],
        usual["MFLOPs"],
    ]
    cells.append(accuracy or latex(row["status"]))
    if ranked:
        cells.insert(0, latex(rank_text(board, model)))
    if compared:
        c = compared.get(model)
        half = "" if c is None or c.interval is None else rf" \pm {c.interval:.2f}"
        cells += [f"${c.difference:+.2f}{half}$", latex(p_text(c.p_holm))] if c else ["", ""]
    return " & ".join(cells) + r" \\"


def _caption(board: Board, frame: pd.DataFrame) -> list[str]:
    notes = [*accuracy_notes(board, frame), *rank_notes(board), *detectable_note(board)]
    if board.against_reference:
        notes.append(f"Δ: paired difference to {board.reference}, over the same as test acc; p: that it is 0,"
            " corrected by"
                     f" Holm over {some(board.against_reference[0].family, 'comparison')}")  # fmt: skip
    failed = [r["model"] for r in board.rows_of(frame) if r["status"] != "ok"]
    notes += [f"failed runs: {', '.join(failed)}"] if failed else []
    stale = [r["model"] for r in board.rows_of(frame) if r["stale"]]
    return notes + claim_notes(board.rows_of(frame)) + ([f"stale: {', '.join(stale)}"] if stale else [])


def sentences(board: Board, notes: Iterable[str]) -> str:
    """Notes as one paragraph; a model's name is written as it is."""
    named = {f"{model}{end}" for model in board.runs for end in ("", ":")}
    return " ".join(f"{n if n.split(' ', 1)[0] in named else n[:1].upper() + n[1:]}." for n in notes)
