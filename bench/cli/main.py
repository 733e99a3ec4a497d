"""The command line: it parses arguments, calls functions and prints results.

Heavy packages are imported only by the commands that need them. So ``--help`` answers immediately.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, BinaryIO, NoReturn, TextIO

import click

from ...registry import PluginWarning, UserError, include
from ..spec.option_values import CLASSES, FITS, RECIPES, VARIABLES, help_text
from ..tools.files import results_root
from ..tools.text import PROGRESS, listed, relative_path, terminal_width
from .boards import board_document, leaderboard, publish, replay, show
from .check import check, doctor
from .cluster import collect, engine_options, status, submit_command, wants_cluster
from .data import data
from .exchange import export, merge, validate
from .list import list_
from .measure import equivariance, verify
from .options import (
    COUNT,
    SECONDS,
    common_options,
    machine_of,
    machine_options,
    print_json,
    print_runs,
    seeds,
    seeds_in_parallel_option,
    shard,
    suite_options,
)
from .plan import plan
from .refresh import refresh

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=CONTEXT, epilog=help_text("Environment variables:", VARIABLES))
@click.version_option(package_name="equibench")
def cli() -> None:
    """Fair comparisons of equivariant image architectures.

    \b
    equibench run quickstart                  train the four architectures on real digits, show the table
    equibench run quickstart --seeds 1 --models p4cnn,z2cnn-22
    equibench run --dataset digits-rot --models p4cnn --budget e20 --seeds 5
    equibench list models 'pdo-*'             list models; also datasets, budgets, suites
    equibench plan digits-25k --difference 0.5   number of seeds needed to find a difference, and the hours
    equibench tune quickstart                 choose a learning rate for each model, on validation images
    equibench leaderboard                     rebuild the CSVs from the run records and show them
    equibench publish --out site              write tables, plots and an interactive page
    equibench merge laptop-2/leaderboards     add the results of another machine
    equibench validate mine.tar.gz            check whether rows may enter the published boards
    equibench check my-net --include my.py    check whether a model may enter the registry
    equibench show p4cnn                      show a model, a data set, a board or a run
    equibench run mnist-rot --engine slurm    train on a cluster; then use equibench status and collect
    equibench doctor                          check whether results of this machine can be trusted
    equibench verify pdo-econv                compute the proof of the claims about PDO-eConv
    """


for _command in (
    check, collect, data, doctor, equivariance, export, leaderboard, list_, merge, plan, publish, refresh, replay, show,
    status, validate, verify,
):  # fmt: skip
    cli.add_command(_command)


@cli.command()
@click.argument("suite", required=False)
@suite_options
@click.option("--recipe", help=help_text("Recipe instead of the suite's.", RECIPES))
@click.option(
    "--fit",
    type=click.Choice(list(FITS)),
    metavar="NAME",
    help=help_text("Images to train on, instead of the suite's choice.", FITS),
)
@click.option("--seeds", type=seeds, help="Number of seeds (3), or a list of seeds (0,4,7).")
@click.option(
    "--class",
    "parameter_class",
    type=click.Choice(list(CLASSES)),
    metavar="NAME",
    help=help_text("Parameter class instead of the suite's.", CLASSES),
)
@click.option(
    "--reference-parameters",
    type=COUNT,
    metavar="N",
    help="For the class matched: refuse models that are not within 5 % of N.",
)
@machine_options
@seeds_in_parallel_option
@click.option("--deadline", type=SECONDS, metavar="SECONDS", help="Stop a run after this time. Its row says timeout.")
@click.option(
    "--checkpoint",
    "checkpoint_s",
    type=SECONDS,
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two checkpoints of a run. An interrupted run continues from its last checkpoint.",
)
@click.option("--shard", type=shard, metavar="I/N", help="Run only share I of N, for example 2/4; see equibench merge.")
@engine_options
@common_options
def run(suite: str | None, shard: Any, as_json: bool, **options: Any) -> None:
    """Train the missing runs of a SUITE and show its table.

    \b
    equibench run quickstart
    equibench run my-suite.toml --device cuda:0,cuda:1
    equibench run quickstart --models my-net --include my_net.py

    SUITE is a name or a .toml file. Several budgets or numbers of training images make a family of boards with one
    common table. Finished runs are not run again. An interrupted run continues from its last checkpoint. Exit code 1:
    some runs failed; their rows say why.
    """
    from ..runner.head_to_head import run as run_suite
    from .progress import listener_for

    on_cluster, chosen, share = wants_cluster(options), _points(suite, options), shard
    if share and on_cluster:
        raise UserError("--shard goes with --engine local: on a cluster, the job array distributes the runs")
    if share and len(chosen) > 1:  # a share may contain no run of a small board
        chosen = [p for p in chosen if share.of(range(len(p.models) * len(p.seed_list)))] or chosen
    if on_cluster:
        submit_command(chosen, options, as_json)
        return
    machine, outcomes = machine_of(options), []
    for point in chosen:
        listener = listener_for(options["quiet"] or as_json)
        outcomes.append(run_suite(point, results=options["results"], machine=machine, listener=listener, shard=share))
    _print_outcomes(outcomes, as_json, suite)
    sys.exit(1 if any(o.failed or o.unrecorded for o in outcomes) else 0)


@cli.command()
@click.argument("suite", required=False)
@suite_options
@click.option("--recipe", help="Recipe to tune, instead of the suite's: common or one of its variants.")
@machine_options
@common_options
def tune(suite: str | None, as_json: bool, **options: Any) -> None:
    """Choose a learning rate for each model of a SUITE.

    \b
    equibench tune quickstart
    equibench run quickstart --recipe tuned

    The choice uses validation images. Every model is trained with the same grid of rates, one seed, and the budget of
    the suite. Every trial is recorded.
    """
    from ..boards.terminal_table import tuning_table
    from ..runner.tune import tune as tune_suite
    from .progress import listener_for

    chosen, machine, tuned = _points(suite, options), machine_of(options), []
    for point in chosen:
        listener = listener_for(options["quiet"] or as_json)
        done = tune_suite(point, results=options["results"], machine=machine, listener=listener)
        tuned.append(done)
        if not as_json:
            click.echo(tuning_table(done.scores, done.chosen, done.at_the_edge))
            click.echo(f"\n{done.path}  (used by --recipe {done.recipe})")
    if as_json:
        print_json([{"chosen": d.chosen, "scores": d.scores, "file": str(d.path)} for d in tuned])
    sys.exit(1 if any(d.outcome.failed for d in tuned) else 0)


def _points(name: str | None, options: dict[str, Any]) -> list[Any]:
    """The suite, or the points (boards) of the family, with the values that the options replace."""
    from ..boards.families import check_points, points_of, values_of
    from ..spec.suite import AD_HOC

    include(options["includes"])
    values: dict[str, Any] = {"name": AD_HOC} if name is None else values_of(name)
    given = {key: options[key] for key in _REPLACE if options.get(key) is not None}
    values |= {"class" if key == "parameter_class" else key: value for key, value in given.items()}
    missing = [f"--{key}" for key in ("dataset", "budget", "models") if key not in values]
    if missing == ["--dataset", "--budget", "--models"]:
        raise UserError("name a suite (equibench list suites), or give --dataset, --budget and --models")
    if missing:
        raise UserError(f"without a suite, {' and '.join(missing)} must be given as well")
    changed = any(key not in _CLASS for key in given)
    where = f"suite {name!r}" + (" with the options given" if changed else "") if name else "the command line"
    points = points_of(values, where)
    if len(points) > 1:  # every board of a family, before the first one is run; a single suite checks itself
        check_points(points, results_root(options["results"]))
    return points


#: The options that say which networks are matched in size.
_CLASS = ("parameter_class", "reference_parameters")
#: The options that replace values of a suite.
_REPLACE = ("dataset", "budget", "recipe", "profile", "fit", "train_images", "models", "seeds", *_CLASS)


def _print_outcomes(outcomes: list[Any], as_json: bool, name: str | None) -> None:
    """Print the results of the suite of this name, see `rows_shown`; without a name, the whole board."""
    if len(outcomes) == 1:
        if name is not None:
            outcomes[0].board = outcomes[0].board.of_suite(rows_shown(name, outcomes[0].suite))
        _print_board(outcomes[0], as_json)
    else:
        from ..boards.families import family_of_boards, find_points
        from ..boards.family_table import family_document, family_text

        # The title of a suite belongs to its own models and boards.
        own = find_points(name) if name is not None else []
        is_own = [(p.models, p.board()) for p in own] == [(o.suite.models, o.suite.board()) for o in outcomes]
        title = outcomes[0].suite.title if is_own else ""
        family = family_of_boards([(o.suite.model_copy(update={"title": title}), o.board) for o in outcomes])
        if as_json:
            click.echo(json.dumps(family_document(family)))
        elif family.measured:
            click.echo(family_text(family))
        else:  # smoke runs are not shown in tables
            for outcome in outcomes:
                _print_board(outcome, as_json)
    for outcome in outcomes:
        _print_warnings(outcome)


def rows_shown(name: str, run: Any) -> Any:
    """The rows that a run shows: those that were requested. On the board of the suite of this name, also its own rows.

    The title of the suite belongs to its own models on its own board.
    """
    from ..boards.families import find_points
    from ..spec.suite import AD_HOC

    own = next((point for point in find_points(name) if point.board() == run.board()), None)
    if own is None:
        return run.model_copy(update={"name": AD_HOC, "title": ""})
    added = [model for model in run.models if model not in own.models]
    rows = {"models": [*own.models, *added], "seeds": sorted({*own.seed_list, *run.seed_list})}
    names = {"name": f"{own.name} with {listed(added, 3)}", "title": ""} if added else {}
    return run.model_copy(update=rows | names)


def _print_board(outcome: Any, as_json: bool) -> None:
    from ..boards.terminal_table import board_table
    from ..records.store import csv_files

    board, root = outcome.board, outcome.results
    if as_json:
        click.echo(json.dumps(board_document(board, root)))
    elif board.is_table:
        click.echo(board_table(board, width=terminal_width()))
        models, runs = csv_files(root, board.name)
        click.echo(f"\n{relative_path(models)}  (one row per model; {runs.name} has one row per run)")
    else:
        print_runs(board)


def _print_warnings(outcome: Any) -> None:
    """Print on standard error which runs were not made, are stale, or have no result."""
    from ..boards.notes import refresh_command

    again = refresh_command(outcome.board, [name.partition(" ")[0] for name in outcome.stale])
    for name, what in outcome.stale.items():
        click.echo(f"{name}: not run again, although its {what} changed since; {again} runs it again", err=True)
    for sentence in outcome.failures("the same command tries again"):
        click.echo(sentence, err=True)


def main() -> NoReturn:
    """Run the command line. Wrong input gives one sentence of explanation and exit code 2."""
    warnings.formatwarning = _warning  # type: ignore[assignment]
    if not PROGRESS.handlers:
        PROGRESS.addHandler(_OnStandardError())
        PROGRESS.setLevel(logging.INFO)
    streams = sys.stdout, sys.stderr
    # A stream that was closed before the start (>&-) is None.
    sys.stdout, sys.stderr = (stream and _Output(stream) for stream in streams)  # type: ignore[assignment]
    try:
        cli(standalone_mode=False)
    except UserError as error:
        _end(str(error), 2)
    except click.exceptions.NoArgsIsHelpError as error:  # a group without a command: show its commands
        click.echo(error.format_message(), err=True)
        sys.exit(2)
    except click.ClickException as error:  # the message may quote a value of any length
        _end(error.format_message(), 2, most=500)
    except (click.Abort, KeyboardInterrupt):
        kept = "; finished runs are kept, and the same command continues with the rest"
        _end("interrupted" + (kept if sys.argv[1:2] and sys.argv[1] in ("run", "tune", "refresh") else ""), 130)
    finally:
        if sys.stdout:
            sys.stdout.flush()
        sys.stdout, sys.stderr = streams
    sys.exit(0)


class _Output:
    """A standard stream whose reader may end before the command, as in ``equibench list models | head -1``.

    The rest of the output is then dropped. The command is completed, and its exit code is the usual one.
    """

    def __init__(self, stream: TextIO | BinaryIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def buffer(self) -> _Output:
        """The bytes below a text stream. click writes to them if the encoding of the stream is ASCII."""
        return _Output(self._stream.buffer)  # type: ignore[union-attr]

    def write(self, text: str | bytes) -> int:
        return self._sent(self._stream.write, text)

    def flush(self) -> None:
        self._sent(self._stream.flush)

    def _sent(self, send: Callable[..., Any], *text: str | bytes) -> Any:
        try:
            return send(*text)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            return send(*text)


class _OnStandardError(logging.Handler):
    """Prints the progress of a long command on the standard error stream that is current at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        click.echo(self.format(record), err=True)


def _warning(message: Warning | str, category: type[Warning], *where: Any) -> str:
    """A warning as text: one line for a broken plug-in, as for an error; Python's usual text for other warnings."""
    return f"equibench: {message}\n" if issubclass(category, PluginWarning) else _usual(message, category, *where)


_usual = warnings.formatwarning


def _end(message: str, code: int, most: int = 1900) -> NoReturn:
    from ..tools.schema import visible

    # Always one line: file names and values in the message may contain any characters and have any length.
    line = visible(message)
    line = line if len(line) <= most else f"{line[: most - 400]} … {line[-400:]}"
    print(f"equibench: {line}", file=sys.stderr)
    sys.exit(code)
