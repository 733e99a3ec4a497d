"""The table of all runs of a board, with a schema that describes its columns."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from typing import TYPE_CHECKING, Any

from ..boards.board import Board
from ..tools.files import shipped
from .payload import cell

if TYPE_CHECKING:
    import pandas as pd

_BEFORE = "_init"


@cache
def _known() -> dict[str, list[str]]:
    return tomllib.loads(shipped("bench", "publish", "run_columns.toml"))


def column(name: str) -> dict[str, str]:
    """A column of ``<board>.runs.csv`` as a field of a Frictionless Table Schema: name, type, unit, description.

    Raises:
        KeyError: ``run_columns.toml`` does not describe it.
    """
    base = name.removesuffix(_BEFORE)
    kind, unit, meaning = _known()["phase_*" if name.startswith("phase_") else base if base in _known() else name]
    if base != name:
        meaning = f"{base} before training"
    return {"name": name, "type": kind, **({"unit": unit} if unit else {}), "description": meaning}


def schema(board: str, frame: pd.DataFrame) -> dict[str, Any]:
    """The Frictionless Table Schema of the runs of a board: one field per column, in order."""
    return {
        "$schema": "https://datapackage.org/profiles/2.0/tableschema.json",
        "title": f"{board}: one row per run",
        "fields": [column(name) for name in frame.columns],
        "primaryKey": ["run"],
        "missingValues": [""],
    }


def schema_text(board: str, frame: pd.DataFrame) -> str:
    """The schema as a JSON document."""
    return json.dumps(schema(board, frame), indent=1, ensure_ascii=False) + "\n"


def document(board: Board, frame: pd.DataFrame) -> dict[str, Any]:
    """The data of the table for the page: fields, rows, and the file of each row's record."""
    rows = [[cell(value) for value in row] for row in frame.astype(object).itertuples(index=False)]
    files = [record.file_name for record, _ in board.chosen]
    return {"name": board.name, "fields": schema(board.name, frame)["fields"], "rows": rows, "records": files}
