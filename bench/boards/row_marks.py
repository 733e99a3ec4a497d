"""Marks: warnings about a row of a board or about some of its values. All outputs use the marks of this module."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..records.kept_verdicts import NO
from .claims import is_broken

#: Columns of the CSV that the usual table shows, and their headings.
HEADINGS_OF = {
    "rank_low": "rank", "model": "model", "treatment": "treatment", "evaluation": "evaluation", "claim": "invariant",
    "parameters": "parameters", "frozen": "frozen", "buffers": "buffers", "flops_per_image": "MFLOPs",
    "test_acc_mean_pct": "test acc %", "test_acc_ci95_pct": "test acc %", "eq_exact_c4": "C4 error",
    "eq_rot_analytic": "rotation error", "examples": "examples", "step_ms_mean": "step ms", "train_s_mean": "train s",
    "peak_mib_max": "peak MiB", "runs_ok": "runs", "status": "status",
}  # fmt: skip


#: If a step of one run takes this many times as long as a step of another, their mean does not measure the model: other
#: work or another machine changed one of them. All runs of a row do the same operations in a step.
UNEQUAL_TIMES = 1.5


@dataclass(frozen=True)
class Mark:
    """A warning about a row, or about some of its values.

    Attributes:
        name: the kind: ``status``, ``incomplete``, ``broken``, ``claim``, ``stale``, ``repeated``, ``diverged``,
            ``collapsed``, ``unchecked``, ``uncounted``, ``treatment``, ``evaluation``, ``frozen``,
            ``shared``, ``unequal times`` or ``launch bound``.
        words: text of the mark.
        columns: columns of the CSV that it is about; empty if it is about the whole row.
        sign: text after the values of these columns; empty if the values need no sign.
        about_row: whether `words` is shown in the row if none of these columns is shown.
    """

    name: str
    words: str
    columns: tuple[str, ...] = ()
    sign: str = ""
    about_row: bool = True


def marks_of(row: dict[str, Any]) -> list[Mark]:
    """The marks of a row of `rows.model_rows`, the most serious first."""
    found = []
    if row["status"] != "ok":
        found.append(Mark("status", row["status"], ("status",)))
    if row["runs_ok"] < row["runs"]:
        found.append(Mark("incomplete", f"{row['runs_ok']}/{row['runs']} runs", ("runs_ok",)))
    if row["runs_diverged"] and row["status"] != "diverged":
        found.append(Mark("diverged", f"{row['runs_diverged']} diverged"))
    if row["runs_collapsed"]:
        found.append(Mark("collapsed", f"{row['runs_collapsed']} collapsed"))
    if row["claim"] != row["invariant"]:
        found.append(Mark("broken" if is_broken(row) else "claim", row["claim"], ("claim",)))
    if row["stale"]:
        found.append(Mark("stale", "stale"))
    if row["repeated"]:
        found.append(Mark("repeated", row["repeated"]))
    if row["checked"] not in ("", "yes"):
        found.append(Mark("unchecked", "not checked" if row["checked"] == NO else "check failed"))
    if row["uncounted"] and isinstance(row["uncounted"], str):
        found.append(Mark("uncounted", "operations not counted", ("flops_per_image",), "+", False))
    for name in ("treatment", "evaluation"):
        if row[name]:
            found.append(Mark(name, f"{name} {row[name]}", (name,)))
    if row["frozen"] and row["frozen"] == row["frozen"]:
        found.append(Mark("frozen", f"{row['frozen']:,.0f} frozen", ("frozen",)))
    if shared := row["runs_shared"]:
        sign = "shared" if not row["runs_timed"] else f" ({shared} shared)"
        found.append(Mark("shared", f"{shared} shared a device", ("step_ms_mean", "train_s_mean"), sign, False))
    if (ratio := row["step_ms_ratio"]) and ratio > UNEQUAL_TIMES:
        words = f"times differ by a factor of {ratio:.1f}"
        found.append(Mark("unequal times", words, ("step_ms_mean", "train_s_mean"), " ~", False))
    if row["runs_launch_bound"]:
        found.append(Mark("launch bound", "limited by launches", ("step_ms_mean",), " *", False))
    return found


def marks_text(row: dict[str, Any]) -> str:
    """The words of all marks of a row, for the CSV; empty if there is none."""
    return "; ".join(mark.words for mark in marks_of(row))


def with_marks(cells: dict[str, str], row: dict[str, Any]) -> dict[str, str]:
    """The cells of a row of a table with its marks: after the values that they are about, else after the status, or
    after the model's name if no status is shown.
    """
    heading = {column: shown for column, shown in HEADINGS_OF.items() if shown in cells}
    cells, words = dict(cells), []
    for mark in marks_of(row):
        places = [heading[column] for column in mark.columns if column in heading]
        for place in places:
            cells[place] += mark.sign
        if mark.about_row and not places:
            words.append(mark.words)
    if words and "status" in cells:
        cells["status"] = f"{cells['status']} ({', '.join(words)})"
    elif words and "model" in cells:
        cells["model"] = f"{cells['model']} [{', '.join(words)}]"
    return cells


def models_with_mark(rows: Iterable[dict[str, Any]], *names: str) -> list[str]:
    """The models whose rows have one of these marks."""
    return [row["model"] for row in rows if any(mark.name in names for mark in marks_of(row))]
