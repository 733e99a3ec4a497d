"""Figures that papers report: read and checked, shown beside measured boards, never mixed with them.

``leaderboards/reported.csv`` has one row a figure. Every figure has a source; ``seen`` says that the source was
opened and shows the number, ``unverified`` that it was not. Nothing here needs torch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...registry import UserError
from ..tools.files import shipped
from ..tools.markup import for_latex

if TYPE_CHECKING:
    import pandas as pd

#: Meaning of the columns, in their order.
COLUMNS = {
    "method": "the method as its source calls it",
    "family": "architecture family, as of registered models; 'other' where nothing of it is registered",
    "dataset": "data set and split of the source",
    "metric": "'error' or 'accuracy' on the test set",
    "value": "the figure, in `unit`",
    "spread": "standard deviation over runs, in `unit`; empty where the source has none",
    "unit": "'%'",
    "parameters": "trainable parameters as the source says, rounded as there; empty where it is silent",
    "augmentation": "of the training data; 'unknown' where the source is silent",
    "epoch_selection": "how the reported epoch was chosen: 'last', 'best test' or 'unknown'",
    "runs": "runs behind the figure; empty where the source is silent",
    "source": "where the figure stands",
    "status": "'seen' in that source, or 'unverified'",
}
METRICS = ("error", "accuracy")
SELECTIONS = ("last", "best test", "unknown")
STATUSES = ("seen", "unverified")


def read_reported(path: str | Path | None = None) -> pd.DataFrame:
    """The reported figures, every row checked.

    Args:
        path: a CSV file; the shipped one without.

    Returns:
        A frame with the columns `COLUMNS`; value and spread are floats, parameters and runs nullable integers.

    Raises:
        UserError: the file is missing or not such a table, or a cell is wrong; it names row and column. The header
            is row 1.
    """
    import pandas as pd

    name = "reported.csv" if path is None else str(path)
    try:
        text = shipped("leaderboards", "reported.csv") if path is None else Path(path).read_text(encoding="utf-8-sig")
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror})") from error
    except ValueError as error:  # pandas' parser and decoding errors are among them
        raise UserError(f"{name} is no table of reported figures: {error}") from error
    if list(frame.columns) != list(COLUMNS):
        raise UserError(
            f"{name}: the columns must be {', '.join(COLUMNS)}, not {', '.join(map(str, frame.columns)):.400}"
        )
    _check_rows(frame, name)
    for column in ("value", "spread"):
        frame[column] = pd.to_numeric(frame[column].replace("", None))
    for column in ("parameters", "runs"):
        frame[column] = pd.to_numeric(frame[column].replace("", None)).astype("Int64")
    return frame


def reported_rows(dataset: str = "") -> list[dict[str, str]]:
    """The reported figures of a data set (of all without) as text, best first within a data set.

    Accuracies are turned into errors, so that they can be read beside each other.
    """
    frame = read_reported()
    if dataset:
        frame = frame[frame["dataset"] == dataset]
    accuracy = frame["metric"] == "accuracy"
    frame = frame.assign(error=frame["value"].where(~accuracy, 100 - frame["value"]))
    frame = frame.sort_values(["dataset", "error", "method"], kind="stable")
    return [_reported_row(row) for row in frame.to_dict("records")]


def _reported_row(row: dict[str, Any]) -> dict[str, str]:
    import pandas as pd

    spread = "" if pd.isna(row["spread"]) else f" ± {row['spread']:g}"
    known = {key: "" if pd.isna(row[key]) else f"{int(row[key]):,}" for key in ("parameters", "runs")}
    return {
        "method": row["method"],
        "data set": row["dataset"],
        "test error %": f"{round(row['error'], 4):g}{spread}",
        "parameters": known["parameters"],
        "augmentation": row["augmentation"],
        "epoch": row["epoch_selection"],
        "runs": known["runs"],
        "status": row["status"],
        "source": row["source"],
    }


def reported_table(dataset: str, style: str = "simple") -> str:
    """The reported figures of a data set under a heading that sets them apart; empty if there are none."""
    from tabulate import tabulate

    rows = [{k: v for k, v in row.items() if k != "data set"} for row in reported_rows(dataset)]
    if not rows:
        return ""
    heading = (
        f"Reported by papers for {dataset}, NOT measured here: training, preprocessing, splits and the choice of the"
        " epoch differ from row to row; the column 'status' says whether the source was seen"
    )
    return f"{heading}\n\n{for_latex(tabulate(rows, headers='keys', tablefmt=style, disable_numparse=True), style)}"


def _check_rows(frame: pd.DataFrame, name: str) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(frame.to_dict("records"), start=2):
        for column, check in _CHECKS.items():
            problem = check(row[column])
            if problem:
                raise UserError(f"{name}, row {number}, column {column!r}: {row[column]!r:.200} {problem}")
        key = tuple(row[c] for c in ("method", "dataset", "metric", "augmentation", "source"))
        if key in seen:
            raise UserError(f"{name}, row {number}, column 'method': {row['method']!r} repeats row {seen[key]}")
        seen[key] = number


def _is_text(cell: Any) -> str:
    """What is wrong with a cell that must hold text; empty if nothing."""
    return "" if isinstance(cell, str) and cell.strip() and cell == cell.strip() else "is no text; it must not be empty"


def _is_one_of(*choices: str) -> Callable[[Any], str]:
    return lambda cell: "" if cell in choices else f"is none of {', '.join(map(repr, choices))}"


def _is_percentage(cell: Any) -> str:
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return "is no number"
    return "" if math.isfinite(number) and 0 <= number <= 100 else "is no percentage from 0 to 100"


def _is_count(cell: Any) -> str:
    digits = isinstance(cell, str) and cell.isascii() and cell.isdigit()
    return "" if digits and int(cell) > 0 else "is no positive whole number without separators"


def _or_empty(check: Callable[[Any], str]) -> Callable[[Any], str]:
    return lambda cell: "" if cell == "" else check(cell)


_CHECKS: dict[str, Callable[[Any], str]] = {
    "method": _is_text,
    "family": _is_text,
    "dataset": _is_text,
    "metric": _is_one_of(*METRICS),
    "value": _is_percentage,
    "spread": _or_empty(_is_percentage),
    "unit": _is_one_of("%"),
    "parameters": _or_empty(_is_count),
    "augmentation": _is_text,
    "epoch_selection": _is_one_of(*SELECTIONS),
    "runs": _or_empty(_is_count),
    "source": _is_text,
    "status": _is_one_of(*STATUSES),
}
