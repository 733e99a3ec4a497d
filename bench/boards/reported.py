"""Values from papers: read and checked, shown below measured boards, never mixed with them.

``leaderboards/reported.csv`` has one row per value. Every value has a source. ``seen`` means that someone read the
source and found the number there; ``unverified`` means that nobody did. This module needs no torch.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ...registry import UserError
from ..tools.files import shipped
from ..tools.markup import for_latex

if TYPE_CHECKING:
    import pandas as pd


def _trimmed(text: str) -> str:
    if not text or text != text.strip():
        raise ValueError("should be a text, without blanks at its ends")
    return text


def _digits(cell: Any) -> Any:
    if cell and not (cell.isascii() and cell.isdigit()):
        raise ValueError("should be a whole number above zero, without separators")
    return cell or None


def _cell(meaning: str) -> Any:
    return Field(description=meaning)


Cell = Annotated[str, AfterValidator(_trimmed)]
Percentage = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Whole = Annotated[Annotated[int, Field(gt=0)] | None, BeforeValidator(_digits)]
Status = Literal["seen", "unverified"]
STATUSES: tuple[str, ...] = get_args(Status)


class Reported(BaseModel):
    """A row of the table, made from the texts of its cells."""

    model_config = ConfigDict(frozen=True)

    method: Cell = _cell("the name of the method in its source")
    family: Cell = _cell("architecture family, as for registered models; 'other' if no such model is registered")
    dataset: Cell = _cell("data set and split of the source")
    metric: Literal["error", "accuracy"] = _cell("'error' or 'accuracy' on the test set")
    value: Percentage = _cell("the reported value, in `unit`")
    spread: Annotated[Percentage | None, BeforeValidator(lambda text: text or None)] = _cell(
        "standard deviation over runs, in `unit`; empty if the source has none"
    )
    unit: Literal["%"] = _cell("'%'")
    parameters: Whole = _cell("number of trainable parameters, rounded as in the source; empty if the source has none")
    augmentation: Cell = _cell("augmentation of the training data; 'unknown' if the source does not state it")
    epoch_selection: Literal["last", "best test", "unknown"] = _cell(
        "how the reported epoch was chosen: 'last', 'best test' or 'unknown'"
    )
    runs: Whole = _cell("number of runs for the value; empty if the source does not state it")
    source: Cell = _cell("publication, and the place of the value in it")
    status: Status = _cell("'seen' in that source, or 'unverified'")


#: Meaning of the columns, in their order.
COLUMNS = {name: str(field.description) for name, field in Reported.model_fields.items()}


def read_reported(path: str | Path | None = None) -> pd.DataFrame:
    """The reported figures, every row checked.

    Args:
        path: a CSV file; None means the shipped one.

    Returns:
        A frame with the columns `COLUMNS`; value and spread are floats, parameters and runs nullable integers.

    Raises:
        UserError: the file is missing or not such a table, or a cell is wrong; names row and column. The header is row
            1.
    """
    import pandas as pd

    name = "reported.csv" if path is None else str(path)
    try:
        text = shipped("leaderboards", "reported.csv") if path is None else Path(path).read_text(encoding="utf-8-sig")
        frame = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False, skip_blank_lines=False)
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror})") from error
    except ValueError as error:  # pandas' parser and decoding errors are among them
        raise UserError(f"{name} is not a table of reported figures: {error}") from error
    if list(frame.columns) != list(COLUMNS):
        found = ", ".join(map(str, frame.columns))
        raise UserError(f"{name}: the columns must be {', '.join(COLUMNS)}, not {found:.400}")
    rows = [row.model_dump() for row in _rows(frame.to_dict("records"), name)]
    numbers = {"value": "float", "spread": "float", "parameters": "Int64", "runs": "Int64"}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(numbers)


def reported_rows(dataset: str = "") -> list[dict[str, str]]:
    """The reported figures of a data set (of all if empty) as text, best first within a data set.

    Accuracies are converted to errors, so that they can be compared.
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
    parameters, runs = ("" if pd.isna(row[key]) else f"{int(row[key]):,}" for key in ("parameters", "runs"))
    return {
        "method": row["method"], "data set": row["dataset"], "test error %": f"{round(row['error'], 4):g}{spread}",
        "parameters": parameters, "augmentation": row["augmentation"], "epoch": row["epoch_selection"], "runs": runs,
        "status": row["status"], "source": row["source"],
    }  # fmt: skip


def reported_table(dataset: str, style: str = "simple") -> str:
    """The reported figures of a data set under a separate heading; empty if there are none."""
    from tabulate import tabulate

    rows = [{k: v for k, v in row.items() if k != "data set"} for row in reported_rows(dataset)]
    if not rows:
        return ""
    heading = (
        f"Reported by papers for {dataset}, NOT measured here: training, preprocessing, splits and the choice of the"
        " epoch differ from row to row; the column 'status' says whether the source was seen"
    )
    table = tabulate(rows, headers="keys", tablefmt=style, disable_numparse=True)
    return f"{heading}\n\n{for_latex(table, style)}"


def _rows(cells: list[dict[Any, Any]], name: str) -> list[Reported]:
    """The checked rows of a table; a value that is there twice is an error."""
    rows: list[Reported] = []
    seen: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(cells, start=2):
        try:
            found = Reported.model_validate(row)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            message = first["msg"].removeprefix("Value error, ")
            where = f"{name}, row {number}, column {first['loc'][0]!r}"
            raise UserError(f"{where}: {message[0].lower() + message[1:]}, not {first['input']!r:.200}") from error
        key = (found.method, found.dataset, found.metric, found.augmentation, found.source)
        if key in seen:
            raise UserError(f"{name}, row {number}, column 'method': {found.method!r} repeats row {seen[key]}")
        seen[key] = number
        rows.append(found)
    return rows
