"""Options that several commands of the command line share."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..tools.machine import Machine


class Finite(click.FloatRange):
    """A number of a range; of those that no comparison refuses, as ``nan``, none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


COUNT, SECONDS = click.IntRange(min=1), Finite(min=0, min_open=True)

include_option = click.option(
    "--include", "includes", multiple=True, metavar="FILE", help="A Python file that registers models or data sets."
)
reference_option = click.option(
    "--reference-parameters", type=COUNT, metavar="N",
    help="Call models matched whose parameters are within 5 % of N [of the reference model's].",
)  # fmt: skip
results_option = click.option(
    "--results", metavar="DIR", help="Results folder [$EQUIBENCH_RESULTS, else ./leaderboards]."
)
wide_option = click.option("--wide", is_flag=True, help="All columns, however narrow the terminal is.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")


_MACHINE = (
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:<i>, several with commas."
    ),
    click.option("--jobs", type=COUNT, help="Runs at a time [one a device; on a CPU one a core, at most 4]."),
    click.option("--threads", type=COUNT, default=1, show_default=True, help="CPU threads of each run."),
    click.option(
        "--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache]."
    ),
    click.option("--quiet", is_flag=True, help="No progress display."),
)
seeds_in_parallel_option = click.option(
    "--seeds-in-parallel",
    type=COUNT,
    default=1,
    show_default=True,
    metavar="S",
    help="E budgets: so many seeds share one GPU; their times are left out of tables.",
)


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that trains here: where, how many at a time, and what is shown; see `machine_of`."""
    for option in reversed(_MACHINE):
        command = option(command)
    return command


def machine_of(options: dict[str, Any]) -> Machine:
    """What a command's options say about where and how runs are executed; those that it does not have are as usual."""
    from ..tools.machine import Machine

    return Machine(
        options["device"],
        options.get("jobs"),
        options["threads"],
        options.get("deadline"),
        options.get("checkpoint_s", Machine.checkpoint_s),
        options.get("seeds_in_parallel", 1),
        options["data_root"],
        options["includes"],
        command_line(),
    )


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
