"""The data for the page of a board, and the table of all its runs with a schema of its columns."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from typing import TYPE_CHECKING, Any

from ..boards.board import Board
from ..boards.notes import board_heading, board_notes, is_missing
from ..boards.reported import reported_rows
from ..boards.row_marks import marks_of
from ..boards.rows import COMPARED
from ..records.record import RunRecord
from ..tools.files import shipped
from .bibtex import board_entry
from .repeat_commands import cautions, commands, suites_of
from .view import comparison_note

if TYPE_CHECKING:
    import pandas as pd

#: Columns that the page shows by default: heading, digits after the point (None: as it is), scale.
SHOWN: dict[str, tuple[str, int | None, float]] = {
    "model": ("model", None, 1), "rank_low": ("rank", 0, 1), "test_acc_mean_pct": ("test accuracy %", 2, 1),
    "parameters": ("parameters", 0, 1), "frozen": ("frozen", 0, 1), "buffers": ("buffers", 0, 1),
    "flops_per_image": ("MFLOPs", 1, 1e-6), "eq_exact_c4": ("C4 error", None, 1),
    "eq_rot_analytic": ("rotation error", None, 1), "train_s_mean": ("train s", 1, 1), "claim": ("invariant", None, 1),
    "family": ("family", None, 1), "runs_ok": ("runs ok", 0, 1), "status": ("status", None, 1),
    "marks": ("marks", None, 1),
}  # fmt: skip
#: Columns that the page computes from the pairs, for the chosen reference.
_COMPARED = ("reference_model", *COMPARED)


def payload(board: Board, figures: list[dict[str, Any]], downloads: list[str], left_out: str = "") -> dict[str, Any]:
    """The document of a board, in the form that ``site.js`` reads.

    Args:
        figures: for each figure: ``stem``, ``title``, ``kinds`` (formats, separated by blanks), and the result of
            `handles.for_page`.
        downloads: paths in the site's folder.
        left_out: a sentence on missing figures.
    """
    frame = board.frame
    records = board.rows_of(frame)
    order = [*SHOWN, *(c for c in frame.columns if c not in SHOWN and c not in _COMPARED)]
    columns = []
    for key in order:
        label, digits, scale = SHOWN.get(key, (key, None, 1))
        columns.append({"key": key, "label": label, "on": key in SHOWN, "digits": digits, "scale": scale})
    models, spec = [r["model"] for r in records], board.chosen[0][0].spec
    notes = board_notes(board, frame, bold=True)
    if board.against_reference:
        notes.append(comparison_note(board.against_reference, agree=False))
    return {
        "name": board.name,
        "heading": board_heading(board),
        "notes": notes,
        "reference": board.reference or "",
        "columns": columns,
        "rows": [[cell(row[c]) for c in order] for row in records],
        # If there is no valid interval, a row shows the value of each seed.
        "values": [
            None if (s := board.samples.get(m)) is None or s.has_interval else list(s.values.values()) for m in models
        ],
        # Marks of a row: kind, words, columns that it is about (empty: the whole row), sign after a value.
        "marks": [[[m.name, m.words, list(m.columns), m.sign] for m in marks_of(row)] for row in records],
        "pairs": _pairs(board, models),
        "runs": [[_run(r, stale) for r, stale in board.runs[m]] for m in models],
        "provenance": [_provenance(board.counted[m]) for m in models],
        "figures": figures,
        "left_out": left_out,
        "reported": reported_rows(spec.dataset),
        "downloads": downloads,
        "commands": commands(suites_of(board), spec.recipe.name, board.name),
        "cautions": cautions(board),
        "cite": board_entry(board),
    }


def script(document: dict[str, Any], receiver: str = "equibench") -> str:
    """The document as a script that passes it to a function of the page, the `receiver`. A page opened from disk can
    load scripts, but not JSON.
    """
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    # So the text cannot end a script element if somebody copies it into a page.
    return f"{receiver}({text.replace('<', chr(92) + 'u003c')});\n"


def cell(value: Any) -> Any:
    """A number of at most six significant digits, text, or None."""
    if is_missing(value):
        return None
    if isinstance(value, str | bool):
        return value
    number = float(value)
    return int(number) if number.is_integer() and abs(number) < 1e15 else float(f"{number:.6g}")


def _pairs(board: Board, models: list[str]) -> dict[str, list[Any]]:
    """Difference, half-width, p, number of pairs and sign-flip p of (row i - row j), i < j, row by row; None if
    there is none.
    """
    position, count = {m: i for i, m in enumerate(models)}, len(models)
    keys = ("difference", "half", "p", "signs", "n")
    columns: dict[str, list[Any]] = {key: [None] * (count * (count - 1) // 2) for key in keys}
    for c in board.all_pairs:
        i, j, sign = position[c.model], position[c.reference], 1
        if i > j:
            i, j, sign = j, i, -1
        at = i * (2 * count - i - 1) // 2 + j - i - 1
        columns["difference"][at] = round(sign * c.difference, 3) + 0.0
        columns["half"][at] = None if c.interval is None else round(c.interval, 3)
        columns["p"][at] = None if c.p is None else float(f"{c.p:.4g}")
        columns["signs"][at] = float(f"{c.p_sign_flip:.3g}")
        columns["n"][at] = c.pairs
    if len(set(columns["n"])) == 1:  # the page reads one value as the value of all pairs
        del columns["n"][1:]
    return columns


def _run(record: RunRecord, stale: str) -> list[Any]:
    accuracy = record.results.test_acc_pct if record.results else None
    return [record.spec.seed, record.status, cell(accuracy), record.file_name, stale, record.reason]


def _provenance(records: list[RunRecord]) -> dict[str, str]:
    """The provenance of the runs of a model; different values are listed."""
    facts: dict[str, dict[str, None]] = {}
    for r in records:
        p = r.provenance
        versions = ", ".join(f"{k} {v}" for k, v in sorted(p.versions.items()) if v != "absent")
        values = {
            "hardware": p.hardware.get("hardware_key", "unknown"), "versions": versions, "threads": str(p.threads),
            "source hash": p.source_hash, "data digest": p.data_digest[:16], "trained": p.started[:10],
            "suite": r.context.suite,
            "commit": p.commit[:12], "harness hash": p.harness_hash,
        }  # fmt: skip
        for key, value in values.items():
            if value:
                facts.setdefault(key, {})[value] = None
    return {key: "; ".join(list(values)[:6]) + (" …" if len(values) > 6 else "") for key, values in facts.items()}


@cache
def _run_columns() -> dict[str, list[str]]:
    return tomllib.loads(shipped("bench", "publish", "run_columns.toml"))


def column(name: str) -> dict[str, str]:
    """A column of ``<board>.runs.csv`` as a field of a Frictionless Table Schema; KeyError if it is not described."""
    base = name.removesuffix("_init")
    kind, unit, meaning = _run_columns()[
        "phase_*" if name.startswith("phase_") else base if base in _run_columns() else name
    ]
    if base != name:
        meaning = f"{base} before training"
    return {"name": name, "type": kind, **({"unit": unit} if unit else {}), "description": meaning}


def run_schema(board: str, frame: pd.DataFrame) -> dict[str, Any]:
    """The Frictionless Table Schema of the runs of a board: one field per column, in order."""
    return {
        "$schema": "https://datapackage.org/profiles/2.0/tableschema.json",
        "title": f"{board}: one row per run",
        "fields": [column(name) for name in frame.columns],
        "primaryKey": ["run"],
        "missingValues": [""],
    }


def run_table(board: Board, frame: pd.DataFrame) -> dict[str, Any]:
    """The data of the table for the page: fields, rows, and the file of each row's record."""
    rows = [[cell(value) for value in row] for row in frame.astype(object).itertuples(index=False)]
    files = [record.file_name for record, _ in board.chosen]
    return {"name": board.name, "fields": run_schema(board.name, frame)["fields"], "rows": rows, "records": files}
