"""Options that several commands of the command line share."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..spec.option_values import PROFILES, help_text

if TYPE_CHECKING:
    from ..tools.machine import Machine


class Finite(click.FloatRange):
    """A finite number of a range: ``nan`` and ``inf`` are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


COUNT, SECONDS = click.IntRange(min=1), Finite(min=0, min_open=True)

include_option = click.option(
    "--include", "includes", multiple=True, metavar="FILE", help="Python file that registers models or data sets."
)
reference_option = click.option(
    "--reference-parameters", type=COUNT, metavar="N",
    help="Models within 5 % of N parameters count as matched [N of the reference model].",
)  # fmt: skip
results_option = click.option(
    "--results", metavar="DIR", help="Results folder [$EQUIBENCH_RESULTS, else ./leaderboards]."
)
data_root_option = click.option(
    "--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache]."
)
wide_option = click.option("--wide", is_flag=True, help="Show all columns, even in a narrow terminal.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")

_SUITE = (
    click.option("--models", help="Models instead of the suite's, separated by commas."),
    click.option("--dataset", help="Data set instead of the suite's."),
    click.option(
        "--budget",
        help="Budget instead of the suite's: e<epochs>, n<examples>, t<seconds> or a name. Several, separated by"
        " commas, make one board each.",
    ),
    click.option(
        "--train-images", metavar="N", help="Number of training images (500). Several (500,2000) make one board each."
    ),
    click.option(
        "--profile",
        type=click.Choice(list(PROFILES)),
        metavar="NAME",
        help=help_text("Execution profile instead of the suite's.", PROFILES),
    ),
)
_MACHINE = (
    click.option(
        "--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:<i>; several with commas."
    ),
    click.option("--jobs", type=COUNT, help="Runs at a time [one per device; on a CPU one per core, at most 4]."),
    click.option("--threads", type=COUNT, default=1, show_default=True, help="CPU threads of each run."),
    data_root_option,
    click.option("--quiet", is_flag=True, help="Show no progress."),
)
seeds_in_parallel_option = click.option(
    "--seeds-in-parallel",
    type=COUNT,
    default=1,
    show_default=True,
    metavar="S",
    help="E budgets: number of seeds that share one GPU. Tables then show no times of these runs.",
)


def suite_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that replace values of a suite."""
    for option in reversed(_SUITE):
        command = option(command)
    return command


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of every command that trains on this machine; see `machine_of`."""
    for option in reversed(_MACHINE):
        command = option(command)
    return command


def machine_of(options: dict[str, Any]) -> Machine:
    """Where and how runs are executed, from a command's options; options that it does not have get their defaults."""
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


#: Options whose values are paths of this machine. They change no figure, and published records do not need them.
_FOLDERS = ("--results", "--data-root")


def command_line(arguments: list[str] | None = None) -> str:
    """The command as records keep it: without folders of this machine, and with files by their names."""
    kept: list[str] = []
    rest = iter(sys.argv[1:] if arguments is None else arguments)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in _FOLDERS:
            if not equals:
                next(rest, None)
        elif option == "--include" and equals:
            kept.append(f"{option}={Path(value).name}")
        else:
            kept.append(Path(word).name if word.endswith((".py", ".toml")) else word)
    return shlex.join(["equibench", *kept])
