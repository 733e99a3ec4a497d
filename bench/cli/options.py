"""Options that several commands of the command line share."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...registry import UserError
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


# Types of options. click shows the name of the function. It raises a UserError for a wrong text, before the command
# starts.


def device(text: str) -> str:
    """The names of devices, without blanks."""
    from ..tools.machine import device_names

    return ",".join(device_names(text))


def budget(text: str) -> str:
    """The name of a budget."""
    from ..spec.budget import find_budget  # pydantic, which takes long to import

    find_budget(text)
    return text


def budgets(text: str) -> str | list[str]:
    """The name of a budget, or a list of them."""
    return [budget(b.strip()) for b in text.split(",") if b.strip()] if "," in text else budget(text)


def _numbers(text: str, option: str, what: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"{option} {text[:40]!r}: give {what}") from None


def images(text: str) -> list[int]:
    """Numbers of training images."""
    return _numbers(text, "--train-images", "a number of images (500), or several (500,2000)")


def seeds(text: str) -> int | list[int]:
    """The number of seeds, or the seeds themselves."""
    numbers = _numbers(text, "--seeds", "a number of seeds (3), or the seeds themselves (0,4,7)")
    return numbers[0] if len(numbers) == 1 else numbers


def names(text: str) -> list[str]:
    """Names that are separated by commas."""
    return [name for name in text.split(",") if name]


def shard(text: str) -> Any:
    """A `Shard`."""
    from ..spec.shard import Shard

    return Shard.parse(text)


COUNT, SECONDS = click.IntRange(min=1), Finite(min=0, min_open=True)

include_option = click.option(
    "--include", "includes", multiple=True, metavar="FILE", help="Python file that registers models or data sets."
)
models_option = click.option(
    "--model", "models", multiple=True, metavar="PATTERN", help="Only matching models, as 'pdo-*'; may be repeated."
)
exclude_option = click.option(
    "--exclude", multiple=True, metavar="PATTERN",
    help="Leave out matching models, also from comparisons; may be repeated.",
)  # fmt: skip
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
deadline_option = click.option(
    "--deadline", type=SECONDS, default=120.0, show_default=True, metavar="SECONDS", help="Time limit of each check."
)
wide_option = click.option("--wide", is_flag=True, help="Show all columns, even in a narrow terminal.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def several(*options: Decorator) -> Decorator:
    """One decorator that adds all these options to a command, in this order."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


#: The last options of most commands.
common_options = several(results_option, include_option, json_option)
#: The options that replace values of a suite.
suite_options = several(
    click.option("--models", type=names, help="Models instead of the suite's, separated by commas."),
    click.option("--dataset", help="Data set instead of the suite's."),
    click.option(
        "--budget",
        type=budgets,
        help="Budget instead of the suite's: e<epochs>, n<examples>, t<seconds> or a name. Several, separated by"
        " commas, make one board each.",
    ),
    click.option(
        "--train-images",
        type=images,
        metavar="N",
        help="Number of training images (500). Several (500,2000) make one board each.",
    ),
    click.option(
        "--profile",
        type=click.Choice(list(PROFILES)),
        metavar="NAME",
        help=help_text("Execution profile instead of the suite's.", PROFILES),
    ),
)
#: The options of every command that trains on this machine; see `machine_of`.
machine_options = several(
    click.option(
        "--device",
        type=device,
        default="auto",
        show_default=True,
        help="auto, cpu, cuda or cuda:<i>; several with commas.",
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


def machine_of(options: dict[str, Any]) -> Machine:
    """Where and how runs are executed, from a command's options; options that it does not have get their defaults."""
    from ..tools.machine import Machine

    names = {"deadline": "deadline_s"}
    keys = ("device", "jobs", "threads", "deadline", "checkpoint_s", "seeds_in_parallel", "data_root", "includes")
    return Machine(command=command_line(), **{names.get(key, key): options[key] for key in keys if key in options})


def command_line(arguments: list[str] | None = None) -> str:
    """The command as records keep it: without folders of this machine, and with files by their names."""
    kept: list[str] = []
    rest = iter(sys.argv[1:] if arguments is None else arguments)
    for word in rest:
        option, equals, value = word.partition("=")
        if option in ("--results", "--data-root"):  # they change no figure, and published records do not need them
            if not equals:
                next(rest, None)
        elif option == "--include" and equals:
            kept.append(f"{option}={Path(value).name}")
        else:
            kept.append(Path(word).name if word.endswith((".py", ".toml")) else word)
    return shlex.join(["equibench", *kept])


def print_refused(reasons: Iterable[str]) -> None:
    """Print on standard error the reasons why files were refused."""
    from ..tools.schema import visible  # pydantic, which takes long to import

    for why in reasons:
        click.echo(f"equibench: refused: {visible(why)}", err=True)


def print_json(documents: list[Any]) -> None:
    """Print the documents of several boards or devices; of a single one without a list around it."""
    click.echo(json.dumps(documents if len(documents) > 1 else documents[0]))


def print_runs(board: Any) -> None:
    """Print the runs of a board that has no table, and the reason on standard error."""
    for record, _ in board.chosen:
        click.echo(record.line)
    if board.chosen:
        click.echo(board.why_no_table, err=True)


def say_over(text: str) -> None:
    """On a terminal, replace the last line of standard error by this text."""
    if sys.stderr.isatty():
        click.echo(f"\r\033[K{text}", nl=False, err=True)
