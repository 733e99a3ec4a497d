"""The command line: parse, call, print; nothing else.

Nothing heavy is imported before a command needs it, so that help comes at once.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from typing import Any, NoReturn

import click

from ...registry import PluginWarning, UserError, include
from ..spec.choices import CLASSES, FITS, PROFILES, RECIPES, VARIABLES, lines_of
from ..tools.text import PROGRESS
from .boards import board_document, leaderboard, publish, replay, show
from .check import check
from .cluster import collect, engine_options, status, submit_command, wants_cluster
from .doctor import doctor
from .exchange import export, merge, validate
from .list import list_
from .measure import equivariance, verify
from .options import (
    COUNT,
    SECONDS,
    include_option,
    json_option,
    machine_of,
    machine_options,
    results_option,
    seeds_in_parallel_option,
)  # fmt: skip
from .plan import plan
from .refresh import refresh

_profile_option = click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    metavar="NAME",
    help=lines_of("Execution profile instead of the suite's.", PROFILES),
)
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT, epilog=lines_of("Variables of the environment:", VARIABLES))
@click.version_option(package_name="equibench")
def cli() -> None:
    """Fair head-to-heads of equivariant image architectures.

    \b
    equibench run quickstart                  the four architectures on real digits, a table at the end
    equibench run quickstart --seeds 1 --models p4cnn,z2cnn-22
    equibench run --dataset digits-rot --models p4cnn --budget e20 --seeds 5
    equibench list models 'pdo-*'             what there is: models, datasets, budgets, suites
    equibench plan digits-25k --difference 0.5   seeds that a difference needs, and their hours
    equibench tune quickstart                 choose a learning rate for each model, on validation images
    equibench leaderboard                     rebuild the CSVs from the run records, show them
    equibench publish --out site              tables, plots and a page to explore
    equibench merge laptop-2/leaderboards     bring the results of other machines together
    equibench validate mine.tar.gz            may these rows enter the published boards?
    equibench check my-net --include my.py    may a model enter the registry?
    equibench show p4cnn                      what is known of a model, or of a run
    equibench run mnist-rot --engine slurm    the same on a cluster; then equibench status, and collect
    equibench doctor                          what figures of this machine are worth, GPU by GPU
    equibench verify pdo-econv                the proof of the claims about PDO-eConv, computed afresh
    """


for _command in (
    check,
    collect,
    doctor,
    equivariance,
    export,
    leaderboard,
    list_,
    merge,
    plan,
    publish,
    refresh,
    replay,
    show,
    status,
    validate,
    verify,
):
    cli.add_command(_command)


@cli.command()
@click.argument("suite", required=False)
@click.option("--models", help="Models instead of the suite's, separated by commas.")
@click.option("--dataset", help="Data set instead of the suite's.")
@click.option(
    "--budget", help="Budget instead of the suite's: e<epochs>, n<examples>, t<seconds> or a name; or several."
)
@click.option(
    "--train-images", metavar="N", help="So many training images (500), or a board for each number (500,2000)."
)
@click.option("--recipe", help=lines_of("Recipe instead of the suite's.", RECIPES))
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    metavar="NAME",
    help=lines_of("Execution profile instead of the suite's.", PROFILES),
)
@click.option(
    "--fit",
    type=click.Choice(list(FITS)),
    metavar="NAME",
    help=lines_of("What is trained on instead of the suite's.", FITS),
)
@click.option("--seeds", help="How many seeds (3), or which (0,4,7).")
@click.option(
    "--class",
    "parameter_class",
    type=click.Choice(list(CLASSES)),
    metavar="NAME",
    help=lines_of("Class of parameters instead of the suite's.", CLASSES),
)
@click.option(
    "--reference-parameters", type=COUNT, metavar="N", help="Of the class matched: parameters within 5 % of N."
)
@machine_options
@seeds_in_parallel_option
@click.option("--deadline", type=SECONDS, metavar="SECONDS", help="End a run after this time; it becomes a row.")
@click.option(
    "--checkpoint",
    "checkpoint_s",
    type=SECONDS,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Keep a checkpoint of every run this often; an interrupted one goes on from there.",
)
@click.option("--shard", metavar="I/N", help="Run the I-th of N shares, as 2/4; equibench merge brings them together.")
@engine_options
@results_option
@include_option
@json_option
def run(suite: str | None, shard: str | None, as_json: bool, **options: Any) -> None:
    """Train what is missing of a SUITE (a name or a .toml file) and show its table.

    \b
    equibench run quickstart
    equibench run my-suite.toml --device cuda:0,cuda:1
    equibench run quickstart --models my-net --include my_net.py

    Several budgets or numbers of training images are a family of boards, with one table of all. Runs that are finished
    are not run again; one that was interrupted goes on from its last checkpoint. Exit code 1: some runs failed, their
    rows say why.
    """
    from ..runner.head_to_head import run as run_suite
    from ..spec.shard import Shard
    from .progress import listener_for

    on_cluster, chosen, share = wants_cluster(options), _points(suite, options), Shard.parse(shard) if shard else None
    _check(chosen, options)
    if share and on_cluster:
        raise UserError("--shard goes with --engine local: the array of a cluster shares the runs by itself")
    if share and len(chosen) > 1:  # of a small point there may be no run in it
        chosen = [p for p in chosen if share.of(range(len(p.models) * len(p.seed_list)))] or chosen
    if on_cluster:
        submit_command(chosen, options, as_json)
        return
    outcomes = [
        run_suite(
            point,
            results=options["results"],
            machine=machine_of(options),
            listener=listener_for(options["quiet"] or as_json),
            shard=share,
        )
        for point in chosen
    ]
    _print_outcomes(outcomes, as_json, suite)
    sys.exit(1 if any(o.failed or o.unrecorded for o in outcomes) else 0)


@cli.command()
@click.argument("suite", required=False)
@click.option("--models", help="Models instead of the suite's, separated by commas.")
@click.option("--dataset", help="Data set instead of the suite's.")
@click.option("--budget", help="Budget instead of the suite's, or several.")
@click.option(
    "--train-images", metavar="N", help="So many training images (500), or a board for each number (500,2000)."
)
@click.option("--recipe", help="Recipe whose rate is tuned, common or a variant of it, instead of the suite's.")
@click.option(
    "--profile",
    type=click.Choice(list(PROFILES)),
    metavar="NAME",
    help=lines_of("Execution profile instead of the suite's.", PROFILES),
)
@machine_options
@results_option
@include_option
@json_option
def tune(suite: str | None, as_json: bool, **options: Any) -> None:
    """Choose a learning rate for each model of a SUITE, on validation images.

    \b
    equibench tune quickstart
    equibench run quickstart --recipe tuned

    The same grid of rates for every model, one seed, the budget of the suite. Every trial is recorded.
    """
    from ..boards.table import tuning_table
    from ..runner.tune import tune as tune_suite
    from .progress import listener_for

    chosen = _points(
        suite, {**options, "fit": None, "seeds": None, "parameter_class": None, "reference_parameters": None}
    )
    _check(chosen, options)
    tuned = []
    for point in chosen:
        done = tune_suite(
            point,
            results=options["results"],
            machine=machine_of(options),
            listener=listener_for(options["quiet"] or as_json),
        )
        tuned.append(done)
        if not as_json:
            click.echo(tuning_table(done.scores, done.chosen, done.at_the_edge))
            click.echo(f"\n{done.path}  (used by --recipe {done.recipe})")
    if as_json:
        documents = [{"chosen": d.chosen, "scores": d.scores, "file": str(d.path)} for d in tuned]
        click.echo(json.dumps(documents if len(documents) > 1 else documents[0]))
    sys.exit(1 if any(d.outcome.failed for d in tuned) else 0)


def _check(points: list[Any], options: dict[str, Any]) -> None:
    """Of a family, see that all points can be planned before the first is run; one suite is looked at as it is run."""
    from ..boards.families import check_points
    from ..tools.files import results_root

    if len(points) > 1:
        check_points(points, results_root(options["results"]))


def _points(name: str | None, options: dict[str, Any]) -> list[Any]:
    """The suite, or the points of the family, with what the options replace in it."""
    from ..boards.families import points_of, values_of

    include(options["includes"])
    values: dict[str, Any] = {"name": "ad-hoc"} if name is None else values_of(name)
    for key in ("dataset", "budget", "recipe", "profile", "fit"):
        if options[key] is not None:
            values[key] = options[key]
    if "," in (options["budget"] or ""):
        values["budget"] = [b.strip() for b in options["budget"].split(",") if b.strip()]
    if options["train_images"] is not None:
        values["train_images"] = _images(options["train_images"])
    if options["models"] is not None:
        values["models"] = [m for m in options["models"].split(",") if m]
    if options["seeds"] is not None:
        values["seeds"] = _seeds(options["seeds"])
    if options["parameter_class"] is not None:
        values["class"] = options["parameter_class"]
    if options["reference_parameters"] is not None:
        values["reference_parameters"] = options["reference_parameters"]
    missing = [f"--{key}" for key in ("dataset", "budget", "models") if key not in values]
    if missing == ["--dataset", "--budget", "--models"]:
        raise UserError("name a suite (equibench list suites), or give --dataset, --budget and --models")
    if missing:
        raise UserError(f"without a suite, {' and '.join(missing)} must be given as well")
    replaced = ("models", "dataset", "budget", "train_images", "recipe", "profile", "fit", "seeds")
    changed = any(options[key] is not None for key in replaced)
    where = f"suite {name!r}" + (" with the options given" if changed else "") if name else "the command line"
    return points_of(values, where)


def _images(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--train-images {text[:40]!r}: give a number of images (500), or several (500,2000)") from None


def _seeds(text: str) -> int | list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text[:40]!r}: give a number of seeds (3), or the seeds themselves (0,4,7)") from None
    return numbers[0] if len(numbers) == 1 else numbers


def _print_outcomes(outcomes: list[Any], as_json: bool, name: str | None) -> None:
    """Print what was run: of the suite of this name its rows, and those that the options add; the board without one."""
    if len(outcomes) == 1:
        if name is not None:
            outcomes[0].board = outcomes[0].board.of_suite(rows_shown(name, outcomes[0].suite))
        _print_board(outcomes[0], as_json)
    else:
        from ..boards.families import family_of_boards
        from ..boards.family_table import family_document, family_text

        family = family_of_boards([(o.suite, o.board) for o in outcomes])
        if as_json:
            click.echo(json.dumps(family_document(family)))
        elif family.measured:
            click.echo(family_text(family))
        else:  # smoke runs, which are barred from tables
            for outcome in outcomes:
                _print_board(outcome, as_json)
    for outcome in outcomes:
        _tell(outcome)


def rows_shown(name: str, run: Any) -> Any:
    """The suite that was run, with the models and seeds of the suite of this name as well."""
    from ..boards.families import find_points

    own = find_points(name)[0]
    models = list(dict.fromkeys([*own.models, *run.models]))
    return run.model_copy(update={"models": models, "seeds": sorted({*own.seed_list, *run.seed_list})})


def _print_board(outcome: Any, as_json: bool) -> None:
    from ..boards.table import board_table
    from ..tools.text import relative_path, terminal_width

    board, root = outcome.board, outcome.results
    if as_json:
        click.echo(json.dumps(board_document(board, root)))
    elif board.is_table:
        click.echo(board_table(board, width=terminal_width()))
        click.echo(f"\n{relative_path(root)}/{board.name}.csv  (one row a model; {board.name}.runs.csv has one a run)")
    else:
        for record, _ in board.chosen:
            click.echo(f"{record.spec.model}  seed {record.spec.seed}  {record.status}  {record.reason}".rstrip())


def _tell(outcome: Any) -> None:
    """What a reader must know of runs that were not made, or have no result; on standard error."""
    from ..boards.notes import refresh_command

    again = refresh_command(outcome.board, [name.partition(" ")[0] for name in outcome.stale])
    for name, what in outcome.stale.items():
        click.echo(f"{name}: not run again although its {what} changed since; {again} does it", err=True)
    for sentence in outcome.failures("the same command tries again"):
        click.echo(sentence, err=True)


@cli.group()
def data() -> None:
    """Fetch and verify data sets."""


@data.command()
@click.argument("name")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@include_option
def fetch(name: str, data_root: str | None, includes: tuple[str, ...]) -> None:
    """Download data set NAME, verify it and make it ready."""
    from .progress import fetch_with_progress

    include(includes)
    click.echo(fetch_with_progress(name, data_root))


def main() -> NoReturn:
    """Run the command line; every wrong input ends with one sentence and exit code 2."""
    warnings.formatwarning = _warning  # type: ignore[assignment]
    if not PROGRESS.handlers:
        PROGRESS.addHandler(_OnStandardError())
        PROGRESS.setLevel(logging.INFO)
    try:
        cli(standalone_mode=False)
    except UserError as error:
        _end(str(error), 2)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a command: what there is
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:  # it quotes a value whole
        _end(error.format_message(), 2, most=500)
    except (click.Abort, KeyboardInterrupt):
        goes_on = sys.argv[1:2] and sys.argv[1] in ("run", "tune", "refresh")
        _end(
            "interrupted" + ("; finished runs are kept, and the same command goes on with the rest" if goes_on else ""),
            130,
        )
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; nothing is left to say
        sys.exit(0)
    sys.exit(0)


class _OnStandardError(logging.Handler):
    """What a long command is at, on what standard error is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _warning(message: Warning | str, category: type[Warning], *where: Any) -> str:
    """A broken plug-in is one line, like an error; other warnings say their place as usual."""
    return (
        f"equibench: {message}\n" if issubclass(category, PluginWarning) else _usual_warning(message, category, *where)
    )


_usual_warning = warnings.formatwarning


def _end(message: str, code: int, most: int = 1900) -> NoReturn:
    from ..tools.schema import visible

    # Always one line: names of files and values in it may hold anything, and be of any length.
    line = visible(message)
    line = line if len(line) <= most else f"{line[: most - 400]} … {line[-400:]}"
    print(f"equibench: {line}", file=sys.stderr)
    sys.exit(code)
