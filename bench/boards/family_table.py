"""A family of boards as one table: models by points, with the slope of the error."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from ..tools.markup import for_latex
from ..tools.text import plural
from .families import BoardFamily, Point
from .notes import seeds_text
from .row_marks import marks_of
from .rows import csv_text
from .statistics import SMALLEST_SAMPLE
from .terminal_table import accuracy_text, around_table, in_cell, in_text

if TYPE_CHECKING:
    import pandas as pd

    from .slopes import Slope

#: Kinds of effort, and their names in plots and columns.
SPENT = {
    "images": "training images",
    "examples": "training examples",
    "flops": "FLOPs of training",
    "seconds": "device-seconds",
}


def cell(point: Point, model: str) -> str:
    """The accuracy of a model at a point: mean ± interval, the value of each seed below 3 seeds, or the status of its
    runs.
    """
    row = point.rows.get(model)
    if row is None:
        return ""
    return accuracy_text(row, point.sample(model)) or str(row["status"])


def slope_text(slope: Slope | None) -> str:
    """α ± its interval; a dash if there is none."""
    if slope is None or slope.exponent is None:
        return "-"
    return f"{slope.exponent:.2f}" + ("" if slope.interval is None else f" ± {slope.interval:.2f}")


def slopes(family: BoardFamily, what: str | None = None) -> dict[tuple[str, str], Slope | None]:
    """The slope of every model on every line, by (model, line), against `what`; None means the family's own axis."""
    return {
        (model, line): family.slope(model, what or family.own_axis, points)
        for line, points in family.lines
        for model in family.models
    }


def rows_of(family: BoardFamily, mark: Any = None) -> list[dict[str, str]]:
    """The table as text, one row per model; `mark` marks a cell if rank 1 is possible for the model at that point."""
    found, rows = slopes(family), []
    for model in family.models:
        row = {"model": model}
        for point in family.points:
            text = cell(point, model)
            best = text and mark is not None and point.board is not None and model in point.board.best
            row[family.label(point)] = mark(text) if best else text
        row |= {f"slope ({line})" if line else "slope": slope_text(found[model, line]) for line, _ in family.lines}
        rows.append(row)
    return rows


def heading(family: BoardFamily) -> str:
    """One line that describes the family."""
    suite = family.points[0].suite
    budgets = ", ".join(dict.fromkeys(p.suite.budget for p in family.points))
    images = ", ".join(f"{n:,}" for n in dict.fromkeys(p.images for p in family.points))
    fit = " (validation images included)" if suite.fit == "train+val" else ""
    what = f"{family.name}: {suite.dataset} with {images} training images{fit}, budget {budgets}"
    return f"{what}, recipe {suite.recipe}, profile {suite.profile}"


def notes(family: BoardFamily, mark: str) -> list[str]:
    """The sentences under the table; `mark` (``bold`` or ``*``) is the mark of models for which rank 1 is possible."""
    subset = any(p.suite.train_images for p in family.points)
    drawn = "each seed has its own training images: balanced by class, smaller sets are parts of larger sets, the same"
    return [
        _accuracy_note(family, mark),
        *([f"{drawn} for all models"] if subset else []),
        *_slope_notes(family),
        *_gaps(family),
    ]


def _accuracy_note(family: BoardFamily, mark: str) -> str:
    samples = [s for p in family.measured for m in family.models if (s := p.sample(m)) is not None]
    if not samples:
        return "no model has a result"
    shown = [s for s in samples if s.has_interval]
    if not shown:
        return "cells: test accuracy in % of each seed"
    over = "new seeds"
    if any(s.is_by_image for s in shown):
        every = all(s.is_by_image for s in shown)
        over += " and new test images" if every else ", and new test images if predictions are recorded"
    text = f"cells: test accuracy in %, mean ± 95 % interval over {over} ({seeds_text(shown)})"
    if len(shown) < len(samples):
        text += f"; the value of each seed below {SMALLEST_SAMPLE} seeds, or if a run diverged"
    if any(board.best for board in family.boards):
        text += f"; {mark}: rank 1 is possible on that board, with 95 % confidence for all of its models together"
    return text


def _slope_notes(family: BoardFamily) -> Iterator[str]:
    found = slopes(family)
    known = [s for s in found.values() if s is not None and s.exponent is not None]
    if known:
        over = sorted({s.over for s in known if s.over})
        half = f" (an interval needs {SMALLEST_SAMPLE} seeds)"
        if over:
            half = f", ± 95 % interval over new {' or new '.join(over)}"
        points = " or ".join(map(str, sorted({s.points for s in known})))
        yield (
            f"slope: α of error ∝ {family.own_axis}^-α, by least squares of the logarithms for each seed, mean over"
            f" the seeds{half}; it assumes that the error is a power between the first and the last of {points}"
            " points, and is not valid outside of them"
        )
    for (model, line), slope in found.items():
        if slope is not None and slope.why_not:
            yield f"{model}{f' ({line})' if line else ''}: no slope, because {slope.why_not}"


def _gaps(family: BoardFamily) -> Iterator[str]:
    missing = [family.label(p) for p in family.points if p.board is None]
    if missing:
        yield f"not measured yet: {'; '.join(missing)}"
    for point, board in zip(family.measured, family.boards, strict=True):
        label, found = family.label(point), dict[str, list[str]]()
        for model in family.models:
            row = point.rows.get(model)
            if row is None:
                yield f"{model} is not measured at {label}"
                continue
            if row["reason"]:
                yield f"{model} at {label}: {row['reason']}"
            for mark in marks_of(row):
                if mark.name in _MARKS:
                    found.setdefault(mark.words, []).append(model)
        stale = [m for m, row in point.rows.items() if row["stale"]]
        if stale:
            yield f"stale (source, data or recipe changed since) on {board.name}: {', '.join(stale)}"
        yield from (f"{words} at {label}: {', '.join(models)}" for words, models in found.items())
    yield f"{plural(len(family.boards), 'board')}: {', '.join(board.name for board in family.boards)}"


#: Marks of rows without a column in a family's table. Stale rows and failures have separate sentences.
_MARKS = ("incomplete", "diverged", "collapsed", "broken", "claim", "unchecked", "repeated")


def family_text(family: BoardFamily, style: str = "simple") -> str:
    """The table in a format of tabulate, with its title, heading and notes."""
    bold = {"github": lambda text: f"**{text}**", "pipe": lambda text: f"**{text}**"}.get(style)
    rows = rows_of(family, bold or (lambda text: f"{text} *"))
    if not bold:
        rows = [{key: in_cell(text, style) for key, text in row.items()} for row in rows]
    align = ["left"] + ["right"] * (len(rows[0]) - 1)
    table = tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True, colalign=align)
    above = [*([family.title] if family.title else []), heading(family)]
    lines, below = ([in_text(t, style) for t in part] for part in (above, notes(family, "bold" if bold else "*")))
    return around_table(lines, for_latex(table, style), below, style)


def file_name(family: BoardFamily) -> str:
    """Prefix of its files; no board's name begins like this."""
    return "family-" + re.sub(r"[^A-Za-z0-9._+-]", "-", family.name)


#: Columns of `point_rows` that are those of the board.
_KEPT = (
    "runs", "runs_ok", "status", "test_acc_mean_pct", "test_acc_ci95_pct", "test_acc_ci95_over", "rank_low",
    "rank_high", "stale",
)  # fmt: skip


def point_rows(family: BoardFamily) -> pd.DataFrame:
    """One row per model and point, in plain numbers."""
    import pandas as pd

    return pd.DataFrame([
        {
            "family": family.name, "model": model, "board": board.name, "train_images": point.images,
            "budget": point.suite.budget, "examples": row["examples"], "train_flops": point.spent(model, "flops"),
            "train_s_mean": row["train_s_mean"], **{key: row[key] for key in _KEPT},
        }
        for model in family.models
        for point, board in zip(family.measured, family.boards, strict=True)
        if (row := point.rows.get(model)) is not None
    ])  # fmt: skip


#: Columns of `slope_rows`, whether or not it has rows.
_SLOPES = ("family", "model", "against", "line", "slope", "slope_ci95", "slope_ci95_over", "seeds", "points", "reason")


def slope_rows(family: BoardFamily) -> pd.DataFrame:
    """One row per model, line and kind of effort, if the effort differs between the points."""
    import pandas as pd

    rows = [
        (family.name, model, what, line, s.exponent, s.interval, s.over, s.seeds, s.points, s.why_not)
        for what in SPENT
        for (model, line), s in slopes(family, what).items()
        if s is not None
    ]
    return pd.DataFrame(rows, columns=list(_SLOPES))


def family_document(family: BoardFamily) -> dict[str, Any]:
    """The family for programs."""
    tables = {"points": point_rows(family), "slopes": slope_rows(family)}
    rows = {key: json.loads(frame.to_json(orient="records")) for key, frame in tables.items()}
    return {"family": family.name, "boards": [board.name for board in family.boards], **rows}


def family_csv(family: BoardFamily) -> str:
    """`point_rows` as CSV, with the slope against the family's own axis as the last columns."""
    frame, found = point_rows(family), slopes(family)
    line_of = {p.board.name: line for line, points in family.lines for p in points if p.board is not None}
    own = [found[model, line_of[board]] for model, board in zip(frame["model"], frame["board"], strict=True)]
    frame["slope_against"] = family.own_axis
    frame["slope"] = [s.exponent if s is not None else None for s in own]
    frame["slope_ci95"] = [s.interval if s is not None else None for s in own]
    return csv_text(frame)
