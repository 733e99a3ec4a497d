"""Commands on what was measured: ``leaderboard``, ``publish``, ``replay``, ``show``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ...registry import UserError, include
from .options import (
    COUNT,
    command_line,
    include_option,
    json_option,
    reference_option,
    results_option,
    wide_option,
)


def board_document(board: Any, root: Any, view: Any = None) -> dict[str, Any]:
    from ..boards.rows import model_rows, run_rows
    from ..publish.view import includes_model, select_columns, select_rows

    runs = run_rows(board)
    if view is None:
        tables = {"models": model_rows(board), "runs": runs}
    else:
        tables = {
            "models": select_columns(select_rows(board, view), view),
            "runs": runs[[includes_model(view, m) for m in runs["model"]]],
        }
    rows = {key: json.loads(frame.to_json(orient="records")) for key, frame in tables.items()}
    csv = str(root / f"{board.name}.csv") if board.is_table else None
    return {"board": board.name, "csv": csv, **rows, "refused": [r.reason for r in board.refused]}


def _tell(refused: list[Any]) -> None:
    """Name refused files on standard error."""
    from ..tools.schema import visible

    for one in refused:
        click.echo(f"equibench: refused: {visible(one.reason)}", err=True)


def _tell_barred(boards: list[Any]) -> None:
    """Name boards without a table on standard error."""
    for barred in (b for b in boards if not b.is_table):
        what = "trials of learning rates" if barred.chosen[0][0].spec.is_trial else "smoke runs"
        click.echo(f"{barred.name}: {what}, which are barred from tables", err=True)


def _refuse_beside_across(board: str | None, options: dict[str, Any]) -> None:
    """See that nothing was asked for that a summary over boards does not have."""
    for name in ("sort", "columns", "all_pairs", "reported", "reference_parameters", "suite", "runs"):
        if options[name]:
            option = name.replace("_", "-")
            raise UserError(
                f"--across and --{option} do not go together: a summary over boards has one order and one table"
            )
    if board:
        raise UserError(
            f"--across PATTERN says which boards; leave out the name {board!r}, or write it as a further --across"
        )


def _show_across(boards: list[Any], view: Any, style: str) -> None:
    from ..boards.across import side_of, summarise
    from ..boards.rows import csv_text
    from ..publish.across import across_document, across_frame, across_text, shown_models

    summary = summarise(side_of(b, view.against) for b in boards if b.is_table)
    shown_models(summary, view.models)  # before anything is written, a pattern that fits none is refused
    _tell_barred(boards)
    if style == "json":
        click.echo(json.dumps(across_document(summary, view.models)))
    else:
        as_csv = style == "csv"
        click.echo(csv_text(across_frame(summary, view.models)) if as_csv else across_text(summary, style, view.models))


def _reported(board: Any) -> list[dict[str, str]]:
    from ..boards.reported import reported_rows

    datasets = dict.fromkeys(r.spec.dataset for r, _ in board.chosen)
    return [row for dataset in datasets for row in reported_rows(dataset)]


@click.command()
@click.argument("board", required=False)
@click.option("--dataset", help="Boards of this data set only.")
@click.option("--budget", help="Boards of this budget only.")
@click.option(
    "--model", "models", multiple=True, metavar="PATTERN", help="Models that fit, as 'pdo-*'; may be repeated."
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out models that fit, from comparisons too; may be repeated.",
)
@click.option(
    "--sort", default="", metavar="COLUMN", help="Sort by it, of equibench list columns; -COLUMN: the largest first."
)
@click.option("--columns", default="", help="Instead of the usual ones, separated by commas: equibench list columns.")
@click.option("--against", default="", metavar="MODEL", help="Paired differences to this model, with corrected p.")
@click.option("--all-pairs", is_flag=True, help="Paired differences of all pairs, corrected over all of them.")
@click.option(
    "--across", multiple=True, metavar="PATTERN", help="Sum up the boards that fit, as '*-common'; may be repeated."
)
@click.option(
    "--format",
    "style",
    default="simple",
    show_default=True,
    help="simple, md, latex, csv, json, grid, html; all: equibench list formats.",
)
@click.option("--suite", metavar="SUITE", help="The rows of a suite alone; of a family of boards, one table of all.")
@click.option("--runs", "with_runs", is_flag=True, help="One row a run, with the ids that other commands take.")
@wide_option
@click.option("--reported", "with_reported", is_flag=True, help="Below, apart: figures that papers report.")
@reference_option
@results_option
@include_option
@json_option
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
    """Rebuild the CSVs of a BOARD (all without one) from the run records, and show it.

    \b
    equibench leaderboard --dataset digits-rot --model 'pdo-*' --sort=-test_acc_mean_pct
    equibench leaderboard digits-rot-e20-common --against z2cnn-22
    equibench leaderboard --across '*-e20-common' --against z2cnn-22
    equibench leaderboard --suite mnist-rot-gen-data
    equibench leaderboard digits-rot-e20-common --columns rank_low,rank_high,model,p_holm --format csv

    Exit code 1: files among the records were refused; each is named on standard error, the others make the boards.
    """
    from tabulate import tabulate_formats

    from ...registry import nearest
    from ..boards.rows import csv_text
    from ..boards.table import FORMATS
    from ..publish.view import (
        View,
        check_models,
        select_boards,
        select_columns,
        select_rows,
        view_text,
    )
    from ..tools.files import results_root
    from ..tools.text import terminal_width

    formats = [*FORMATS, *tabulate_formats]
    if style not in formats:
        close = nearest(style, formats, "equibench list formats")
        raise UserError(f"--format {style!r}: {close}; usual are {', '.join(FORMATS)}")
    # Booktabs, because these tables are for papers.
    style = {"md": "github", "latex": "latex_booktabs"}.get(style, style)
    include(options["includes"])
    columns = tuple(c.strip() for c in options["columns"].split(",") if c.strip())
    view = View(options["models"], options["sort"], columns, options["against"], options["all_pairs"], with_runs)
    root = results_root(options["results"])
    refused: list[Any] = []
    count = options["reference_parameters"]
    across = options["across"]
    if across:
        _refuse_beside_across(board, {**options, "reported": with_reported, "suite": suite, "runs": with_runs})
    if suite is not None:
        from .families import show_suite

        if board is not None:
            raise UserError("give a BOARD or --suite, not both")
        others = [
            f"--{o.replace('_', '-')}"
            for o in ("dataset", "budget", "sort", "columns", "against", "all_pairs")
            if options[o]
        ]
        others += ["--reported"] if with_reported else []
        others += ["--exclude"] if options["exclude"] else []
        others += ["--runs"] if with_runs else []
        shown = show_suite(suite, root, options["models"], "json" if as_json else style, others, refused)
        if shown is None:
            _tell(refused)
            sys.exit(1 if refused else 0)
        boards = [replace(shown, asked_parameters=count or shown.asked_parameters)]
        refused += shown.refused
    else:
        boards = select_boards(root, board, options["dataset"], options["budget"], refused, count, across)
    check_models(boards, View(options["exclude"]), "--exclude")
    boards = [b.without(options["exclude"]) for b in boards]
    if across:
        _show_across(boards, view, "json" if as_json else style)
        _tell(refused)
        sys.exit(1 if refused else 0)
    check_models(boards, view)
    _tell(refused)
    if as_json or style == "json":
        documents = [board_document(b, root, view) for b in boards]
        if with_reported:
            documents = [{**d, "reported": _reported(b)} for d, b in zip(documents, boards, strict=True)]
        click.echo(json.dumps(documents))
        sys.exit(1 if refused else 0)
    for built in (b for b in boards if b.is_table and not select_rows(b, view).empty):
        if style == "csv":
            click.echo(csv_text(select_columns(select_rows(built, view), view)))
        else:
            click.echo(view_text(built, view, style, None if wide else terminal_width()) + "\n")
    _tell_barred(boards)
    if with_reported and style != "csv":
        from ..boards.reported import reported_table

        for dataset in dict.fromkeys(r.spec.dataset for b in boards for r, _ in b.chosen):
            click.echo(reported_table(dataset, style) or f"no paper reports a figure for {dataset}")
            click.echo()
    sys.exit(1 if refused else 0)


@click.command()
@click.argument("boards", nargs=-1)
@click.option("--out", default="published", show_default=True, metavar="DIR", help="Folder to publish into.")
@click.option(
    "--format",
    "formats",
    default="html,md,latex,plots",
    show_default=True,
    help="Of html, md, latex and plots, separated by commas.",
)
@click.option(
    "--readme", metavar="FILE", help="Refresh what stands between the markers of FILE, and nothing else of it."
)
@click.option(
    "--suite", "suites", multiple=True, metavar="SUITE", help="The boards of a suite, together; may be repeated."
)
@click.option("--jobs", type=COUNT, help="Boards at a time [as many as cores, at most 4].")
@reference_option
@results_option
@include_option
@json_option
def publish(boards: tuple[str, ...], out: str, formats: str, readme: str | None, as_json: bool, **options: Any) -> None:
    """Publish BOARDS (all without) as tables, plots and a site that opens from disk: DIR/index.html.

    \b
    equibench publish --out site
    equibench publish digits-rot-e20-common --format md,latex --out tables
    equibench publish --suite mnist-rot-gen-data --out site
    equibench publish --readme README.md

    Exit code 1: files among the records were refused; each is named on standard error, the others are published.
    """
    from ..tools.files import results_root

    include(options["includes"])
    root, target = results_root(options["results"]), Path(out)
    refused: list[Any] = []
    count = options["reference_parameters"]
    if readme:
        from ..publish.readme import refresh

        done, where = refresh(Path(readme), root, refused, count), readme
    else:
        from ..publish.publish import publish as write

        kinds = [f.strip() for f in formats.split(",") if f.strip()]
        done = write(root, target, boards, kinds, options["jobs"], refused, count, options["suites"])
        where = str(target / "index.html") if "html" in kinds else out
    _tell(refused)
    click.echo(json.dumps({"boards": done, "written": where}) if as_json else f"{where}  ({', '.join(done)})")
    sys.exit(1 if refused else 0)


@click.command()
@click.argument("run")
@click.option("--device", help="cpu or cuda:<i> [as recorded].")
@click.option("--threads", type=COUNT, help="CPU threads [as recorded].")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@results_option
@include_option
@json_option
def replay(run: str, as_json: bool, **options: Any) -> None:
    """Run a recorded RUN (the beginning of its id) again, and say whether it agrees.

    To the bit on a CPU with the same versions, processor and threads. Elsewhere to the bit, or within the interval in
    which one further run lies by the spread of the recorded seeds. Exit code 1: it does not agree. Boards keep the
    first attempt.
    """
    from ..runner.replay import replay as run_again
    from ..tools.files import results_root
    from ..tools.machine import Machine

    verdict = run_again(
        run,
        results_root(options["results"]),
        device=options["device"],
        threads=options["threads"],
        machine=Machine(data_root=options["data_root"], includes=options["includes"], command=command_line()),
    )
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
@click.option("--out", metavar="FILE.png", help="Of a data set: draw some images of each class.")
@click.option("--data-root", metavar="DIR", help="Folder of the data sets [$EQUIBENCH_DATA, else the user's cache].")
@results_option
@include_option
@json_option
def show(
    name: str, out: str | None, data_root: str | None, results: str | None, includes: tuple[str, ...], as_json: bool
) -> None:
    """What is known of a model, a data set, a suite, a board, a recipe, or a run (the beginning of its id).

    \b
    equibench show z2cnn-22
    equibench show digits-rot --out digits.png
    equibench show digits-25k                 a suite, with its models
    equibench show 3f2a                       a run
    """
    from ..reports.name_cards import kind_of
    from ..reports.run_card import run_card, run_text
    from ..tools.files import results_root
    from ..tools.text import terminal_width

    include(includes)
    root, width = results_root(results), terminal_width()
    run = run_card(name, results)
    kind = "run" if run else kind_of(name, root)
    if out is not None and kind != "data set":
        raise UserError(f"--out draws images of a data set, and {name!r} is a {kind}")
    document: dict[str, Any]
    text: Callable[[dict[str, Any]], str]
    if run:
        document, text = run, run_text
    elif kind == "model":
        from ..reports.model_card import card_text, model_card

        document, text = model_card(name, root), card_text
    elif kind == "data set":
        from ..reports.data_card import data_card, data_card_text

        document, text = data_card(name, results, data_root, out), data_card_text
    elif kind == "suite":
        from ..boards.families import find_points
        from ..reports.name_cards import suite_card, suite_text

        document, text = suite_card(find_points(name)), lambda _: suite_text(name, width)
    elif kind == "recipe":
        from ..reports.name_cards import recipe_rows, recipe_text

        document = {"recipes": [row for row in recipe_rows() if row["name"] == name]}
        text = lambda _: recipe_text(name, width)  # noqa: E731
    else:
        from ..boards.table import board_table
        from ..publish.view import select_boards

        (board,) = select_boards(root, name, None, None)
        document, text = board_document(board, root), lambda _: board_table(board, width=width)
    click.echo(json.dumps(document) if as_json else text(document))
