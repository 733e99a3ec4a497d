"""``equibench refresh``: repeat runs whose model, data or recipe has changed."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ...registry import include
from ..tools.files import results_root
from ..tools.text import listed, plural, terminal_width
from .options import common_options, machine_of, machine_options, models_option, seeds_in_parallel_option


@click.command()
@click.argument("board")
@models_option
@click.option("--dry-run", is_flag=True, help="Run nothing; only show which runs are stale.")
@machine_options
@seeds_in_parallel_option
@common_options
def refresh(board: str, as_json: bool, **options: Any) -> None:
    """Run only the stale rows of a BOARD again; old records stay.

    \b
    equibench refresh digits-rot-e10-common --dry-run
    equibench refresh digits-rot-e10-common --model 'pdo-*'

    A run is stale if its model, data or recipe has changed since. Changes of comments, docstrings and layout do not
    count. Exit code 1: some of these runs failed or are still stale.
    """
    from ..runner.refresh import refresh as run_again
    from .progress import listener_for

    include(options["includes"])
    done = run_again(
        board,
        results_root(options["results"]),
        patterns=options["models"],
        machine=machine_of(options),
        listener=listener_for(options["quiet"] or as_json),
        only_say=options["dry_run"],
    )
    if as_json:
        keys = ("model", "seed", "changed")
        rows = {"stale": done.stale, "left": [] if options["dry_run"] else done.left}
        ran = {run: {"status": status, "reason": reason} for run, (status, reason) in done.ran.items()}
        document = {key: [dict(zip(keys, row, strict=True)) for row in value] for key, value in rows.items()}
        click.echo(json.dumps({"board": done.board.name, **document, "ran": ran}))
    else:
        _say(done, options["dry_run"])
    sys.exit(1 if done.left and not options["dry_run"] else 0)


def _say(done: Any, only_stale: bool) -> None:
    from ..boards.terminal_table import board_table
    from ..records.staleness import is_known

    unknown = [model for model in done.board.runs if not is_known(model)]
    if unknown:
        what = f"not registered here, so it is unknown whether they are stale: {listed(unknown, 5)}"
        click.echo(f"{what}; give their files with --include", err=True)
    if not done.stale:
        click.echo(f"no run on {done.board.name}{' of a registered model' if unknown else ''} is stale")
        return
    for model, seed, why in done.stale if only_stale else ():
        click.echo(f"{model}  seed {seed}  {why} changed")
    if only_stale:
        click.echo(f"stale: {len(done.stale)} of {plural(len(done.board.chosen), 'run')} on {done.board.name}")
        return
    if done.board.is_table:
        click.echo(board_table(done.board, width=terminal_width()) + "\n")
    click.echo(f"{plural(len(done.ran), 'run')} repeated on {done.board.name}")
    for model, seed, why in done.left:
        click.echo(f"{model} seed {seed}: {why}", err=True)
