"""Commands that show and compare results: ``leaderboard``, ``publish``, ``replay``, ``show``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click

from ...registry import UserError, include, nearest
from ..tools.files import results_root
from ..tools.text import is_selected, terminal_width
from .options import (
    COUNT,
    command_line,
    common_options,
    data_root_option,
    device,
    exclude_option,
    models_option,
    print_refused,
    reference_option,
    wide_option,
)


def board_document(board: Any, root: Any, view: Any = None) -> dict[str, Any]:
    """A board of the results folder `root` as a JSON document: all, or the rows and columns of `publish.view.View`."""
    from ..boards.rows import model_rows, run_rows
    from ..publish.view import select_columns, select_rows
    from ..records.store import csv_files

    runs = run_rows(board)
    if view is None:
        tables = {"models": model_rows(board), "runs": runs}
    else:
        tables = {
            "models": select_columns(select_rows(board, view), view),
            "runs": runs[[is_selected(m, view.models) for m in runs["model"]]],
        }
    rows = {key: json.loads(frame.to_json(orient="records")) for key, frame in tables.items()}
    csv = str(csv_files(root, board.name)[0]) if board.is_table else None
    return {"board": board.name, "csv": csv, **rows, "refused": [r.reason for r in board.refused]}


def _end_with(refused: list[Any]) -> NoReturn:
    """Name refused files on standard error, and end the command; the exit code is 1 if there are any."""
    print_refused(one.reason for one in refused)
    sys.exit(1 if refused else 0)


def _print_boards_without_table(boards: list[Any]) -> None:
    """Print the names of boards without a table on standard error."""
    for board in (b for b in boards if not b.is_table):
        click.echo(board.why_no_table, err=True)


def _check_options_of_across(board: str | None, options: dict[str, Any]) -> None:
    """Refuse (UserError) options that a summary over boards does not support."""
    for name in ("sort", "columns", "all_pairs", "reported", "reference_parameters", "suite", "runs"):
        if options[name]:
            both = f"--across and --{name.replace('_', '-')}"
            raise UserError(f"{both} do not go together: a summary over boards has one order and one table")
    if board:
        advice = f"leave out the name {board!r}, or give it as another --across"
        raise UserError(f"--across PATTERN selects the boards; {advice}")


def _show_across(boards: list[Any], view: Any, style: str) -> None:
    from ..boards.across import side_of, summarise
    from ..boards.rows import csv_text
    from ..publish.across import across_document, across_frame, across_text, shown_models

    summary = summarise(side_of(b, view.against) for b in boards if b.is_table)
    shown_models(summary, view.models)  # refuses a pattern without a match before anything is printed
    _print_boards_without_table(boards)
    if style == "json":
        click.echo(json.dumps(across_document(summary, view.models)))
    else:
        as_csv = style == "csv"
        click.echo(csv_text(across_frame(summary, view.models)) if as_csv else across_text(summary, style, view.models))


def _datasets(boards: list[Any]) -> list[str]:
    """The data sets of boards, in their order."""
    return list(dict.fromkeys(r.spec.dataset for b in boards for r, _ in b.chosen))


def _style(name: str) -> str:
    """The style of tabulate for a name of ``--format``. Raises UserError for an unknown name."""
    from tabulate import tabulate_formats

    from ..boards.terminal_table import FORMATS

    formats = [*FORMATS, *tabulate_formats]
    if name not in formats:
        close = nearest(name, formats, "equibench list formats")
        raise UserError(f"--format {name!r}: common formats are {', '.join(FORMATS)}; {close}")
    # Papers use the style of the LaTeX package booktabs.
    return {"md": "github", "latex": "latex_booktabs"}.get(name, name)


@click.command()
@click.argument("board", required=False)
@click.option("--dataset", help="Boards of this data set only.")
@click.option("--budget", help="Boards of this budget only.")
@models_option
@exclude_option
@click.option(
    "--sort", default="", metavar="COLUMN", help="Sort by a column (equibench list columns); -COLUMN: largest first."
)
@click.option("--columns", default="", help="Columns to show, separated by commas (equibench list columns).")
@click.option(
    "--against", default="", metavar="MODEL", help="Show paired differences to this model, with corrected p-values."
)
@click.option(
    "--all-pairs", is_flag=True, help="Show paired differences of all pairs, with p-values corrected over all."
)
@click.option(
    "--across", multiple=True, metavar="PATTERN", help="Summarise matching boards, as '*-common'; may be repeated."
)
@click.option(
    "--format",
    "style",
    type=_style,
    metavar="FORMAT",
    default="simple",
    show_default=True,
    help="simple, md, latex, csv, json, grid, html, or another of equibench list formats.",
)
@click.option(
    "--suite", metavar="SUITE", help="Show only the rows of a suite; one common table for a family of boards."
)
@click.option(
    "--runs", "with_runs", is_flag=True, help="Show one row per run, with the run ids that other commands take."
)
@wide_option
@click.option("--reported", "with_reported", is_flag=True, help="Show figures reported in papers in a separate table.")
@reference_option
@common_options
def leaderboard(
    board: str | None,
    suite: str | None,
    style: str,
    with_reported: bool,
    with_runs: bool,
    wide: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Rebuild and show a BOARD, or all boards.

    \b
    equibench leaderboard --dataset digits-rot --model 'pdo-*' --sort=-test_acc_mean_pct
    equibench leaderboard digits-rot-e20-common --against z2cnn-22
    equibench leaderboard --across '*-e20-common' --against z2cnn-22
    equibench leaderboard --suite mnist-rot-gen-data
    equibench leaderboard digits-rot-e20-common --columns rank_low,rank_high,model,p_holm --format csv

    The CSVs are rebuilt from the run records. Exit code 1: some record files were refused; standard error names each of
    them. The boards show the others.
    """
    from ..boards.reported import reported_rows, reported_table
    from ..boards.rows import csv_text
    from ..publish import view as views
    from ..publish.view import View, select_columns, select_rows

    style = "json" if as_json else style
    include(options["includes"])
    columns = tuple(c.strip() for c in options["columns"].split(",") if c.strip())
    view = View(options["models"], options["sort"], columns, options["against"], options["all_pairs"], with_runs)
    root = results_root(options["results"])
    refused: list[Any] = []
    count, across = options["reference_parameters"], options["across"]
    given = {**options, "reported": with_reported, "suite": suite, "runs": with_runs}
    if across:
        _check_options_of_across(board, given)
    if suite is not None:
        from .families import show_suite

        if board is not None:
            raise UserError("give a BOARD or --suite, not both")
        names = ("dataset", "budget", "sort", "columns", "against", "all_pairs", "reported", "exclude", "runs")
        others = [f"--{name.replace('_', '-')}" for name in names if given[name]]
        shown = show_suite(suite, root, options["models"], style, others, refused)
        if shown is None:
            _end_with(refused)
        boards = [replace(shown, asked_parameters=count or shown.asked_parameters)]
        refused += shown.refused
    else:
        boards = views.select_boards(root, board, options["dataset"], options["budget"], refused, count, across)
    boards = views.without_models(boards, options["exclude"])
    if across:
        _show_across(boards, view, style)
        _end_with(refused)
    views.check_models(boards, view)
    print_refused(one.reason for one in refused)
    if style == "json":
        documents = [board_document(b, root, view) for b in boards]
        if with_reported:
            for document, b in zip(documents, boards, strict=True):
                document["reported"] = [row for dataset in _datasets([b]) for row in reported_rows(dataset)]
        click.echo(json.dumps(documents))
        sys.exit(1 if refused else 0)
    for built in (b for b in boards if b.is_table and not select_rows(b, view).empty):
        if style == "csv":
            click.echo(csv_text(select_columns(select_rows(built, view), view)))
        else:
            click.echo(views.view_text(built, view, style, None if wide else terminal_width()) + "\n")
    _print_boards_without_table(boards)
    for dataset in _datasets(boards) if with_reported and style != "csv" else ():
        click.echo((reported_table(dataset, style) or f"no paper reports a figure for {dataset}") + "\n")
    sys.exit(1 if refused else 0)


@click.command()
@click.argument("boards", nargs=-1)
@click.option("--out", default="published", show_default=True, metavar="DIR", help="Folder to publish into.")
@click.option(
    "--format",
    "formats",
    default="html,md,latex,plots",
    show_default=True,
    help="One or several of html, md, latex and plots, separated by commas.",
)
@click.option("--readme", metavar="FILE", help="Only update FILE, and there only the text between its markers.")
@click.option(
    "--suite", "suites", multiple=True, metavar="SUITE", help="Publish the boards of a suite together; may be repeated."
)
@exclude_option
@click.option("--jobs", type=COUNT, help="Boards at a time [one per core, at most 4].")
@reference_option
@common_options
def publish(boards: tuple[str, ...], out: str, formats: str, readme: str | None, as_json: bool, **options: Any) -> None:
    """Publish BOARDS as tables, plots and a site.

    \b
    equibench publish --out site
    equibench publish digits-rot-e20-common --format md,latex --out tables
    equibench publish --suite mnist-rot-gen-data --out site
    equibench publish --readme README.md

    Without BOARDS, all boards are published. The site opens from disk: DIR/index.html. Exit code 1: some record files
    were refused; standard error names each of them. The others are published.
    """

    include(options["includes"])
    root, target = results_root(options["results"]), Path(out)
    refused: list[Any] = []
    count = options["reference_parameters"]
    if readme and options["exclude"]:
        raise UserError("--exclude does not go with --readme: the markers in the file select the rows (suite=NAME)")
    if readme:
        from ..publish.readme import refresh

        done, where = refresh(Path(readme), root, refused, count), readme
    else:
        from ..publish.publish import publish as write

        kinds = [f.strip() for f in formats.split(",") if f.strip()]
        done = write(
            root, target, boards, kinds, options["jobs"], refused, count, options["suites"], options["exclude"]
        )
        where = str(target / "index.html") if "html" in kinds else out
    print_refused(one.reason for one in refused)
    click.echo(json.dumps({"boards": done, "written": where}) if as_json else f"{where}  ({', '.join(done)})")
    sys.exit(1 if refused else 0)


@click.command()
@click.argument("run")
@click.option("--device", type=device, help="cpu or cuda:<i> [as recorded].")
@click.option("--threads", type=COUNT, help="CPU threads [as recorded].")
@data_root_option
@common_options
def replay(run: str, as_json: bool, **options: Any) -> None:
    """Run a recorded RUN again and compare the results.

    Give the beginning of the run's id. On a CPU with the same versions, processor and threads, all bits must agree.
    Elsewhere, all bits agree, or the accuracy lies in the prediction interval of one further run, from the spread of
    the recorded seeds. Boards keep the first attempt. Exit code 1: the results do not agree.
    """
    from ..runner.replay import replay as run_again
    from ..tools.machine import Machine

    machine = Machine(data_root=options["data_root"], includes=options["includes"], command=command_line())
    root = results_root(options["results"])
    verdict = run_again(run, root, device=options["device"], threads=options["threads"], machine=machine)
    if as_json:
        click.echo(verdict.canonical())
    else:
        after = "no result" if verdict.replayed is None else f"{verdict.replayed:.2f} %"
        click.echo(f"recorded {verdict.recorded:.2f} %, replayed {after} (attempt {verdict.again})")
        for difference in verdict.differences:
            click.echo(f"differs: {difference}")
        click.echo(f"{'agrees' if verdict.agrees else 'DISAGREES'} ({verdict.rule}): {verdict.why}")
    sys.exit(0 if verdict.agrees else 1)


@click.command()
@click.argument("name")
@click.option("--out", metavar="FILE.png", help="For a data set: draw some images of each class.")
@data_root_option
@common_options
def show(
    name: str, out: str | None, data_root: str | None, results: str | None, includes: tuple[str, ...], as_json: bool
) -> None:
    """Show a model, a data set, a suite, a board or a run.

    NAME may also be a recipe. For a run, give the beginning of its id.

    \b
    equibench show z2cnn-22
    equibench show digits-rot --out digits.png
    equibench show digits-25k                 a suite, with its models
    equibench show 3f2a                       a run
    """
    from ..reports.name_cards import kind_of

    include(includes)
    root, width = results_root(results), terminal_width()
    kind = kind_of(name, root)
    if out is not None and kind != "data set":
        raise UserError(f"--out draws images of a data set, and {name!r} is a {kind}")
    document: dict[str, Any]
    text: Callable[[dict[str, Any]], str]
    if kind == "run":
        from ..reports.run_card import run_card, run_text

        document, text = run_card(name, root), run_text
    elif kind == "model":
        from ..reports.model_card import card_text, model_card

        document, text = model_card(name, root), card_text
    elif kind == "data set":
        from ..reports.data_card import data_card, data_card_text

        document, text = data_card(name, root, data_root, out), data_card_text
    elif kind == "suite":
        from ..reports.name_cards import suite_card, suite_text

        document, text = suite_card(name), lambda _: suite_text(name, width)
    elif kind == "recipe":
        from ..reports.name_cards import recipe_rows, recipe_text

        document = {"recipes": [row for row in recipe_rows() if row["name"] == name]}
        text = lambda card: recipe_text(card["recipes"], width)  # noqa: E731
    else:
        from ..boards.terminal_table import board_table
        from ..publish.view import select_boards

        (board,) = select_boards(root, name, None, None)
        document, text = board_document(board, root), lambda _: board_table(board, width=width)
    click.echo(json.dumps(document) if as_json else text(document))
