"""Options that several commands of the command line share."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
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


#: Options whose values say where things lie on one machine. They change no figure, and records are published.
_PLACES = ("--results", "--data-root")


def command_line(arguments: list[str] | None = None) -> str:
    """The command as records keep it: without folders of this machine, and files by their names.

    Args:
        arguments: of the command line; by default, those of this process.
    """
    kept: list[str] = []
    rest = iter(sys.argv[1:] if arguments is None else arguments)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in _PLACES:
            if not equals:
                next(rest, None)
        elif option == "--include" and equals:
            kept.append(f"{option}={Path(value).name}")
        else:
            kept.append(Path(word).name if word.endswith((".py", ".toml")) else word)
    return shlex.join(["equibench", *kept])
