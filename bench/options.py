"""Options that several commands of the command line share."""

from __future__ import annotations

import math
from typing import Any

import click

from ..registry import UserError

include_option = click.option(
    "--include", "includes", multiple=True, metavar="FILE", help="A Python file that registers models or data sets."
)
results_option = click.option("--results", metavar="DIR", help="Results folder [$EQUIBENCH_RESULTS, else ./leaderboards].")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


def positive(option: str, value: Any) -> Any:
    if value is not None and not 0 < value < math.inf:
        raise UserError(f"{option} {value}: it must be a number above zero")
    return value
